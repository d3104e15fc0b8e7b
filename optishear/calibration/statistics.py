"""What a layer saw during calibration, as sums: merging two shards is `+`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.recipe.layout import Layer


class Need(Enum):
    """A statistic that a metric or solver asks calibration to collect."""

    INPUT_SQ = "input_sq"
    GRAM = "gram"
    GRADIENTS = "gradients"  # per sequence, kept apart from `LayerStats`: they are far larger


@dataclass(frozen=True, eq=False)
class LayerStats:
    """Sums over calibration tokens at one layer input. Divide only when reading.

    - `tokens`: how many tokens this input saw; for an expert, those routed to it.
    - `sequences`: how many sequences calibration ran; for an expert too, all of them.
    - `input_sq`: sum over tokens of x_j**2, fp32. Under MOONSHOT, whose quadratic differs from row
      to row, a metric is handed one with a row for each output.
    - `gram`: sum over tokens of x x^T, fp32; only where a `Need` asks for it.
    - `gradients`: of one layer's weight, where it was collected; no sum, and so not merged.
    """

    tokens: int
    sequences: int
    input_sq: Float[Tensor, "*out in"]
    gram: Float[Tensor, "in in"] | None = None
    gradients: LayerGradients | None = None

    def __add__(self, other: "LayerStats") -> "LayerStats":
        if (self.gram is None) != (other.gram is None):
            raise ValueError("Cannot merge statistics with and without a Gram matrix.")
        if self.input_sq.shape != other.input_sq.shape:  # `+` would broadcast
            raise ValueError(
                f"Cannot merge statistics of {len(self.input_sq)} and "
                f"{len(other.input_sq)} input features: they belong to different layers."
            )
        gram = None if self.gram is None or other.gram is None else self.gram + other.gram
        return LayerStats(
            self.tokens + other.tokens,
            self.sequences + other.sequences,
            self.input_sq + other.input_sq,
            gram,
        )

    def to(self, device: torch.device | str) -> "LayerStats":
        """The same sums there; gradients stay where they are."""
        gram = None if self.gram is None else self.gram.to(device)
        return replace(self, input_sq=self.input_sq.to(device), gram=gram)

    @property
    def input_norm(self) -> Float[Tensor, "*out in"]:
        """Root mean square of each input feature over the tokens that were seen."""
        return (self.input_sq / self.tokens).sqrt()

    @property
    def sequence_sq(self) -> Float[Tensor, "*out in"]:
        """OptiShear's X: the squared norm over a sequence's tokens, averaged over sequences."""
        return self.input_sq / self.sequences


def stats_of(stats: Mapping[str, LayerStats], layer: Layer) -> LayerStats:
    """The statistics of a layer: those of its input site, which `collect` keys them by."""
    return stats[layer.site]


def unread(layers: Iterable[Layer]) -> dict[str, LayerStats]:
    """Statistics for those who read none: nan, so that nobody reads them unnoticed."""
    return {
        layer.site: LayerStats(0, 0, torch.full((layer.in_features,), torch.nan))
        for layer in layers
    }
