"""Apply a recipe to every layer on its own, with statistics of the dense model."""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.calibration.statistics import LayerStats, stats_of
from optishear.errors import NumericalError
from optishear.models.weights import WorkingWeights
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerSolution
from optishear.solvers.methods import solver_of


@torch.no_grad()
def prune(
    layout: ModelLayout,
    dense: Callable[[Layer], Float[Tensor, "out in"]],
    stats: Mapping[str, LayerStats],
    recipe: Recipe,
) -> Iterator[tuple[Layer, LayerSolution]]:
    """New weights layer by layer, so that only one more layer than the model is in memory.

    `dense` reads a layer's weight; `stats` are by input site. Raises `NumericalError` naming the
    layer that cannot be solved.
    """
    solver, pattern = solver_of(recipe), recipe.pattern_object
    for layer in layout.layers:
        try:
            solution = solver.solve(
                dense(layer), recipe.drop[layer.name], pattern, stats_of(stats, layer)
            )
        except NumericalError as error:
            raise NumericalError(f"{layer.name}: {error}") from None
        yield layer, solution


def apply(
    working: WorkingWeights,
    layout: ModelLayout,
    stats: Mapping[str, LayerStats],
    recipe: Recipe,
) -> None:
    """Writes the recipe's weights into the model that lent them, made from its dense ones."""
    for layer, solution in prune(layout, lambda layer: working.dense(layer.name), stats, recipe):
        working.write(layer.name, solution.weight)
