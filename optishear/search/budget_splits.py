"""Budgets split between layers by curves of what each of them costs alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optishear.recipe.layout import Layer
from optishear.recipe.profile import counts_within, has_levels
from optishear.recipe.storage import Storage
from optishear.search.budget_units import (
    BYTES,
    SPARSITY,
    Budget,
    BudgetUnit,
    BytesStored,
    WeightsDropped,
)
from optishear.search.curves import Curves, GeneCurve
from optishear.search.knapsack import Table, table_of
from optishear.search.space import SearchSpace
from optishear.search.sparsity_genes import REAL_GRID


STATES = 2**17  # totals of a table, which for 210 layers take some seconds


@dataclass(frozen=True)
class Split:
    """The cheapest way to keep to a budget, were layers' costs to add up.

    - `drop`: weights by layer.
    - `reached`: the sparsity or the bytes that this comes to.
    - `predicted`: the sum of what they cost alone.
    - `exact`: whether every total was looked at; if not, they were rounded to a coarser unit.
    """

    budget: Budget
    drop: Mapping[str, int]
    reached: float
    predicted: float
    exact: bool


def splits(
    space: SearchSpace, curves: Curves, budgets: Sequence[Budget], storage: Storage | None = None
) -> list[Split]:
    """By layer, whatever the space's own genes are, within its bounds and patterns: on the levels
    that these have, else on 64ths of a layer. What is left of a budget then, less than a step of
    the grid, is shared by all that can lose any number.

    `storage`: what budgets in bytes are counted with; they need it. A `ConfigError` says what no
    split can keep to, and the least that one takes.
    """
    units: dict[str, BudgetUnit] = {SPARSITY: WeightsDropped(space)}
    if storage is not None:
        units[BYTES] = BytesStored(space, curves, storage)
    solved = {
        quantity: _Solved(
            space, curves, units[quantity], [b.value for b in budgets if b.quantity == quantity]
        )
        for quantity in dict.fromkeys(budget.quantity for budget in budgets)
    }
    return [solved[budget.quantity].split(budget) for budget in budgets]


class _Solved:
    """One table for all budgets of a unit."""

    def __init__(
        self, space: SearchSpace, curves: Curves, unit: BudgetUnit, budgets: Sequence[float]
    ) -> None:
        self._curves, self._unit = curves, unit
        self._ends = _least(space, unit)
        least = sum(
            unit.amount(layer, self._ends[layer.name]) for layer in space.layers.layout.layers
        )
        for budget in budgets:
            if unit.limit(budget) < least:
                raise unit.too_little(budget, least)
        self._layers = space.layers.layout.layers
        self._options = [_options(layer, space, curves, unit) for layer in self._layers]
        most = max(map(unit.limit, budgets))
        self._table: Table = table_of(
            [curve for _, curve in self._options], most, STATES, fill=unit.fill
        )

    def split(self, budget: Budget) -> Split:
        choice = self._table.choice(self._unit.limit(budget.value))
        drop = self._ends  # of a budget between the bounds and the first step of the grid
        if choice is not None:
            drop = {
                layer.name: counts[option]
                for layer, (counts, _), option in zip(
                    self._layers, self._options, choice, strict=True
                )
            }
        drop = self._unit.finished(drop, budget.value)
        found = self._curves.total(drop)
        return Split(budget, drop, self._unit.reached(drop), found, self._table.exact)


def _least(space: SearchSpace, unit: BudgetUnit) -> dict[str, int]:
    """The counts within the bounds that take least of a budget."""
    layers, found = space.layers, {}
    for layer in layers.layout.layers:
        reach = counts_within(layer, layers.patterns, layers.bounds)
        ends = {unit.amount(layer, count): count for count in (reach[-1], reach[0])}
        found[layer.name] = ends[min(ends)]
    return found


def _options(
    layer: Layer, space: SearchSpace, curves: Curves, unit: BudgetUnit
) -> tuple[list[int], GeneCurve]:
    """What the layer can drop, and what that takes and costs; of counts that take equally much the
    cheapest, of equally cheap ones the least."""
    patterns, bounds = space.layers.patterns, space.layers.bounds
    reach = counts_within(layer, patterns, bounds)
    counts, even = list(reach), True
    if not has_levels(layer, patterns, bounds):
        # Not the bounds themselves: they are on no grid, and many more totals would be possible.
        most = layer.size // reach.step
        grid = {round(most * step / REAL_GRID) * reach.step for step in range(REAL_GRID)}
        counts = sorted(count for count in grid if count in reach) or [reach[0]]
        even = most % REAL_GRID == 0
    priced = sorted(
        (unit.amount(layer, count), curves.cost(layer.name, count), count) for count in counts
    )
    first: dict[int, tuple[float, int]] = {}
    for amount, cost, count in priced:
        first.setdefault(amount, (cost, count))
    amounts = np.array([*first], dtype=np.int64)
    costs, chosen = zip(*first.values(), strict=True)
    slack = 0 if even else int(np.diff(amounts).max(initial=0))
    curve = GeneCurve(np.array(chosen) / layer.size, amounts, np.array(costs), slack)
    return list(chosen), curve
