"""Solves in advance what the recipes of a space can ask for, a layer and a level at a time."""

import logging
import time
from collections.abc import Callable, Iterable

from optishear.errors import NumericalError
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.layer_keys import layer_keys
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe
from optishear.solvers.base import LayerSolution


log = logging.getLogger(__name__)

Level = tuple[Layer, Recipe]  # the recipe drops weights of this layer only


def missing(store: SolvedLayers, wanted: Iterable[Level]) -> list[Level]:
    """Those that the store lacks, each once, in their order."""
    by_key = {layer_keys(recipe)[layer.name]: (layer, recipe) for layer, recipe in wanted}
    return [level for key, level in by_key.items() if key not in store]


def build(
    solve: Callable[[Layer, Recipe], LayerSolution],
    store: SolvedLayers,
    wanted: Iterable[Level],
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[str, ...]:
    """Solves what the store lacks of `wanted`, in its order, and stores each layer when it is done.

    A run that is killed loses one layer; the next one goes on where it was. `progress` is told
    (done, total, seconds) at the start and after each layer. Returns why layers could not be
    solved: recipes that ask for these will fail with the same sentence.
    """
    start, failed = time.monotonic(), []
    lacking = missing(store, wanted)
    for done, (layer, recipe) in enumerate(lacking):
        if progress is not None:
            progress(done, len(lacking), time.monotonic() - start)
        try:
            store.put(layer_keys(recipe)[layer.name], solve(layer, recipe))
        except NumericalError as error:
            log.warning("Level %d of %s: %s", recipe.drop[layer.name], layer.name, error)
            failed.append(str(error))
    if progress is not None:
        progress(len(lacking), len(lacking), time.monotonic() - start)
    return tuple(failed)
