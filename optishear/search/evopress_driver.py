"""EvoPress's evolutionary search: one parent, and sparsity that moves from one gene to another.

Importing this module imports pymoo, whose mutation serves the genes that EvoPress lacks; `drivers`
does so when such a driver is made.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from optishear.errors import ConfigError
from optishear.search.driver import Driver, DriverSettings, Genomes, Values, checked
from optishear.search.exchange import fewest_steps
from optishear.search.genes import Gene, Real
from optishear.search.operators import gene_table, mutated


MOST_FLIPS = 3
REAL_STEPS = 32  # of a real gene, over its range
DECIMALS = 12  # of a real gene: there and back again is the same genome, bit for bit
TRIES = 300  # in a row in search of a genome that was not asked for before


class EvoPressDriver(Driver):
    """(1 + lambda) elitism; an offspring has min(u, v) flips, u and v uniform in {1, 2, 3}.

    Sieberling et al. 2024, "EvoPress: Accurate Dynamic Model Compression via Evolutionary Search"
    (arXiv 2410.14649). A flip takes one gene a step down and another a step up, each drawn from all
    that have room, attention or MLP, and keeps the number of dropped weights exactly. Ties go to
    the offspring. Theirs are selected in stages on growing numbers of tokens, with the parent in
    the last: a ladder does that, and tells those who did not reach its top as failed.

    A step of theirs is one number of weights for all layers, so that small layers have few levels.
    Ours is a share of the gene's own weights. Real genes therefore exchange the weights of the
    smaller one's step. Whole steps that weigh differently are completed by further genes of any
    size, drawn like the first two, to the fewest that weigh the same; where those have no room, the
    flip does nothing.

    Ours besides: genes that exchange nothing (metric, solver, λ) mutate as in `nsga2`; no genome is
    asked for twice; the first generation are the initial genomes, then offspring of the first of
    them, or of the middle of all genes where there is none. A generation ends early where `TRIES`
    in a row find nothing new; an empty one says that all around the parent was asked for.
    """

    def __init__(self, settings: DriverSettings) -> None:
        self._weights = np.array(settings.exchangeable or [0] * len(settings.genes))
        self._exchanging = np.flatnonzero(self._weights)
        if len(self._exchanging) < 2:
            raise ConfigError(
                "The evopress driver moves sparsity from one gene to another, but the search space "
                "has no two genes that can exchange it. Use sparsity.by 'block' or 'layer' (with "
                "evenly spaced options, if any), or another driver."
            )
        self._settings = settings
        self._kinds = tuple(sorted({int(weight) for weight in self._weights if weight}))
        of_weight = {weight: kind for kind, weight in enumerate(self._kinds)}
        self._kind = np.array([of_weight.get(int(weight), -1) for weight in self._weights])
        self._steps = np.array([step_of(gene) for gene in settings.genes])
        self._table = gene_table(settings.genes)
        self._rest = np.setdiff1d(np.flatnonzero(self._table.free), self._exchanging)
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
        """One random gene a step down and another a step up, in place, and what evens them out.

        Nothing changes where there is no room for all of it.
        """
        falling = self._exchanging[self._room(row, -1)[self._exchanging]]
        if not len(falling):
            return
        down = int(self._rng.choice(falling))
        rising = self._exchanging[self._room(row, +1)[self._exchanging]]
        rising = rising[rising != down]
        if not len(rising):
            return
        up = int(self._rng.choice(rising))
        if isinstance(self._settings.genes[down], Real):
            self._flow(row, down, up)
        else:
            self._step(row, down, up)

    def _flow(self, row: Float[np.ndarray, " genes"], down: int, up: int) -> None:
        """As many whole weights as the smaller gene's step has, from one real gene to another."""
        weights = np.floor((self._steps * self._weights)[[down, up]].min() + 1e-6)
        for gene, side in ((down, -1), (up, 1)):
            share = np.round(weights / self._weights[gene], DECIMALS)
            row[gene] = np.round(row[gene] + side * share, DECIMALS)

    def _step(self, row: Float[np.ndarray, " genes"], down: int, up: int) -> None:
        """One step each, and the fewest further ones that make them weigh the same."""
        changed = row.copy()
        changed[down] -= 1
        changed[up] += 1
        falling, rising = int(self._kind[down]), int(self._kind[up])
        missing = list(fewest_steps(self._kinds, falling, rising))
        missing[falling] += 1
        missing[rising] -= 1
        for kind, count in enumerate(missing):
            side = 1 if count > 0 else -1
            for _ in range(abs(count)):
                able = np.flatnonzero((self._kind == kind) & self._room(changed, side))
                if not len(able):
                    return
                changed[self._rng.choice(able)] += side
        row[:] = changed

    def _room(self, row: Float[np.ndarray, " genes"], side: int) -> Bool[np.ndarray, " genes"]:
        """Which genes can take a whole step to this side."""
        end = self._table.high if side > 0 else self._table.low
        return (end - row) * side >= self._steps * (1 - 1e-6)


def step_of(gene: Gene) -> float:
    """One level of an integer or an ordered choice, one of `REAL_STEPS` of a real gene's range."""
    if not isinstance(gene, Real):
        return 1.0
    return float(np.round((gene.high - gene.low) / REAL_STEPS, DECIMALS)) or np.inf  # fixed: none
