"""Knapsack search without a budget: answers to many budgets, denser where the front has gaps.

Importing this module imports pymoo, as `knapsack_driver` does.
"""

import heapq
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from optishear.search.driver import Driver, DriverSettings, Genomes, Values, checked
from optishear.search.knapsack import table_of
from optishear.search.knapsack_driver import NOISE, TRIES, WIDENING, Answers


class FrontKnapsack(Driver):
    """The knapsack's answers to ever more budgets, all from one table. Ours.

    The first generation is the initial genomes, then the answers to evenly spread budgets, from the
    least to the most that can be dropped. Later ones halve the largest gaps between neighbouring
    budgets, seen in the objectives. Where no gap can be halved any more, answers to any budget and
    curves multiplied by exp(noise) follow, with the other genes mutated. No genome is asked for
    twice; a generation ends early where `TRIES` in a row find nothing new.
    """

    def __init__(self, settings: DriverSettings) -> None:
        self._settings, self._answers = settings, Answers(settings)
        self._table = table_of(self._answers.curves, None, self._answers.states)
        self._totals = apart(self._table.totals, self._table.slack)
        self._rng = np.random.default_rng(settings.seed)
        self._asked: set[bytes] = set()
        self._known: dict[int, Values] = {}  # by place among the table's totals
        self._infills: list[int | None] = []  # their places; None for other genomes

    def ask(self) -> Genomes:
        size = self._settings.population
        new: dict[bytes, tuple[np.ndarray, int | None]] = {}
        if not self._asked:
            new = {row.tobytes(): (row, None) for row in self._settings.seeds}
        while len(new) < size:
            places = self._places(size - len(new))
            if not places:
                break
            for place in places:
                row = self._answer(place)
                self._known[place] = None
                if row.tobytes() not in self._asked:  # initial genomes may be answers
                    new.setdefault(row.tobytes(), (row, place))
        misses = 0
        while len(new) < size and misses < TRIES:
            row = self._child(NOISE * (1 + misses / WIDENING))
            misses += 1
            if row.tobytes() not in self._asked and row.tobytes() not in new:
                new[row.tobytes()], misses = (row, None), 0
        self._asked.update(new)
        self._infills = [place for _, place in new.values()]
        rows = [row for row, _ in new.values()]
        return np.array(rows).reshape(len(rows), len(self._settings.genes))

    def tell(self, values: Sequence[Values]) -> None:
        told = checked(values, len(self._infills), self._settings.objectives)
        infills, self._infills = self._infills, []
        for place, value in zip(infills, told, strict=True):
            if place is not None:
                self._known[place] = value

    def _places(self, count: int) -> list[int]:
        """So many new places, or as many as there are: spread evenly as long as there are no two
        to lie between."""
        totals = self._totals
        if len(self._known) < 2:
            budgets = np.linspace(totals[0], totals[-1], count)
            spread = np.searchsorted(totals, np.round(budgets), side="right") - 1
            return [place for place in np.unique(spread).tolist() if place not in self._known]
        known = np.array(sorted(self._known))
        told = [self._known[place] for place in known.tolist()]
        return halved(known, seen(totals[known], told), totals, count)

    def _answer(self, place: int) -> Float[np.ndarray, " genes"]:
        choice = self._table.choice(int(self._totals[place]))
        assert choice is not None  # the total can be reached
        return self._answers.genome(choice, self._answers.start)

    def _child(self, noise: float) -> Float[np.ndarray, " genes"]:
        budget = int(self._rng.choice(self._totals))
        logs = noise * self._rng.standard_normal(len(self._answers.curves))
        return self._answers.child(self._answers.start, logs, budget, self._rng)


def apart(totals: Int[np.ndarray, " reachable"], slack: int) -> Int[np.ndarray, " reachable"]:
    """Of totals so close that one answer serves several, one each `slack`, and the last."""
    if not slack:
        return totals
    budgets = np.arange(totals[-1], totals[0] - 1, -slack)[::-1]
    return totals[np.unique(np.searchsorted(totals, [totals[0], *budgets], side="right") - 1)]


def seen(
    totals: Int[np.ndarray, " places"], told: Sequence[Values]
) -> Float[np.ndarray, "places k"]:
    """Where these places lie in the objectives, each of which runs from 0 to 1 over them.

    What failed or was not told lies between its neighbours, as its total does. Where nothing was
    told, all that is seen are the totals.
    """
    real = np.array([value is not None for value in told])
    if not real.any():
        return ((totals - totals[0]) / max(int(totals[-1] - totals[0]), 1))[:, None]
    values = np.array([value for value in told if value is not None], dtype=np.float64)
    size = np.abs(values).max(axis=0)
    values = values / np.where(size > 0, size, 1.0)  # first, since a range may overflow
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    values = (values - low) / np.where(span > 0, span, 1.0)
    return np.stack([np.interp(totals, totals[real], column) for column in values.T], axis=1)


def halved(
    known: Int[np.ndarray, " places"],
    where: Float[np.ndarray, "places k"],
    totals: Int[np.ndarray, " reachable"],
    count: int,
) -> list[int]:
    """Up to `count` new places, each next to the middle total of the largest gap left between
    neighbours; its halves count as half as large. Ties go to the gap of more totals, then to the
    lower one."""
    sizes = np.linalg.norm(np.diff(where, axis=0), axis=1).tolist()
    neighbours = pairwise(known.tolist())
    gaps = [(-size, low - high, low, high) for size, (low, high) in zip(sizes, neighbours)]
    heapq.heapify(gaps)
    found: list[int] = []
    while gaps and len(found) < count:
        size, _, low, high = heapq.heappop(gaps)
        if high - low < 2:
            continue
        middle = int(np.searchsorted(totals, (int(totals[low]) + int(totals[high])) // 2))
        middle = min(max(middle, low + 1), high - 1)
        found.append(middle)
        for left, right in ((low, middle), (middle, high)):
            heapq.heappush(gaps, (size / 2, left - right, left, right))
    return found
