"""How far layers' costs add up: recipes by the sum of their layers' curves, and as measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from optishear.recipe.recipe import Recipe
from optishear.records.journal import read_journal, recipe_of
from optishear.records.packed import is_there
from optishear.records.run_directory import RunDirectory
from optishear.report.measured_curves import MeasuredCurves
from optishear.report.style import Quantity
from optishear.search.finalists import LEAST, rank_correlation


@dataclass(frozen=True, eq=False)
class Additivity:
    """Recipes that the search has measured and that are pruned as the curves are, in order.

    - `predicted`, `measured`: of each recipe. Those that drop nothing are left out.
    - `tokens`: that they were measured on; curves are on fewer.
    - `others`: evaluations on as many tokens that are pruned otherwise.
    - `reason`: why there are none.
    """

    quantity: Quantity
    recipes: tuple[Recipe, ...] = ()
    predicted: Float[np.ndarray, " recipes"] = field(default_factory=lambda: np.zeros(0))
    measured: Float[np.ndarray, " recipes"] = field(default_factory=lambda: np.zeros(0))
    tokens: int = 0
    others: int = 0
    reason: str = ""

    @property
    def enough(self) -> bool:
        """Whether there are so many that ranks say something."""
        return len(self.recipes) >= LEAST

    @property
    def correlation(self) -> float | None:
        """Spearman's; None of too few, and where either side is the same for all."""
        if not self.enough:
            return None
        return rank_correlation(self.predicted.tolist(), self.measured.tolist())

    @property
    def ratio(self) -> float | None:
        """The median of measured / predicted, where the latter is positive."""
        positive = self.predicted > 0
        if not positive.any():
            return None
        return float(np.median(self.measured[positive] / self.predicted[positive]))

    @property
    def text(self) -> str:
        if self.reason:
            return f"How far costs add up is not known: {self.reason}"
        number = len(self.recipes)
        said = f"{number} recipe{'s' * (number > 1)} of the search, on {self.tokens:,} tokens"
        if self.others:
            said += f" ({self.others} more are pruned otherwise than the curves)"
        found = []
        if (correlation := self.correlation) is not None:
            found.append(f"rank correlation of the sum of curves and {self.quantity.name} "
                         f"{correlation:.2f}")  # fmt: skip
        if (ratio := self.ratio) is not None:
            found.append(f"measured / sum {ratio:.2f} (median)")
        return f"{said}: {', '.join(found) or 'no sum is positive'}."


def additivity(run: RunDirectory, curves: MeasuredCurves) -> Additivity:
    """Of all recipes on the run's highest rung whose metric, pattern, solver and all else but
    counts are the curves' own."""
    name = curves.objective

    def none(reason: str) -> Additivity:
        return Additivity(curves.quantity, reason=reason)

    if curves.missing:
        return none(f"{len(curves.missing)} layers have no curve yet, first {curves.missing[0]}.")
    header, entries, _ = read_journal(run.journal) if is_there(run.journal) else (None, [], 0)
    layers = list(curves.layout.sizes)
    if header is not None and header["layers"] != layers:
        return none(f"{run.journal.name} is of other layers.")
    told = [entry for entry in entries if name in (entry["values"] or {})]
    if not told:
        return none(f"no evaluation in {run.journal.name} has a value of {name}.")
    top = max(entry["rung"] for entry in told)
    rows = [(recipe_of(entry, layers), entry) for entry in told if entry["rung"] == top]
    rows = [(recipe, entry) for recipe, entry in rows if any(recipe.drop.values())]
    own = [(recipe, entry) for recipe, entry in rows if curves.same_parts(recipe)]
    if not own:
        return none(
            f"none of {len(rows)} recipes on {top:,} tokens has metric, pattern and solver of the "
            f"curves."
        )
    return Additivity(
        curves.quantity,
        tuple(recipe for recipe, _ in own),
        np.array([curves.curves.total(recipe.drop) for recipe, _ in own]),
        np.array([_value(entry, name) for _, entry in own]),
        top,
        len(rows) - len(own),
    )


def _value(entry: Mapping[str, Any], name: str) -> float:
    return float(entry["values"][name])
