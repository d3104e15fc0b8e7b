"""Building of a level database: what a space's recipes can ask for, one layer and level at once."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from optishear.errors import NumericalError
from optishear.pruning.solved import SolvedLayers, Stored
from optishear.recipe.layer_keys import layer_key
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerSolution


log = logging.getLogger(__name__)

Level = tuple[Layer, Recipe]  # what else the recipe says of other layers has no part in it
Solved = Stored | NumericalError  # the latter where the layer cannot be solved
SolveAll = Callable[[Sequence[Level]], Iterator[tuple[Level, Solved]]]  # as they are done


def missing(store: SolvedLayers, wanted: Iterable[Level]) -> list[Level]:
    """Those that the store lacks, each once, in their order."""
    by_key = {layer_key(recipe, layer): (layer, recipe) for layer, recipe in wanted}
    return [level for key, level in by_key.items() if key not in store]


def build(
    solve: SolveAll,
    store: SolvedLayers,
    wanted: Iterable[Level],
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[str, ...]:
    """Solves what the store lacks of `wanted` and stores each layer when it is done.

    A run that is killed loses what was being solved; the next one goes on where it was. `progress`
    is told (done, total, seconds) at the start and after each layer. Returns why layers could not
    be solved: recipes that ask for these will fail with the same sentence.
    """
    start, failed = time.monotonic(), []
    lacking = missing(store, wanted)
    if progress is not None:
        progress(0, len(lacking), 0.0)
    for done, ((layer, recipe), solved) in enumerate(solve(lacking), start=1):
        if isinstance(solved, NumericalError):
            log.warning("Level %d of %s: %s", recipe.drop[layer.name], layer.name, solved)
            failed.append(str(solved))
        else:
            store.put_stored(layer_key(recipe, layer), solved)
        if progress is not None:
            progress(done, len(lacking), time.monotonic() - start)
    return tuple(failed)


def level_by_level(solve: Callable[[Layer, Recipe], LayerSolution]) -> SolveAll:
    """Solves in this process, one after the other, in the order given."""

    def solve_all(levels: Sequence[Level]) -> Iterator[tuple[Level, Solved]]:
        for layer, recipe in levels:
            yield (layer, recipe), solved_level(solve, layer, recipe)

    return solve_all


def solved_level(
    solve: Callable[[Layer, Recipe], LayerSolution], layer: Layer, recipe: Recipe
) -> Solved:
    try:
        return Stored.of(layer.name, solve(layer, recipe))
    except NumericalError as error:
        return error
