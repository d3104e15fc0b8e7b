"""Budgets split between layers by curves of what each of them costs alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optishear.errors import ConfigError
from optishear.recipe.layout import Layer
from optishear.recipe.profile import check_sparsity, counts_within, has_levels, project
from optishear.search.curves import Curves, GeneCurve
from optishear.search.knapsack import table_of
from optishear.search.space import SearchSpace
from optishear.search.sparsity_genes import REAL_GRID


STATES = 2**17  # totals of a table, which for 210 layers take some seconds


@dataclass(frozen=True)
class Split:
    """The cheapest way to drop a share of all weights, were layers' costs to add up.

    - `drop`: weights by layer, in all as many as `project` makes of the budget.
    - `predicted`: the sum of what they cost alone.
    - `exact`: whether every total was looked at; if not, they were rounded to a coarser unit.
    """

    sparsity: float
    drop: Mapping[str, int]
    predicted: float
    exact: bool


def splits(space: SearchSpace, curves: Curves, sparsities: Sequence[float]) -> list[Split]:
    """By layer, whatever the space's own genes are, within its bounds and patterns: on the levels
    that these have, else on 64ths of a layer. What is left of a budget then, less than a step of
    the grid, is shared by all that can lose any number."""
    layers = space.layers
    layout, bounds = layers.layout, layers.bounds
    budgets = [round(check_sparsity(share) * layout.total) for share in sparsities]
    options = [_options(layer, space, curves) for layer in layout.layers]
    table = table_of(options, max(budgets, default=0), STATES)
    found = []
    for share, budget in zip(sparsities, budgets, strict=True):
        if (choice := table.choice(budget)) is None:
            raise ConfigError(
                f"{share:g}: by the space's bounds and patterns {table.least / layout.total:.4g} "
                f"of all weights go at least. Ask for more."
            )
        targets = {
            layer.name: float(own.codes[option])
            for layer, own, option in zip(layout.layers, options, choice, strict=True)
        }
        drop = project(targets, layout, layers.patterns, bounds, budget)
        found.append(Split(share, drop, curves.total(drop), table.exact))
    return found


def _options(layer: Layer, space: SearchSpace, curves: Curves) -> GeneCurve:
    """What the layer can drop; the codes are sparsities."""
    patterns, bounds = space.layers.patterns, space.layers.bounds
    reach = counts_within(layer, patterns, bounds)
    counts, even = list(reach), True
    if not has_levels(layer, patterns, bounds):
        # Not the bounds themselves: they are on no grid, and many more totals would be possible.
        most = layer.size // reach.step
        grid = {round(most * step / REAL_GRID) * reach.step for step in range(REAL_GRID)}
        counts = sorted(count for count in grid if count in reach) or [reach[0]]
        even = most % REAL_GRID == 0
    dropped = np.array(counts, dtype=np.int64)
    costs = np.array([curves.cost(layer.name, count) for count in counts])
    slack = 0 if even else int(np.diff(dropped).max(initial=0))
    return GeneCurve(dropped / layer.size, dropped, costs, slack)
