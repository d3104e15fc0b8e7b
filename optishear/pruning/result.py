"""What a recipe left of each layer: counts only, no weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from optishear.recipe.layout import ModelLayout


@dataclass(frozen=True)
class PruneResult:
    """How many weights each layer keeps, beside what the whole checkpoint holds.

    - `kept`: non-zero positions per layer.
    - `other_weights`: parameters outside the prunable layers (embeddings, norms, head).
    - `bytes_per_weight`: of the dtype that the checkpoint is stored in.
    """

    layout: ModelLayout
    kept: Mapping[str, int]
    other_weights: int
    bytes_per_weight: int

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that are gone."""
        return 1 - sum(self.kept.values()) / self.layout.total

    @property
    def bitmask_bytes(self) -> int:
        """The checkpoint with each pruned layer stored as its non-zeros plus one bit a weight,
        or dense where that is smaller."""
        layers = sum(
            min(kept * self.bytes_per_weight + size // 8, size * self.bytes_per_weight)
            for kept, size in zip(self.kept.values(), self.layout.sizes.values(), strict=True)
        )
        return layers + self.other_weights * self.bytes_per_weight
