"""EvoPress's evolutionary search: one parent, and sparsity that moves from one gene to another.

Importing this module imports pymoo, whose mutation serves the genes that EvoPress lacks; `drivers`
does so when such a driver is made.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from optishear.errors import ConfigError
from optishear.search.driver import Driver, DriverSettings, Genomes, Values, checked
from optishear.search.genes import Gene, Real
from optishear.search.operators import gene_table, mutated


MOST_FLIPS = 3
REAL_STEPS = 32  # of a real gene, over its range
DECIMALS = 12  # of a real gene: there and back again is the same genome, bit for bit
TRIES = 300  # in a row in search of a genome that was not asked for before


class EvoPressDriver(Driver):
    """(1 + lambda) elitism; an offspring has min(u, v) flips, u and v uniform in {1, 2, 3}.

    Sieberling et al. 2024, "EvoPress: Accurate Dynamic Model Compression via Evolutionary Search"
    (arXiv 2410.14649). A flip takes one gene a step down and another of its group a step up, which
    keeps the sparsity exactly. Ties go to the offspring. Theirs are selected in stages on growing
    numbers of tokens, with the parent in the last: a ladder does that, and tells those who did not
    reach its top as failed.

    Ours besides: genes in no group (metric, solver, λ) mutate as in `nsga2`; no genome is asked for
    twice; the first generation are the initial genomes, then offspring of the first of them, or of
    the middle of all genes where there is none. A generation ends early where `TRIES` in a row find
    nothing new; an empty one says that all around the parent was asked for.
    """

    def __init__(self, settings: DriverSettings) -> None:
        if not settings.exchangeable:
            raise ConfigError(
                "The evopress driver moves sparsity between genes of equally many weights, but the "
                "search space has no two of them. Use sparsity.by 'block' or 'layer' (with evenly "
                "spaced options, if any), or another driver."
            )
        self._settings = settings
        self._groups = [np.array(group) for group in settings.exchangeable]
        self._steps = np.array([step_of(gene) for gene in settings.genes])
        self._table = gene_table(settings.genes)
        grouped = np.concatenate(self._groups)
        self._rest = np.setdiff1d(np.flatnonzero(self._table.free), grouped)
        self._rest_table = gene_table([settings.genes[index] for index in self._rest])
        one_of_all = 1.0 / max(int(self._table.free.sum()), 1)
        given = settings.mutation_prob
        self._rest_prob = one_of_all if given is None else given
        self._rng = np.random.default_rng(settings.seed)
        self._asked: set[bytes] = set()
        self._infills: list[np.ndarray] = []
        middle = self._table.clean(((self._table.low + self._table.high) / 2)[None])
        self._parent: np.ndarray = np.concatenate([settings.seeds, middle])[0]
        self._best: float = np.inf

    def ask(self) -> Genomes:
        size, first = self._settings.population, not self._asked
        start = [*self._settings.seeds, self._parent][:size] if first else []
        new = {row.tobytes(): row for row in start}
        misses = 0
        while len(new) < size and misses < TRIES:
            child = self._offspring()
            misses += 1
            if child.tobytes() not in self._asked and child.tobytes() not in new:
                new[child.tobytes()], misses = child, 0
        self._asked.update(new)
        self._infills = list(new.values())
        return np.array(self._infills).reshape(len(new), len(self._settings.genes))

    def tell(self, values: Sequence[Values]) -> None:
        told = checked(values, len(self._infills), objectives=1)
        infills, self._infills = self._infills, []
        generation = [(v[0], i) for i, v in enumerate(told) if v is not None]
        if generation and min(generation)[0] <= self._best:
            self._best, index = min(generation)
            self._parent = infills[index]

    def _offspring(self) -> Float[np.ndarray, " genes"]:
        row = self._parent.copy()
        for _ in range(self._rng.integers(1, MOST_FLIPS + 1, size=2).min()):
            self._flip(row)
        if len(self._rest):
            old = row[None, self._rest]
            eta = self._settings.mutation_eta
            row[self._rest] = mutated(self._rest_table, old, self._rest_prob, eta, self._rng)[0]
        return self._table.clean(row[None])[0]

    def _flip(self, row: Float[np.ndarray, " genes"]) -> None:
        """One random gene a step down and another of its group a step up, in place.

        A group is as likely as it has genes. Nothing changes where there is no room for both.
        """
        sizes = np.array([len(group) for group in self._groups])
        group = self._groups[self._rng.choice(len(sizes), p=sizes / sizes.sum())]
        falling = group[self._room(row, -1)[group]]
        if not len(falling):
            return
        down = self._rng.choice(falling)
        rising = group[self._room(row, +1)[group] & (group != down)]
        if len(rising):
            up = self._rng.choice(rising)
            row[down] = np.round(row[down] - self._steps[down], DECIMALS)
            row[up] = np.round(row[up] + self._steps[up], DECIMALS)

    def _room(self, row: Float[np.ndarray, " genes"], side: int) -> Bool[np.ndarray, " genes"]:
        """Which genes can take a whole step to this side."""
        end = self._table.high if side > 0 else self._table.low
        return (end - row) * side >= self._steps * (1 - 1e-6)


def step_of(gene: Gene) -> float:
    """One level of an integer or an ordered choice, one of `REAL_STEPS` of a real gene's range."""
    if not isinstance(gene, Real):
        return 1.0
    return float(np.round((gene.high - gene.low) / REAL_STEPS, DECIMALS)) or np.inf  # fixed: none
