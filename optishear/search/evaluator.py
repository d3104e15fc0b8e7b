"""The evaluator: recipes in, evaluations out, each as soon as it is known; none is paid twice."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
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


Outcome = dict[str, Any]
"""What the journal is told of a measured recipe: values or None, a reason, seconds; and its slopes,
in layout order, where these were asked for."""

MeasureOne = Callable[[Recipe, int], Mapping[str, float]]
"""A recipe and a rung in, {quantity: value} out."""

MeasureAll = Callable[[Sequence[Recipe], int], Iterator[tuple[str, Outcome]]]
"""Recipes and a rung in, (recipe key, outcome) out, as they are done."""

Counts = Mapping[str, tuple[int, int]]
"""By layer the fewer and the more weights dropped between which a slope is taken."""


class Measuring(ABC):
    """What measures candidates: this process, or workers."""

    @abstractmethod
    def __call__(self, recipes: Sequence[Recipe], rung: int) -> Iterator[tuple[str, Outcome]]:
        """A `MeasureAll`."""

    @abstractmethod
    def slopes(
        self, objective: str, asked: Sequence[tuple[Recipe, Counts]], rung: int
    ) -> Iterator[tuple[str, Outcome]]:
        """The slopes of an objective at each recipe, with its value there; d value / d sparsity of
        every layer, between these counts."""


class Evaluator:
    """Measures each recipe once a rung: asks its journal, then the memo, then `measure`.

    What the memo answers is copied into the journal, so that a run directory stands on its own.
    The journal is written here and nowhere else, each outcome before it is told.
    """

    def __init__(
        self,
        measure: MeasureAll,
        journal: Journal,
        memo: Mapping[Key, Mapping[str, Any]] | None = None,
    ):
        self.measure, self.journal = measure, journal
        self.memo = {} if memo is None else memo  # one that is empty may grow
        self.measured = 0  # by this process, not remembered

    def __call__(self, recipes: Sequence[Recipe], rung: int) -> Iterator[Evaluation]:
        """Each recipe's evaluation: first what is known, then the others as they are done."""
        unknown = {}
        for recipe in recipes:
            key = (recipe.key, rung)
            if (entry := self.journal.entries.get(key)) is not None:
                yield _evaluation(recipe, rung, entry)
            elif (known := self.memo.get(key)) is not None:
                yield _evaluation(
                    recipe, rung, self.journal.append(recipe, rung, remembered(known))
                )
            else:
                unknown[recipe.key] = recipe
        for key, outcome in self.measure(list(unknown.values()), rung):
            self.measured += 1
            recipe = unknown[key]
            yield _evaluation(recipe, rung, self.journal.append(recipe, rung, outcome))


def one_by_one(measure: MeasureOne) -> MeasureAll:
    """Measures in this process, one recipe after the other."""

    def measure_all(recipes: Sequence[Recipe], rung: int) -> Iterator[tuple[str, Outcome]]:
        for recipe in recipes:
            yield recipe.key, outcome_of(measure, recipe, rung)

    return measure_all


def outcome_of(measure: MeasureOne, recipe: Recipe, rung: int) -> Outcome:
    """Only `NumericalError` and values that are not finite are failures of a recipe. Anything
    else (out of memory, a bug) is no property of it: it is raised, and not recorded."""

    def values() -> Outcome:
        found = {name: float(value) for name, value in measure(recipe, rung).items()}
        if bad := [f"{n} = {v}" for n, v in found.items() if not math.isfinite(v)]:
            raise NumericalError(f"not finite: {', '.join(bad)}")
        return {"values": found}

    return tried(values)


def tried(measure: Callable[[], Outcome]) -> Outcome:
    """What it found, or the reason of a `NumericalError`; and the seconds that it took."""
    started = time.monotonic()
    try:
        found = {**measure(), "reason": ""}
    except NumericalError as error:
        found = {"values": None, "reason": str(error) or "no reason given"}
    return {**found, "seconds": round(time.monotonic() - started, 4)}


def _evaluation(recipe: Recipe, rung: int, entry: Mapping[str, Any]) -> Evaluation:
    remembered = entry.get("memo", False)
    return Evaluation(recipe, rung, entry["values"], entry["reason"], entry["seconds"], remembered)


def remembered(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What another run's journal says, as this one's is told it: at no cost."""
    slopes = {"slopes": entry["slopes"]} if "slopes" in entry else {}
    said = {"values": entry["values"], "reason": entry["reason"], **slopes}
    return {**said, "seconds": 0.0, "memo": True}


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
