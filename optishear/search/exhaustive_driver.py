"""The exhaustive driver: every genome there is, for small spaces, and to judge others by."""

from collections.abc import Iterator, Sequence
from itertools import islice, product
from math import prod

import numpy as np

from optishear.errors import ConfigError
from optishear.search.driver import Driver, DriverSettings, Genomes, Values, checked
from optishear.search.genes import Gene, Real


LARGEST_GRID = 1_000_000


def grid_size(genes: Sequence[Gene]) -> int | None:
    """How many genomes there are; None where a real gene makes them uncountable."""
    if any(isinstance(gene, Real) and gene.high > gene.low for gene in genes):
        return None
    return prod(int(gene.high - gene.low) + 1 for gene in genes)


def lexicographic(genes: Sequence[Gene]) -> Iterator[tuple[float, ...]]:
    """Every genome of a countable space; the last gene changes fastest. Lazy."""
    # A fixed real gene has one value, which is its lower bound.
    codes = [[gene.low + step for step in range(int(gene.high - gene.low) + 1)] for gene in genes]
    return (tuple(float(code) + 0.0 for code in codes) for codes in product(*codes))


class ExhaustiveDriver(Driver):
    """The initial genomes, then all others in lexicographic order, a population at a time."""

    def __init__(self, settings: DriverSettings) -> None:
        size = grid_size(settings.genes)
        if size is None:
            name = next(gene.name for gene in settings.genes if isinstance(gene, Real))
            raise ConfigError(
                f"The exhaustive driver cannot enumerate the real gene {name!r}. Make it a choice "
                "of a few values, or use another driver."
            )
        if size > LARGEST_GRID:
            raise ConfigError(
                f"The exhaustive driver would have to try {size:,} genomes; the most it accepts is "
                f"{LARGEST_GRID:,}. Take options out of the search space, or use another driver."
            )
        self._settings = settings
        self._waiting = 0
        self._left = self._order()

    def ask(self) -> Genomes:
        rows = list(islice(self._left, self._settings.population))
        self._waiting = len(rows)
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self._settings.genes))

    def tell(self, values: Sequence[Values]) -> None:
        checked(values, self._waiting, self._settings.objectives)
        self._waiting = 0

    def _order(self) -> Iterator[tuple[float, ...]]:
        first = [tuple(row.tolist()) for row in self._settings.seeds]
        yield from first
        known = set(first)
        yield from (row for row in lexicographic(self._settings.genes) if row not in known)
