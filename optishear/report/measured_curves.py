"""The curves of single layers that a run has measured, read from its `curves.jsonl`. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.records.journal import read_journal, recipe_of
from optishear.records.packed import is_there
from optishear.records.run_directory import RunDirectory
from optishear.records.run_files import layout_of_run
from optishear.report.style import Quantity
from optishear.search.curves import Curves, curves_of


MEND = "Restore the file, or move it away: the same `optishear search` then measures them anew."
# A journal says no unit. `tests/report` holds these against the objectives' own.
UNITS = {
    "kl": "nats/token",
    "kl_top": "nats/token",
    "reconstruction": "‖Δ logits‖_F",
    "perplexity": "perplexity (search text)",
}


@dataclass(frozen=True, eq=False)
class MeasuredCurves:
    """What each layer costs alone, and on what that was measured.

    - `objective`, `tokens`: the quantity, and the search tokens that it was measured on.
    - `recipe`: how the layer that is pruned is pruned; its counts say nothing.
    - `failed`: measurements without a value.
    """

    curves: Curves
    objective: str
    tokens: int
    recipe: Recipe
    layout: ModelLayout
    failed: int

    @property
    def quantity(self) -> Quantity:
        unit = UNITS.get(self.objective.partition("@")[0], "")
        return Quantity(self.objective, unit, False)

    @property
    def missing(self) -> list[str]:
        """Layers without a point: of a search that was stopped, or where all have failed."""
        return [name for name in self.layout.sizes if name not in self.curves.points]

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """Sparsities to show values under: those of the layers with most points, in the mean."""
        rows = [self.sparsities(self.layout.by_name[name]) for name in self.curves.points]
        most = max(map(len, rows))
        return tuple(np.mean([row for row in rows if len(row) == most], axis=0).tolist())

    def sparsities(self, layer: Layer) -> list[float]:
        """At which the layer was measured."""
        return [count / layer.size for count, _ in self.curves.points.get(layer.name, ())]

    def at_levels(self, layer: Layer) -> list[float | None]:
        """What was measured of the layer nearest to each level, if that is its nearest level."""
        levels = np.array(self.levels)
        found: dict[int, tuple[float, float]] = {}  # by level: how far from it, and the value
        for count, value in self.curves.points.get(layer.name, ()):
            away = np.abs(levels - count / layer.size)
            level = int(away.argmin())
            found[level] = min(found.get(level, (np.inf, 0.0)), (float(away[level]), value))
        return [found[level][1] if level in found else None for level in range(len(levels))]

    def same_parts(self, recipe: Recipe) -> bool:
        """Whether this recipe prunes each layer as the curves' does, but for how much of it."""
        return replace(recipe, drop={}) == replace(self.recipe, drop={})


def read_curves(run: RunDirectory) -> MeasuredCurves | None:
    """None where the run has measured none; a `ConfigError` for what is no journal of curves."""
    if not is_there(run.curves):
        return None
    header, entries, _ = read_journal(run.curves)
    good = [entry for entry in entries if entry["values"] is not None]
    if header is None or not good:
        return None
    layout, layers = layout_of_run(run), header["layers"]
    quantities = header["measure"].get("quantities", [])
    recipe = recipe_of(good[0], layers)
    try:
        if layers != list(layout.sizes):
            raise ConfigError(f"is of other layers than {run.layout.name} names.")
        if len(quantities) != 1:
            raise ConfigError(f"curves are of one quantity, and here are {quantities}.")
        curves = curves_of(entries, layers, quantities[0])
        _refuse_several(entries, layers)
        highest = {name: points[-1][0] for name, points in curves.points.items()}
        recipe.with_drop({**dict.fromkeys(layers, 0), **highest}).check(layout)
    except ConfigError as error:
        raise ConfigError(f"{run.curves}: {error} {MEND}") from None
    failed = len(entries) - len(good)
    return MeasuredCurves(curves, quantities[0], good[0]["rung"], recipe, layout, failed)


def _refuse_several(entries: Sequence[Mapping[str, Any]], layers: Sequence[str]) -> None:
    """A `ConfigError` where values cannot be compared: another rung, or pruned otherwise."""
    if len({entry["rung"] for entry in entries}) > 1:
        raise ConfigError("was measured on several numbers of tokens.")
    if len({replace(recipe_of(entry, layers), drop={}).key for entry in entries}) > 1:
        raise ConfigError("holds recipes that differ in more than what a layer loses.")
