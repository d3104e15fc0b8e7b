"""One-shot pruning: every layer on its own, with statistics summed up before, as in a search."""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import ConfigError, NumericalError
from optishear.models.stored import STORED_AS_THEY_ARE, Dtypes
from optishear.models.weights import WorkingWeights
from optishear.pruning.biases import compensate
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.result import LayerReport
from optishear.pruning.solved import SolvedLayers, Stored
from optishear.pruning.taylor import TaylorLosses
from optishear.recipe.canonical import MASK
from optishear.recipe.layer_keys import layer_key, layer_keys
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerProblem, LayerSolution, Solver
from optishear.solvers.methods import solver_of


REPORTS = 2**16  # of single layers, a few numbers each, that are remembered

Solution = LayerSolution | Stored

# What `prune` does, in whatever order the layers are done.
PruneLayers = Callable[
    [Sequence[Layer], WorkingWeights, CalibrationData, Recipe],
    Generator[tuple[Layer, Solution], None, None],
]


@torch.no_grad()
def prune(
    layers: Sequence[Layer],
    working: WorkingWeights,
    data: CalibrationData,
    recipe: Recipe,
) -> Generator[tuple[Layer, LayerSolution], None, None]:
    """New weights layer by layer, written as they come, made of the dense ones.

    Raises `NumericalError` naming the layer that cannot be solved.
    """
    solvers = {parts: solver_of(parts) for parts in recipe.every}
    for layer in layers:
        weight, buffer = working.dense(layer.name), working.view(layer.name)
        near = buffer if buffer.device == weight.device else None  # else solved where it computes
        pose = partial(data.problem, layer, weight, recipe, near)
        solution = solve_layer(solvers[recipe.at(layer)], layer, pose)
        if solution.weight is not buffer:
            working.write(layer.name, solution.weight)
        yield layer, solution


def solve_layer(solver: Solver, layer: Layer, pose: Callable[[], LayerProblem]) -> LayerSolution:
    """The solver's answer to the problem, or a `NumericalError` that names the layer."""
    try:
        return solver.solve(pose())
    except NumericalError as error:
        raise NumericalError(f"{layer.name}: {error}") from None


class OneShot:
    """One recipe after the other in a model's working weights; no layer is done twice in a row.

    Nobody else may write to these weights meanwhile. A layer's solution depends on what the recipe
    says of this layer alone, so one that already holds what is asked for is left as it is.
    """

    def __init__(
        self,
        working: WorkingWeights,
        layout: ModelLayout,
        data: CalibrationData,
        taylor: TaylorLosses | None = None,
        solved: SolvedLayers | None = None,
    ) -> None:
        self.working, self.layout, self.data = working, layout, data
        self.taylor, self.solved = taylor, solved
        self._holds: dict[str, str] = {}  # layer -> key of what its working weight is
        self._reports: OrderedDict[str, LayerReport] = OrderedDict()

    def write(self, recipe: Recipe, first_block: int = 0) -> list[LayerReport]:
        """Makes the weights what the recipe says, at least from block `first_block` on.

        Layers before it are only solved where nothing is known of what would become of them.
        """
        refuse_one_shot(recipe, self.data.around)
        keys = layer_keys(recipe, self.layout.layers)
        wanted = [layer for layer in self.layout.layers if self._missing(layer, keys, first_block)]
        for layer in wanted:
            self._holds.pop(layer.name, None)  # half-written, if something fails
        for layer, solution in self._made(wanted, recipe, keys):
            key = keys[layer.name]
            compensate(layer, self.working, self.data, recipe, STORED_AS_THEY_ARE)
            self._holds[layer.name] = key
            drop, taylor = recipe.drop[layer.name], self._taylor(layer, key)
            self._reports[key] = LayerReport.of(layer, drop, solution, taylor)
        reports = [self._reports[keys[layer.name]] for layer in self.layout.layers]
        for layer in self.layout.layers:
            self._reports.move_to_end(keys[layer.name])
        while len(self._reports) > max(REPORTS, len(keys)):
            self._reports.popitem(last=False)
        return reports

    def made(self, layer: Layer, recipe: Recipe) -> Float[Tensor, "out in"]:
        """What the recipe makes of this layer, in a tensor of its own: nothing is written."""
        parts, dense = recipe.at(layer), self.working.dense(layer.name)
        key = layer_key(recipe, layer)
        solved = None if parts.solver == MASK else self.solved
        if solved is not None and (stored := solved.get(key)) is not None:
            weight = torch.empty_like(dense)
            stored.write_into(weight)
            return weight
        pose = partial(self.data.problem, layer, dense, recipe)
        solution = solve_layer(solver_of(parts), layer, pose)
        if solved is not None:
            solved.put(key, solution)
        return solution.weight

    def _made(
        self, layers: Sequence[Layer], recipe: Recipe, keys: Mapping[str, str]
    ) -> Iterator[tuple[Layer, LayerSolution | Stored]]:
        """These layers, written: copied where they are stored, solved and stored where not."""
        solved = self.solved
        masked = [x for x in layers if solved is None or recipe.at(x).solver == MASK]
        yield from prune(masked, self.working, self.data, recipe)  # sooner made than read
        for layer in layers:
            if solved is None or recipe.at(layer).solver == MASK:
                continue
            key = keys[layer.name]
            if (stored := solved.get(key)) is not None:
                stored.write_into(self.working.view(layer.name))
                yield layer, stored
                continue
            for _, solution in prune([layer], self.working, self.data, recipe):
                solved.put(key, solution)
                yield layer, solution

    def _missing(self, layer: Layer, keys: Mapping[str, str], first_block: int) -> bool:
        key = keys[layer.name]
        if key not in self._reports:
            return True
        return layer.block >= first_block and self._holds.get(layer.name) != key

    def _taylor(self, layer: Layer, key: str) -> float | None:
        if self.taylor is None:
            return None
        new, dense = self.working.view(layer.name), self.working.dense(layer.name)
        return self.taylor.of(layer.name, key, new, dense)


def block_keys(layout: ModelLayout, recipe: Recipe) -> list[str]:
    """For each decoder block a hash of all that its layers' weights are under this recipe."""
    keys = layer_keys(recipe, layout.layers)
    hashes = [sha256() for _ in range(layout.blocks)]
    for layer in layout.layers:
        hashes[layer.block].update(keys[layer.name].encode() + b"\n")
    return [digest.hexdigest()[:32] for digest in hashes]


def refuse_one_shot(recipe: Recipe, around: bool = False) -> None:
    """Raises a `ConfigError` for a recipe that says what one-shot pruning has no place for;
    `around`: with statistics of a model that is pruned already."""
    if said := recipe.only_by_block(around):
        raise ConfigError(
            f"The recipe has {' and '.join(said)}, which mean nothing where all layers are pruned "
            f"at once{'' if around else ', each reading what the dense model makes'}. Prune it "
            f"block by block."
        )


def apply(
    layers: Sequence[Layer],
    working: WorkingWeights,
    data: CalibrationData,
    recipe: Recipe,
    prune_layers: PruneLayers = prune,
    dtypes: Dtypes = STORED_AS_THEY_ARE,
) -> list[LayerReport]:
    """Writes one recipe's weights of these layers, and their biases, into the model's working
    weights. `dtypes`: by name, those in which biases are stored; none is that in which they are."""
    found = {}
    for layer, solution in prune_layers(layers, working, data, recipe):
        compensate(layer, working, data, recipe, dtypes)
        found[layer.name] = LayerReport.of(layer, recipe.drop[layer.name], solution)
    return [found[layer.name] for layer in layers]
