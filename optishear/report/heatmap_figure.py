"""The heat map: how much of each layer the pick drops, and which λ it has where λ is mixed."""

from typing import TYPE_CHECKING

import numpy as np

from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.report import style
from optishear.report.profile_figure import Grid, heat_map, short_names, sparsities


if TYPE_CHECKING:
    import matplotlib.figure

ANNOTATED = 20  # blocks whose values still fit into a map as wide as the page


def heatmap_figure(layout: ModelLayout, recipe: Recipe, title: str) -> "matplotlib.figure.Figure":
    """Roles over blocks: sparsity, and below it λ if the recipe mixes in the Taylor loss."""
    names = short_names(layout.roles)
    panels = [("sparsity in %", names, sparsities(layout, recipe.drop)[0])]
    if recipe.mixed:
        grid = lambdas(layout, recipe)
        mixed = np.flatnonzero((np.nan_to_num(grid, nan=1.0) < 1).any(axis=1))
        panels.append(("λ in %", tuple(names[i] for i in mixed), grid[mixed]))
    heights = [0.9 + 0.24 * len(rows) for _, rows, _ in panels]
    figure = style.blank(title, style.FULL, 0.3 + sum(heights))
    drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, rows, grid) in zip(drawn, panels, strict=True):
        heat_map(figure, axes, rows, grid, ANNOTATED, label)
        if grid.shape[1] <= ANNOTATED:
            axes.set_xlabel(f"block ({label})")
    figure.align_ylabels()
    style.settle(figure)
    return figure


def lambdas(layout: ModelLayout, recipe: Recipe) -> Grid:
    """λ of each role in each block, weighted by size; NaN where a block has no such role."""
    mixed, size = np.zeros((2, len(layout.roles), layout.blocks))
    for layer in layout.layers:
        place = layout.roles.index(layer.role), layer.block
        mixed[place] += recipe.lambda_of(layer) * layer.size
        size[place] += layer.size
    return mixed / np.where(size > 0, size, np.nan)
