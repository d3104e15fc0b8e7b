"""Exchanges of sparsity between genes, guided by what each of them costs alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from optishear.search.curves import GeneCurve
from optishear.search.driver import Genomes


SHARE = 0.5  # of children that are moved at all
MOST_EXCHANGES = 3
NOISE = 0.5  # of a log slope: equal ones take turns, of two as 1 to 4 the wrong one wins 1 in 40


@dataclass(frozen=True, eq=False)
class Moves:
    """The genes that have curves, as rows, with all options of each, as columns.

    - `genes`: where in a genome they are.
    - `codes`: infinite where a gene has no further option.
    - `rise`: the cost per weight of dropping one option more, infinite at the last one.
    - `fall`: the gain per weight of dropping one option less, minus infinity at the first.
    """

    genes: Int[np.ndarray, " curves"]
    curves: tuple[GeneCurve, ...]
    codes: Float[np.ndarray, "curves options"]
    rise: Float[np.ndarray, "curves options"]
    fall: Float[np.ndarray, "curves options"]

    @classmethod
    def along(cls, curves: Sequence[GeneCurve | None]) -> "Moves":
        """The moves of genomes whose genes have these curves, of which one at least is there."""
        own = [(gene, curve) for gene, curve in enumerate(curves) if curve is not None]
        shape = len(own), max(len(curve.codes) for _, curve in own)
        codes, rise, fall = np.full(shape, np.inf), np.full(shape, np.inf), np.full(shape, -np.inf)
        for row, (_, curve) in enumerate(own):
            slopes = np.diff(curve.costs) / np.diff(curve.amounts)
            codes[row, : len(curve.codes)] = curve.codes
            rise[row, : len(slopes)] = slopes
            fall[row, 1 : len(slopes) + 1] = slopes
        genes = np.array([gene for gene, _ in own], dtype=np.int64)
        return cls(genes, tuple(curve for _, curve in own), codes, rise, fall)

    def guided(self, rows: Genomes, rng: np.random.Generator) -> Genomes:
        """The same genomes, half of them after 1 to 3 exchanges. Codes may need to be cleaned."""
        rows = rows.copy()
        for index in np.flatnonzero(rng.random(len(rows)) < SHARE):
            for _ in range(rng.integers(1, MOST_EXCHANGES + 1)):
                self.exchange(rows[index], rng)
        return rows

    def exchange(self, row: Float[np.ndarray, " genes"], rng: np.random.Generator) -> None:
        """One gene drops more where that costs little and another less where that gains much, in
        place: argmin and argmax of slope x exp(NOISE x standard normal), a noisy step along minus
        the slope.

        One of the heavier steps goes against as many of the lighter as weigh about the same, so
        that the sum misses what it was by half a lighter step at most; `project` does the rest.
        Nothing changes where there is no room for that.
        """
        at = np.abs(self.codes - row[self.genes, None]).argmin(axis=1)
        rows = np.arange(len(at))
        rise, fall = np.exp(NOISE * rng.standard_normal((2, len(at))))
        rise, fall = rise * self.rise[rows, at], fall * self.fall[rows, at]
        up = int(rise.argmin())
        fall[up] = -np.inf
        down = int(fall.argmax())
        if not (np.isfinite(rise[up]) and np.isfinite(fall[down])):
            return
        weight = int(max(self._steps(up, at, 1)[0], self._steps(down, at, -1)[0]))
        more, less = self._as_much(up, at, 1, weight), self._as_much(down, at, -1, weight)
        if more is not None and less is not None:
            for gene, option in ((up, more), (down, less)):
                # A real gene that lies between two options keeps its distance to them.
                row[self.genes[gene]] += self.codes[gene, option] - self.codes[gene, at[gene]]

    def _steps(
        self, gene: int, at: Int[np.ndarray, " curves"], side: int
    ) -> Int[np.ndarray, " steps"]:
        """How many weights one, two, ... options to this side of where it is are."""
        dropped = self.curves[gene].amounts
        there = dropped[at[gene] + 1 :] if side > 0 else dropped[: at[gene]][::-1]
        return np.abs(there - dropped[at[gene]])

    def _as_much(
        self, gene: int, at: Int[np.ndarray, " curves"], side: int, weight: int
    ) -> int | None:
        """The option to this side which moves nearest to so many weights; None where half a step
        is lacking."""
        steps = self._steps(gene, at, side)
        if 2 * (weight - steps[-1]) > steps[0]:
            return None
        return int(at[gene]) + side * (1 + int(np.abs(steps - weight).argmin()))
