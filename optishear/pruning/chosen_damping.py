"""The damping of one layer, chosen by what calibration held back from it."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.calibration.held_back import without_held_back
from optishear.calibration.statistics import Cross, HeldBackCross, HeldBackGram, LayerStats
from optishear.pruning.factored import Factored
from optishear.recipe.layout import Layer
from optishear.recipe.parts import Parts
from optishear.solvers.base import LayerProblem
from optishear.solvers.damping import HeldBack, few_rows, try_dampings
from optishear.solvers.methods import solver_of
from optishear.solvers.moonshot import reconstruction
from optishear.solvers.quadratic import HeldBackError
from optishear.solvers.target import shifted


@torch.no_grad()
def tried_dampings(
    layer: Layer,
    weight: Float[Tensor, "out in"],
    stats: LayerStats,
    parts: Parts,
    drop: int,
    given: Bool[Tensor, "out in"] | None,
    trials: Factored,
) -> tuple[HeldBackError, ...]:
    """What every damping of the grid does to some rows of this layer, pruned by its own `parts`.

    `trials`: keeps what is factored of the sequences that were not held back, for the layers of one
    site share it.
    """
    rows, fewer = few_rows(layer.name, (weight.shape[0], weight.shape[1]), drop, parts.pattern)
    rows = rows.to(weight.device)
    dense, shift = weight[rows], parts.quadratic.target_shift
    seen = without_held_back(stats)
    moved = stats.per_token(HeldBackCross) if shift else None

    def pose(damping: float) -> LayerProblem:
        make = partial(reconstruction, seen, damping)
        quadratic = trials.get((layer.site, damping, 0), layer.in_features, make)
        problem = LayerProblem(
            dense,
            fewer,
            parts.pattern,
            lambda: seen,
            lambda: quadratic,
            None if given is None else given[rows],
        )
        return shifted(problem, seen.per_token(Cross), shift) if shift else problem

    held_back = HeldBack(dense, stats.per_token(HeldBackGram), moved, shift)
    return try_dampings(solver_of(parts), pose, held_back)
