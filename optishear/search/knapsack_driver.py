"""Knapsack search: the best split of a budget if layers' costs added up, and answers near it.

Importing this module imports pymoo, whose mutation serves the genes without curves; `drivers` does
so when such a driver is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from optishear.errors import ConfigError
from optishear.search.driver import Driver, DriverSettings, Genomes, Values, checked
from optishear.search.knapsack import MOST_STATES, states_of, table_of
from optishear.search.operators import gene_table, mutated


NOISE = 0.25  # of the log of each curve's multiplier
COOLING = 0.98  # of the noise, a generation: halved after 34
TRIES = 32  # in a row in search of a genome that was not asked for before
WIDENING = 8.0  # tries in vain after which the noise is twice as large: small spaces repeat often
WORK = 2**29  # additions of an exact table, about a second; with more its unit is coarsened
COARSE = 2**15  # states then: on SmolLM2's 210 layers 0.02 % above the least cost, in 0.3 s


class Answers:
    """Genomes whose genes with curves are what a knapsack answers.

    - `curves`: of the genes that have one.
    - `states`: how many a table of these may have: all, or `COARSE` where these were too many.
    - `start`: the first initial genome, or the middle of all genes.
    """

    def __init__(self, settings: DriverSettings) -> None:
        own = {g: curve for g, curve in enumerate(settings.curves or ()) if curve is not None}
        if not own:
            raise ConfigError(
                "The knapsack driver needs curves of what layers cost alone, but no gene of the "
                "search space has one. Use sparsity.by 'block' or 'layer' with curves measured, "
                "or another driver."
            )
        self.curves = tuple(own.values())
        exact = states_of(self.curves, settings.budget)
        options = sum(len(curve.codes) for curve in self.curves)
        self.states = exact if exact <= min(WORK // options, MOST_STATES) else COARSE
        self._genes = np.array(list(own))
        self._table = gene_table(settings.genes)
        middle = self._table.clean(((self._table.low + self._table.high) / 2)[None])
        self.start: Float[np.ndarray, " genes"] = np.concatenate([settings.seeds, middle])[0]
        self._rest = np.setdiff1d(np.flatnonzero(self._table.free), self._genes)
        self._rest_table = gene_table([settings.genes[index] for index in self._rest])
        given, one_of_all = settings.mutation_prob, 1.0 / max(int(self._table.free.sum()), 1)
        self._prob = one_of_all if given is None else given
        self._eta = settings.mutation_eta

    def genome(
        self, choice: Sequence[int], rest: Float[np.ndarray, " genes"]
    ) -> Float[np.ndarray, " genes"]:
        """The chosen options, and the other genes of `rest`."""
        row = rest.copy()
        codes = [curve.codes[option] for curve, option in zip(self.curves, choice, strict=True)]
        row[self._genes] = codes
        return self._table.clean(row[None])[0]

    def child(
        self,
        rest: Float[np.ndarray, " genes"],
        logs: Float[np.ndarray, " curves"],
        budget: int,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, " genes"]:
        """The answer with each curve multiplied by exp(log), and the other genes of `rest`, each
        mutated with a probability of one over all genes."""
        curves = [
            replace(curve, costs=curve.costs * factor)
            for curve, factor in zip(self.curves, np.exp(logs).tolist(), strict=True)
        ]
        choice = table_of(curves, budget, self.states).choice(budget)
        assert choice is not None  # whoever asks has had an answer for this budget
        row = self.genome(choice, rest)
        if len(self._rest):
            old = row[None, self._rest]
            row[self._rest] = mutated(self._rest_table, old, self._prob, self._eta, rng)[0]
        return row


@dataclass(frozen=True, eq=False)
class Asked:
    """A genome, and the log multipliers that it is the answer to; None for an initial one."""

    row: Float[np.ndarray, " genes"]
    logs: Float[np.ndarray, " curves"] | None = None


class BudgetKnapsack(Driver):
    """(1 + lambda) evolution of curve multipliers: each genome is a knapsack's answer. Ours.

    The first generation is the answer to the curves as they are, then the initial genomes, then
    answers to curves multiplied by exp(noise). Were costs to add up, the first answer would be the
    best; multipliers say what the curves cannot, that some layers matter more together. Later noise
    is drawn around the log multipliers of the best answer so far, and slowly grows less.

    Best is the lowest value, or of several objectives the lowest sum of ranks among all answers,
    which needs no scale and no reference, and which no outlier moves; ties go to the later one. No
    genome is asked for twice. A generation ends early where `TRIES` in a row find nothing new; an
    empty one says that nothing new is near.
    """

    def __init__(self, settings: DriverSettings) -> None:
        self._answers = Answers(settings)
        self._settings, self._budget = settings, settings.budget or 0
        exact = table_of(self._answers.curves, self._budget, self._answers.states)
        choice = exact.choice(self._budget)
        if choice is None:
            raise ConfigError(
                f"The genes with curves drop {exact.least:,} weights at least, but the budget "
                f"leaves them {self._budget:,}. Raise sparsity.budget, or lower sparsity.low."
            )
        none = np.zeros(len(self._answers.curves))
        self._parent = Asked(self._answers.genome(choice, self._answers.start), none)
        self._rng = np.random.default_rng(settings.seed)
        self._noise = NOISE
        self._asked: set[bytes] = set()
        self._infills: list[Asked] = []
        self._told: list[tuple[Asked, tuple[float, ...]]] = []

    def ask(self) -> Genomes:
        size, first = self._settings.population, not self._asked
        start = [self._parent, *map(Asked, self._settings.seeds)] if first else []
        new: dict[bytes, Asked] = {}
        for one in start:
            if len(new) < size:
                new.setdefault(one.row.tobytes(), one)
        misses = 0
        while len(new) < size and misses < TRIES:
            child = self._child(self._noise * (1 + misses / WIDENING))
            misses += 1
            if (key := child.row.tobytes()) not in self._asked and key not in new:
                new[key], misses = child, 0
        self._asked.update(new)
        self._infills = list(new.values())
        self._noise *= COOLING
        rows = [one.row for one in self._infills]
        return np.array(rows).reshape(len(rows), len(self._settings.genes))

    def tell(self, values: Sequence[Values]) -> None:
        told = checked(values, len(self._infills), self._settings.objectives)
        infills, self._infills = self._infills, []
        for one, value in zip(infills, told, strict=True):
            if value is not None and one.logs is not None:
                self._told.append((one, value))
        if self._told:
            ranks = sum_of_ranks(np.array([value for _, value in self._told]))
            latest = len(ranks) - 1 - int(ranks[::-1].argmin())
            self._parent = self._told[latest][0]

    def _child(self, noise: float) -> Asked:
        parent = self._parent.logs
        assert parent is not None  # initial genomes are no parents
        logs = parent + noise * self._rng.standard_normal(len(parent))
        row = self._answers.child(self._parent.row, logs, self._budget, self._rng)
        return Asked(row, logs)


def sum_of_ranks(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Over all objectives, how many have a lower value."""
    return np.sum(
        [np.searchsorted(np.sort(column), column) for column in values.T], axis=0, dtype=float
    )
