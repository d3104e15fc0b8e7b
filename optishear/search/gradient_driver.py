"""The gradient driver: genomes go down the slopes of an objective, from one start or several."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from optishear.errors import ConfigError
from optishear.search.driver import (
    DriverSettings,
    GeneSlopes,
    Genomes,
    SlopeDriver,
    Values,
    checked,
)
from optishear.search.operators import gene_table


STEP = 0.1  # of a gene's range: how far the first step goes
SLOWER = 4  # steps after which it goes half as far
BETAS, TINY = (0.9, 0.99), 1e-12
TRIES = 50  # further steps, or places, in search of a genome that was not asked for
APART = 0.1  # of a gene's range: how far further starts are from the first
WIDENING = 8.0  # places in vain after which the next is twice as far: few whole numbers are near
LARGEST = 1e100  # of a slope, whose square has to stay finite
ROUNDS = 8  # of shift and clip: what bounds keep from the budget goes to the others


class GradientDriver(SlopeDriver):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) on the codes of genes, a path for each genome of
    the population.

    What is asked for is a path rounded to the genes' grid; the path itself goes on unrounded. A
    step is a share of each gene's range, which falls as 1 / (1 + t / SLOWER). After it the sum that
    the budget is about (`gene_sizes`) is restored by one shift of all genes that have a part in it,
    within the bounds. Genes without slopes (metric, solver, λ) stay what they were at the start.

    The paths start at the initial genomes, then near the first of them. Where a step leads to
    nothing new a path goes on by the slopes that it has; after `TRIES` of these it has ended, and
    when all have, so has the search. One whose genome failed goes half the way back; if that fails
    too, or is known, to another place near its start.
    """

    def __init__(self, settings: DriverSettings) -> None:
        if settings.gene_sizes is None:
            raise ConfigError(
                "The gradient driver goes down the slopes of one objective, and without a budget "
                "the least of it is the dense model. Give the space a sparsity.budget, or use "
                "another driver, such as nsga2."
            )
        self._settings = settings
        self._table = gene_table(settings.genes)
        self._sizes = np.array(settings.gene_sizes, dtype=float)
        self._rng = np.random.default_rng(settings.seed)
        self._asked: set[bytes] = set()
        self._paths: list[_Path] | None = None
        self._going: list[_Path] = []
        self._slopes: list[GeneSlopes] = []

    def ask(self) -> Genomes:
        if self._paths is None:
            self._paths = [_Path(row, self._range) for row in self._starts()]
        rows, self._going = [], []
        for path in self._paths:
            row = self._table.clean(path.at[None])[0]
            tries = 0
            while row.tobytes() in self._asked and tries < TRIES:
                if path.steps:
                    path.step()
                    path.at = self._on_budget(path.at, path.start)
                else:  # nothing leads on from there
                    path.at = self._near(path.start, tries)
                row, tries = self._table.clean(path.at[None])[0], tries + 1
            if row.tobytes() not in self._asked:
                self._asked.add(row.tobytes())
                rows.append(row)
                self._going.append(path)
        self._paths = self._going
        return np.array(rows).reshape(len(rows), len(self._settings.genes))

    def tell_slopes(self, slopes: Sequence[GeneSlopes]) -> None:
        if len(slopes) != len(self._going):
            raise ValueError(
                f"{len(self._going)} genomes were asked for, {len(slopes)} slopes told."
            )
        self._slopes = list(slopes)

    def tell(self, values: Sequence[Values]) -> None:
        checked(values, len(self._going), self._settings.objectives)
        for path, slopes in zip(self._going, self._slopes, strict=True):
            if slopes is not None:
                path.told(slopes)
                path.step()
            elif path.steps:
                path.go_back()
            else:
                path.at = self._near(path.start)
            path.at = self._on_budget(path.at, path.start)

    @property
    def _range(self) -> Float[np.ndarray, " genes"]:
        return self._table.high - self._table.low

    def _starts(self) -> Genomes:
        """The initial genomes, or the middle, and others near the first of them."""
        size = self._settings.population
        middle = self._table.clean(((self._table.low + self._table.high) / 2)[None])
        given = self._settings.seeds if len(self._settings.seeds) else middle
        found = {row.tobytes(): row for row in given}
        misses = 0
        while len(found) < size and misses < TRIES:
            near = self._table.clean(self._near(given[0], misses)[None])[0]
            misses = misses + 1 if near.tobytes() in found else 0
            found.setdefault(near.tobytes(), near)
        return np.array(list(found.values())[:size])

    def _near(
        self, start: Float[np.ndarray, " genes"], misses: int = 0
    ) -> Float[np.ndarray, " genes"]:
        """Another place around `start`, further away the more others were known."""
        noise = (
            APART * (1 + misses / WIDENING) * self._range * self._rng.standard_normal(len(start))
        )
        moving = self._table.free & ~self._table.category
        return self._on_budget(np.where(moving, start + noise, start), start)

    def _on_budget(
        self, row: Float[np.ndarray, " genes"], start: Float[np.ndarray, " genes"]
    ) -> Float[np.ndarray, " genes"]:
        """Within the bounds, and with the sum that the start has, as far as bounds allow."""
        low, high, sizes = self._table.low, self._table.high, self._sizes
        row, total = np.clip(row, low, high), sizes @ start
        for _ in range(ROUNDS):
            missing = total - sizes @ row
            room = (sizes > 0) & ((row < high) if missing > 0 else (row > low))
            if not sizes[room].sum():
                break
            row = np.clip(np.where(room, row + missing / sizes[room].sum(), row), low, high)
        return row


class _Path:
    """One genome on its way, and Adam's moments of its slopes."""

    def __init__(
        self, start: Float[np.ndarray, " genes"], range_: Float[np.ndarray, " genes"]
    ) -> None:
        self.start = self.at = self.before = start.copy()
        self.range = range_
        self.mean, self.square = np.zeros_like(start), np.zeros_like(start)
        self.slopes = np.zeros_like(start)
        self.steps = 0

    def told(self, slopes: Float[np.ndarray, " genes"]) -> None:
        self.slopes = np.clip(slopes * self.range, -LARGEST, LARGEST)  # by a gene's whole range

    def step(self) -> None:
        """Downhill by the slopes that it was last told."""
        b1, b2 = BETAS
        self.mean = b1 * self.mean + (1 - b1) * self.slopes
        self.square = b2 * self.square + (1 - b2) * self.slopes**2
        self.steps += 1
        mean = self.mean / (1 - b1**self.steps)
        size = np.sqrt(self.square / (1 - b2**self.steps))
        share = STEP / (1 + (self.steps - 1) / SLOWER)
        self.before = self.at
        self.at = self.at - share * self.range * mean / (size + TINY)

    def go_back(self) -> None:
        """Half the way, and from there on without what it was told before."""
        self.at = (self.at + self.before) / 2
        self.mean, self.square = np.zeros_like(self.at), np.zeros_like(self.at)
        self.slopes, self.steps = np.zeros_like(self.at), 0
