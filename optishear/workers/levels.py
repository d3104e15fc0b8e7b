"""Layers solved by replicas: the level database of a search, the dearest layers first."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from optishear.models.load import LoadedModel
from optishear.models.weights import read
from optishear.pruning.evidence import Evidence
from optishear.pruning.levels import Level, SolveAll, Solved, solved_level
from optishear.pruning.oneshot import solve_layer
from optishear.recipe.layer_keys import layer_keys
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerSolution
from optishear.solvers.methods import solver_of
from optishear.workers.cluster import Cluster
from optishear.workers.pool import Call
from optishear.workers.replica import Parcel, sent, travelling


@dataclass(frozen=True, eq=False)
class DenseLayers(Parcel):
    """A dense model and what calibration knows of it: enough to solve its layers on their own."""

    loaded: LoadedModel
    evidence: Evidence

    def begin(self, stack: ExitStack, device: str, notice: Callable[[str], None]) -> "DenseLayers":
        return DenseLayers(sent(self.loaded, device), self.evidence.to(device))

    def solve(self, layer: Layer, recipe: Recipe) -> LayerSolution:
        """From the dense weight. Raises `NumericalError` naming the layer."""
        weight = read(self.loaded.model, layer)
        problem = self.evidence.problem(layer, weight, recipe)
        return solve_layer(solver_of(recipe), layer, problem)

    def level(self, layer: Layer, recipe: Recipe) -> Solved:
        return solved_level(self.solve, layer, recipe)


def solving_on(cluster: Cluster, dense: DenseLayers) -> SolveAll:
    """Solves on the cluster's replicas, in whatever order they are done.

    The dearest levels are begun first, so that nobody waits for one at the end. Those of one input
    site go to one replica where it is free, which then factors their Hessian once.
    """

    def solve_all(levels: Sequence[Level]) -> Iterator[tuple[Level, Solved]]:
        asked = sorted(levels, key=lambda level: -_operations(level[0]))
        by_key = {layer_keys(recipe)[layer.name]: (layer, recipe) for layer, recipe in asked}
        calls = [
            Call(key, "level", level, f"a level of {level[0].name}", level[0].site)
            for key, level in by_key.items()
        ]
        with travelling(dense.loaded) as loaded:
            parcel = DenseLayers(loaded, dense.evidence.to("cpu"))
            with cluster.pool(parcel) as pool:
                for key, solved in pool.run(calls):
                    yield by_key[key], solved

    return solve_all


def _operations(layer: Layer) -> int:
    """What a solver's time grows with: a product of the weight with the Hessian."""
    return layer.out_features * layer.in_features**2
