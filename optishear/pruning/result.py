"""What a recipe left of each layer: counts only, no weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from optishear.pruning.solved import Stored
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.storage import Storage
from optishear.solvers.base import LayerSolution
from optishear.solvers.quadratic import HeldBackError


@dataclass(frozen=True)
class LayerReport:
    """What happened to one layer.

    - `cost`: of the change under the layer's quadratic, where the solver had one.
    - `damping`: relative, as it was used in the end; `notes` say why it was raised.
    - `tried`: the errors on held-back sequences by which it was chosen, if it was.
    - `taylor`: the loss that the change adds to second order, where it was asked for.
    """

    name: str
    size: int
    kept: int
    cost: float | None = None
    damping: float | None = None
    notes: tuple[str, ...] = ()
    taylor: float | None = None
    tried: tuple[HeldBackError, ...] = ()

    @classmethod
    def of(
        cls, layer: Layer, drop: int, solution: LayerSolution | Stored, taylor: float | None = None
    ) -> "LayerReport":
        """Solvers drop exactly so many: to count what is left would wait for a GPU."""
        return cls(
            layer.name,
            layer.size,
            layer.size - drop,
            solution.cost,
            solution.damping,
            solution.notes,
            taylor,
            solution.tried,
        )


@dataclass(frozen=True)
class PruneResult:
    """How many weights each layer keeps, and what else the checkpoint holds.

    - `kept`: non-zero positions per layer.
    - `taylor`: the layers' Taylor losses added up, where they were asked for.
    """

    layout: ModelLayout
    kept: Mapping[str, int]
    storage: Storage
    taylor: float | None = None

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that are gone."""
        return 1 - sum(self.kept.values()) / self.layout.total
