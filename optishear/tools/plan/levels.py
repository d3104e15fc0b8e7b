"""The level database of a search that has not begun: how large it is, and what it lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optishear.pruning.levels import Level, missing
from optishear.pruning.solved import stored_bytes
from optishear.recipe.layer_keys import layer_key
from optishear.runs.levels import level_store, wanted_levels
from optishear.runs.setup import Setup


@dataclass(frozen=True)
class Levels:
    """Layers at levels: `wanted` in all, of which the cache lacked `lacking`.

    - `grid`: whether all are solved before the search begins; else as candidates come.
    - `itemsize`: of the model's dtype.
    """

    wanted: int
    lacking: tuple[Level, ...]
    bytes: int
    grid: bool
    itemsize: int

    @property
    def there(self) -> int:
        return self.wanted - len(self.lacking)

    @property
    def bytes_lacking(self) -> int:
        return bytes_of(self.lacking, self.itemsize)

    def to_json(self) -> dict[str, Any]:
        return {
            "wanted": self.wanted,
            "there": self.there,
            "bytes": self.bytes,
            "bytes_lacking": self.bytes_lacking,
            "before_the_search": self.grid,
        }


def planned_levels(setup: Setup) -> Levels | None:
    """None where the search has no level database."""
    wanted = wanted_levels(setup.experiment, setup.space)
    if not wanted:
        return None
    distinct = {layer_key(recipe, layer): (layer, recipe) for layer, recipe in wanted}
    itemsize = next(setup.calibrated.loaded.model.parameters()).element_size()
    return Levels(
        len(distinct),
        tuple(missing(level_store(setup.experiment, setup.calibrated), wanted)),
        bytes_of(list(distinct.values()), itemsize),
        setup.space.layers.bounds.steps is not None,
        itemsize,
    )


def bytes_of(levels: Sequence[Level], itemsize: int) -> int:
    """Of their files."""
    return sum(stored_bytes([layer], recipe.drop, itemsize) for layer, recipe in levels)
