"""Layers solved by replicas, the dearest first: a search's level database, or a final prune."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import NumericalError
from optishear.models.weights import WorkingWeights
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.levels import Level, SolveAll, Solved, solved_level
from optishear.pruning.oneshot import PruneLayers, prune, solve_layer
from optishear.pruning.solved import Stored
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerSolution
from optishear.solvers.methods import solver_of
from optishear.workers.cluster import Cluster, Workers, cluster
from optishear.workers.pool import Call
from optishear.workers.replica import Payload


@dataclass(frozen=True, eq=False)
class DenseLayers(Payload):
    """Dense weights by layer, and what calibration knows of them: enough to solve each alone."""

    weights: Mapping[str, Float[Tensor, "_out _in"]]
    data: CalibrationData

    def to(self, device: torch.device | str) -> "DenseLayers":
        weights = {name: weight.to(device) for name, weight in self.weights.items()}
        return DenseLayers(weights, self.data.to(device))

    def begin(self, stack: ExitStack, device: str, notice: Callable[[str], None]) -> "DenseLayers":
        return self.to(device)

    def solve(self, layer: Layer, recipe: Recipe) -> LayerSolution:
        """From the dense weight. Raises `NumericalError` naming the layer."""
        pose = partial(self.data.problem, layer, self.weights[layer.name], recipe)
        return solve_layer(solver_of(recipe.at(layer)), layer, pose)

    def level(self, layer: Layer, recipe: Recipe) -> Solved:
        return solved_level(self.solve, layer, recipe)


def solving_on(cluster: Cluster, dense: DenseLayers) -> SolveAll:
    """Solves on the cluster's replicas, in whatever order they are done."""
    return partial(_solved_on, cluster, dense)


def _solved_on(
    cluster: Cluster, dense: DenseLayers, levels: Sequence[Level]
) -> Generator[tuple[Level, Solved], None, None]:
    """The dearest layers are begun first, so that nobody waits for one at the end, and with each
    the others of its input site: those go to one replica where it is free, one after the other,
    which then factors their Hessian once."""
    if not levels:
        return
    dearest: dict[str, int] = {}
    for layer, _ in levels:
        dearest[layer.site] = max(_operations(layer), dearest.get(layer.site, 0))
    asked = sorted(levels, key=lambda level: (-dearest[level[0].site], level[0].site))
    calls = [
        Call(str(number), "level", level, f"layer {level[0].name}", level[0].site)
        for number, level in enumerate(asked)
    ]
    with cluster.pool(dense.to("cpu")) as pool:
        for key, solved in pool.run(calls):
            yield asked[int(key)], solved


def pruning_on(cluster: Cluster) -> PruneLayers:
    """Stands in the place of `pruning.oneshot.prune`: replicas solve, this process writes.

    Dense weights and statistics of the layers of a call are sent with it: of all layers, or block
    by block of one block's. A layer that cannot be solved ends it; of several, the first that is
    found.
    """

    def prune_layers(
        layers: Sequence[Layer], working: WorkingWeights, data: CalibrationData, recipe: Recipe
    ) -> Generator[tuple[Layer, Stored], None, None]:
        weights = {layer.name: working.dense(layer.name) for layer in layers}
        dense = DenseLayers(weights, data.only(layers))
        # Closed here, and not when an error's traceback is let go of: Ray may have ended by then.
        with closing(_solved_on(cluster, dense, [(layer, recipe) for layer in layers])) as done:
            for (layer, _), solved in done:
                if isinstance(solved, NumericalError):
                    raise solved
                solved.write_into(working.view(layer.name))
                yield layer, solved

    return prune_layers


@contextmanager
def pruning_with(workers: Workers, notice: Callable[[str], None]) -> Iterator[PruneLayers]:
    """What prunes layers while it is open: this process, or workers if there are several."""
    with cluster(workers, notice) as running:
        yield prune if running is None else pruning_on(running)


def _operations(layer: Layer) -> int:
    """What a solver's time grows with: a product of the weight with the Hessian."""
    return layer.out_features * layer.in_features**2
