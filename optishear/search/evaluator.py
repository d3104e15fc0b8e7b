"""Recipes in, evaluations out, in the same order. Knows what was already paid for."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optishear.errors import NumericalError
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal, Key


@dataclass(frozen=True)
class Evaluation:
    """What became of one recipe. A failure is a value with its reason, not an exception.

    - `values`: {quantity: value}, all finite; None where the recipe failed.
    - `rung`: search tokens that it was measured on; only values of one rung are comparable.
    - `seconds`: what the measuring took; 0 where the value came from another run's journal.
    - `remembered`: whether it did.
    """

    recipe: Recipe
    rung: int
    values: Mapping[str, float] | None
    reason: str = ""
    seconds: float = 0.0
    remembered: bool = False

    @property
    def failed(self) -> bool:
        return self.values is None


class Evaluator:
    """Measures each recipe once a rung: asks its journal, then the memo, then the measure.

    What the memo answers is copied into the journal, so that a run directory stands on its own.
    """

    def __init__(
        self,
        measure: Callable[[Recipe, int], Mapping[str, float]],
        journal: Journal,
        memo: Mapping[Key, Mapping[str, Any]] | None = None,
    ):
        self.measure, self.journal, self.memo = measure, journal, memo or {}
        self.measured = 0  # by this process, not remembered

    def __call__(self, recipe: Recipe, rung: int) -> Evaluation:
        key = (recipe.key, rung)
        entry = self.journal.entries.get(key)
        if entry is None:
            known = self.memo.get(key)
            outcome = self._measure(recipe, rung) if known is None else _remembered(known)
            entry = self.journal.append(recipe, rung, outcome)
        remembered = entry.get("memo", False)
        return Evaluation(
            recipe, rung, entry["values"], entry["reason"], entry["seconds"], remembered
        )

    def _measure(self, recipe: Recipe, rung: int) -> dict[str, Any]:
        """Only `NumericalError` and values that are not finite are failures of a recipe. Anything
        else (out of memory, a bug) is no property of it: it stops the run and is not recorded."""
        started, values, reason = time.monotonic(), None, ""
        try:
            values = {name: float(value) for name, value in self.measure(recipe, rung).items()}
            if bad := [f"{n} = {v}" for n, v in values.items() if not math.isfinite(v)]:
                values, reason = None, f"not finite: {', '.join(bad)}"
        except NumericalError as error:
            reason = str(error)
        self.measured += 1
        seconds = round(time.monotonic() - started, 4)
        return {"values": values, "reason": reason, "seconds": seconds}


def _remembered(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"values": entry["values"], "reason": entry["reason"], "seconds": 0.0, "memo": True}


def minimised(
    evaluations: Sequence[Evaluation | None], objectives: Sequence[str], maximise: Sequence[bool]
) -> list[tuple[float, ...] | None]:
    """The objective values as drivers want them: all to be minimised; None for a failure, and for
    what was not evaluated."""
    signs = [-1.0 if up else 1.0 for up in maximise]
    return [
        None
        if evaluation is None or evaluation.values is None
        else tuple(s * evaluation.values[name] for s, name in zip(signs, objectives, strict=True))
        for evaluation in evaluations
    ]
