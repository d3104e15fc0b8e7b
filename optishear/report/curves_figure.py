"""The curves figure: what each layer costs alone over its sparsity, a panel a role."""

from typing import TYPE_CHECKING

import numpy as np

from optishear.report import style
from optishear.report.front_figure import scale_axis
from optishear.report.measured_curves import MeasuredCurves
from optishear.report.profile_figure import short_names


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    from matplotlib.colors import Colormap

ACROSS = 4  # panels a row
LIGHTEST = 0.9  # of the colour map, whose end is too light for lines on white
NARROW = 30  # a range of less has numbers between the powers of ten
FEW = 12  # blocks whose points still have a marker each


def curves_figure(found: MeasuredCurves, title: str) -> "matplotlib.figure.Figure":
    """Values on one logarithmic axis, a line a layer, light ones deep in the model.

    A value that is not positive has no place on it; the footnote counts these.
    """
    names = dict(zip(found.layout.roles, short_names(found.layout.roles), strict=True))
    own = {found.layout.by_name[name].role for name in found.curves.points}
    roles = [role for role in names if role in own]
    across = min(ACROSS, len(roles))
    rows = -(-len(roles) // across)
    figure = style.blank(title, style.FULL if across > 1 else style.HALF, 1.0 + 1.6 * rows)
    grid = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False)
    colours = _colours()
    for index, role in enumerate(roles):
        axes = grid.flat[index]
        _panel(axes, found, role, colours)
        axes.set_title(style.plain(names[role]), fontsize=8.5)
        if index >= len(roles) - across:  # the lowest of its column
            axes.tick_params(labelbottom=True)
        if index // across == rows - 1:
            axes.set_xlabel("sparsity (%)")
        if index % across == 0:
            axes.set_ylabel(found.quantity.label)
    for axes in grid.flat[len(roles) :]:
        axes.set_visible(False)
    grid[0, 0].set(xlim=(0, 100), xticks=(0, 25, 50, 75, 100))
    if positive := [value for value in _values(found) if value > 0]:
        low, high = min(positive), max(positive)
        ticks = 8 if high < NARROW * low else 5
        scale_axis(grid[0, 0], "y", found.quantity, (low, high, True), ticks)
    if found.layout.blocks > 1:
        _bar(figure, grid, colours, found.layout.blocks)
    style.note(figure, _footnote(found))
    style.settle(figure)
    return figure


def _colours() -> "Colormap":
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    shades = colormaps["viridis"](np.linspace(0, LIGHTEST, 256))
    return LinearSegmentedColormap.from_list("depth", shades.tolist())


def _panel(
    axes: "matplotlib.axes.Axes", found: MeasuredCurves, role: str, colours: "Colormap"
) -> None:
    layout = found.layout
    for layer in layout.layers:
        points = found.curves.points.get(layer.name, ()) if layer.role == role else ()
        if not points:
            continue
        values = np.array([value for _, value in points])
        marked = layout.blocks <= FEW or len(points) == 1
        axes.plot(
            100 * np.array(found.sparsities(layer)), np.where(values > 0, values, np.nan),
            color=colours(layer.block / max(layout.blocks - 1, 1)), linewidth=0.9,
            marker="o" if marked else "", markersize=2.6, markeredgewidth=0,
        )  # fmt: skip


def _bar(
    figure: "matplotlib.figure.Figure", grid: np.ndarray, colours: "Colormap", blocks: int
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    shown = ScalarMappable(Normalize(0, blocks - 1), colours)
    bar = figure.colorbar(shown, ax=grid, label="block", pad=0.01, aspect=35)
    bar.locator = MaxNLocator(8, integer=True)
    bar.update_ticks()
    bar.outline.set_visible(False)


def _footnote(found: MeasuredCurves) -> str:
    said = f"One layer pruned and all others dense, on {found.tokens:,} tokens."
    values = _values(found)
    if hidden := sum(value <= 0 for value in values):
        said += f" {hidden} of {len(values)} values are not positive and not shown."
    return said


def _values(found: MeasuredCurves) -> list[float]:
    return [value for points in found.curves.points.values() for _, value in points]
