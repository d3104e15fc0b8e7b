"""Times of solving, from one layer of each shape: the rest of them are as large."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optishear.pruning.levels import Level
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe


Kind = tuple[Any, ...]  # layers and recipes of one kind take as long


@dataclass(frozen=True)
class LayerTime:
    """Seconds of one layer: `solving` it, and before that `factoring`, once an input site."""

    solving: float
    factoring: float


@dataclass(frozen=True)
class LayerTimes:
    """Solves one layer of each kind, twice, when its time is first asked for.

    `solve`: does it; from the second time on an input site's Hessian is factored already.
    """

    solve: Callable[[Layer, Recipe], Any]
    clock: Callable[[], float] = time.monotonic
    found: dict[Kind, LayerTime] = field(default_factory=dict)

    def of(self, layer: Layer, recipe: Recipe) -> LayerTime:
        kind = kind_of(layer, recipe)
        if kind not in self.found:
            first, second = self._seconds(layer, recipe), self._seconds(layer, recipe)
            self.found[kind] = LayerTime(second, max(0.0, first - second))
        return self.found[kind]

    def all_of(self, levels: Iterable[Level], factored: bool = False) -> float:
        """Seconds of these layers at these levels; `factored`: no site's Hessian is to be made."""
        total, sites = 0.0, set()
        for layer, recipe in levels:
            time_of = self.of(layer, recipe)
            total += time_of.solving
            site = (layer.site, recipe.at(layer).quadratic.damping)
            if site not in sites and not factored:
                total += time_of.factoring
            sites.add(site)
        return total

    def of_recipe(self, recipe: Recipe, layers: Mapping[str, Layer], factored: bool) -> float:
        """Seconds of the whole model."""
        return self.all_of(((layers[name], recipe) for name in recipe.drop), factored)

    def _seconds(self, layer: Layer, recipe: Recipe) -> float:
        start = self.clock()
        self.solve(layer, recipe)
        return self.clock() - start


def kind_of(layer: Layer, recipe: Recipe) -> Kind:
    """Shape, metric's name, solver, pattern, and whether the Taylor loss is mixed in."""
    parts = recipe.at(layer)
    return (
        (layer.out_features, layer.in_features),
        parts.metric.name,
        parts.solver,
        parts.pattern,
        recipe.lambda_of(layer) == 1,
    )
