"""The cheapest choice of an option for each gene, on an exact total: dynamic programming."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from optishear.search.curves import GeneCurve


MOST_STATES = 2**20  # totals of a table: about a byte each a gene, and an addition each an option


@dataclass(frozen=True, eq=False)
class Table:
    """The least cost of every total that the genes can come to, and how it comes about.

    State s stands for a total of `least` + s x `unit`, in whatever `GeneCurve.amounts` counts.

    - `fill`: whether a budget is to be met, as one of weights dropped is; else it is a limit, as
      one of bytes is, and whatever is cheapest may be left of it.
    - `exact`: whether `unit` divides all amounts. If not, it was coarsened to keep the states few,
      and costs are near the least. Amounts are rounded to it. Where budgets are to be met, to the
      nearest: an answer's own total may miss the state's by half a unit a gene, and `project`
      restores a budget to the weight. Where they are limits, upwards: no answer is above one.
    - `costs`: of each state, infinite where no choice has this total.
    - `taken`: for each gene the option that it takes to reach a state at the least cost together
      with the genes before it. Of equal costs the first option.
    """

    curves: tuple[GeneCurve, ...]
    least: int
    unit: int
    fill: bool
    exact: bool
    costs: Float[np.ndarray, " states"]
    taken: tuple[np.ndarray, ...]

    @cached_property
    def totals(self) -> Int[np.ndarray, " reachable"]:
        """All the totals that can be reached, rising."""
        return self.least + self.unit * np.flatnonzero(np.isfinite(self.costs))

    @cached_property
    def slack(self) -> int:
        """The largest of all genes: see `GeneCurve.slack`."""
        return max((curve.slack for curve in self.curves), default=0)

    def price(self, budget: int) -> float:
        """What a weight more costs at a budget, could genes take any share of the way between two
        options: the slope there of the least cost by total, all convex hulls merged by slope."""
        slopes, ends = self._slopes
        if not len(slopes):
            return 0.0
        place = int(np.searchsorted(ends, budget - self.least))
        return float(slopes[min(place, len(slopes) - 1)])

    @cached_property
    def _slopes(self) -> tuple[Float[np.ndarray, " pieces"], Float[np.ndarray, " pieces"]]:
        """The slopes of all hulls, rising, and the weights above the least where each ends."""
        slopes, weights = [np.zeros(0)], [np.zeros(0)]
        for curve in self.curves:
            corners = _hull(curve)
            width = np.diff(curve.amounts[corners]).astype(float)
            slopes.append(np.diff(curve.costs[corners]) / width)
            weights.append(width)
        every = np.concatenate(slopes)
        order = np.argsort(every, kind="stable")
        return every[order], np.concatenate(weights)[order].cumsum()

    def choice(self, budget: int) -> list[int] | None:
        """For each gene the option of the cheapest choice within the budget, of equally cheap ones
        that of the largest total; None where even the least is above it.

        To `fill` it, only those of the largest total within it count. With `slack` a total may be
        less than that below the budget: each of these at what its choice costs, and `price` for
        each weight that it leaves.
        """
        end = int(np.searchsorted(self.totals, budget, side="right"))
        if end == 0:
            return None
        begin = int(np.searchsorted(self.totals, budget - self.slack, side="right"))
        begin = min(begin, end - 1) if self.fill else 0
        near = self.totals[begin:end][::-1]  # of equals the largest total
        states = (near - self.least) // self.unit
        worth = self.costs[states]
        if self.fill and self.slack:
            worth = worth + self.price(budget) * (budget - near)
        state = int(states[worth.argmin()])
        found = []
        for curve, taken in zip(reversed(self.curves), reversed(self.taken), strict=True):
            option = int(taken[state])
            found.append(option)
            state -= int(_units(curve, self.unit, self.fill)[option])
        return found[::-1]


def _hull(curve: GeneCurve) -> list[int]:
    """The options at the corners of the lower convex hull of a gene's costs."""
    corners: list[int] = []
    x, y = curve.amounts.astype(float), curve.costs
    for option in range(len(x)):
        while len(corners) > 1:
            a, b = corners[-2:]
            if (y[b] - y[a]) * (x[option] - x[b]) < (y[option] - y[b]) * (x[b] - x[a]):
                break
            corners.pop()
        corners.append(option)
    return corners


def table_of(
    curves: Sequence[GeneCurve],
    most: int | None = None,
    states: int = MOST_STATES,
    *,
    fill: bool = True,
) -> Table:
    """The table of these genes for all totals up to `most` (None: all there are).

    f_g(s) = min over the options i of f_{g-1}(s - d_i) + c_i, with d_i the amount of option i above
    the gene's least, in units: the greatest common divisor of all such differences. With more than
    `states` totals the unit is a multiple of that (see `Table.exact`).
    """
    least, finest = sum(int(curve.amounts[0]) for curve in curves), finest_unit(curves)
    unit = finest * -(-states_of(curves, most) // states)
    last = sum(int(_units(curve, unit, fill)[-1]) for curve in curves)
    last = last if most is None else min(last, max(most - least, 0) // unit)
    costs, taken = np.zeros(1), []
    for curve in curves:
        costs, option = _with(costs, curve, _units(curve, unit, fill), last)
        taken.append(option)
    return Table(tuple(curves), least, unit, fill, unit == finest, costs, tuple(taken))


def finest_unit(curves: Sequence[GeneCurve]) -> int:
    """The greatest common divisor of what the options of each gene take more than its least."""
    steps = [curve.amounts - curve.amounts[0] for curve in curves]
    return int(np.gcd.reduce(np.concatenate([[0], *steps]).astype(np.int64))) or 1


def states_of(curves: Sequence[GeneCurve], most: int | None = None) -> int:
    """How many states the exact table of these genes has."""
    least = sum(int(curve.amounts[0]) for curve in curves)
    highest = sum(int(curve.amounts[-1]) for curve in curves)
    highest = highest if most is None else max(min(highest, most), least)
    return (highest - least) // finest_unit(curves) + 1


def solve(
    curves: Sequence[GeneCurve], budgets: Sequence[int], states: int = MOST_STATES
) -> list[list[int] | None]:
    """`Table.choice` for every budget, from one table.

    Exact up to `states` totals, and near it with more: whoever has to know asks `Table.exact`.
    """
    table = table_of(curves, max(budgets, default=0), states)
    return [table.choice(budget) for budget in budgets]


def _units(curve: GeneCurve, unit: int, fill: bool) -> Int[np.ndarray, " options"]:
    """The amount of each option above the least, in units: to the nearest (halves upwards) where
    budgets are to be met, else to the next above."""
    above = curve.amounts - curve.amounts[0]
    return (2 * above + unit) // (2 * unit) if fill else -(-above // unit)


def _with(
    before: Float[np.ndarray, " before"],
    curve: GeneCurve,
    units: Int[np.ndarray, " options"],
    last: int,
) -> tuple[Float[np.ndarray, " states"], np.ndarray]:
    """The least costs with one gene more, up to the state `last`, and the options taken."""
    size = min(len(before) + int(units[-1]), last + 1)
    costs = np.full(size, np.inf)
    taken = np.zeros(size, dtype=np.min_scalar_type(len(units) - 1))
    for option, (shift, cost) in enumerate(zip(units.tolist(), curve.costs.tolist())):
        if shift >= size:
            break
        offered = before[: size - shift] + cost
        there = costs[shift : shift + len(offered)]
        better = offered < there
        np.copyto(there, offered, where=better)
        np.copyto(taken[shift : shift + len(offered)], option, where=better, casting="unsafe")
    return costs, taken
