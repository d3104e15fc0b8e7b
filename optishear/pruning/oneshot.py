"""Apply a recipe to every layer on its own, with statistics of the dense model."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import NumericalError
from optishear.models.weights import WorkingWeights
from optishear.pruning.evidence import Evidence
from optishear.pruning.result import LayerReport
from optishear.pruning.taylor import TaylorLosses
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerSolution
from optishear.solvers.methods import solver_of


@torch.no_grad()
def prune(
    layers: Sequence[Layer],
    dense: Callable[[Layer], Float[Tensor, "out in"]],
    evidence: Evidence,
    recipe: Recipe,
) -> Iterator[tuple[Layer, LayerSolution]]:
    """New weights layer by layer, so that only one more layer than the model is in memory.

    `dense` reads a layer's weight. Raises `NumericalError` naming the layer that cannot be solved.
    """
    solver = solver_of(recipe)
    for layer in layers:
        try:
            solution = solver.solve(evidence.problem(layer, dense(layer), recipe))
        except NumericalError as error:
            raise NumericalError(f"{layer.name}: {error}") from None
        yield layer, solution


def apply(
    working: WorkingWeights,
    layout: ModelLayout,
    evidence: Evidence,
    recipe: Recipe,
    taylor: TaylorLosses | None = None,
) -> list[LayerReport]:
    """Writes the recipe's weights into the model that lent them, made from its dense ones.

    With `taylor` each layer's report has the Taylor loss of its change.
    """
    reports = []
    for layer, solution in prune(layout.layers, working.dense_of, evidence, recipe):
        working.write(layer.name, solution.weight)
        loss = None
        if taylor is not None:
            loss = taylor.of(layer, recipe, solution.weight, working.dense(layer.name))
        reports.append(LayerReport.of(layer, solution, loss))
    return reports
