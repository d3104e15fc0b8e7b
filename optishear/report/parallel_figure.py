"""Parallel coordinates: every recipe a line through all that varied and all that was aimed at.

The axes lie across the page, one below the other: so their names have room, however many there are.
"""

from typing import TYPE_CHECKING

import numpy as np

from optishear.report import style
from optishear.report.axes_of_recipes import RecipeAxis
from optishear.report.run_view import RunView


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST = 300  # candidates drawn beside the front, evenly over the search
ABSENT = -0.07  # where a line passes an axis that does not apply to its recipe
NAMES = 8  # names that still stand along one axis


def parallel_figure(view: RunView, axes: tuple[RecipeAxis, ...]) -> "matplotlib.figure.Figure":
    """`axes` as `recipe_axes` has them: of the recipes that succeeded, in the order made."""
    from matplotlib.collections import LineCollection

    figure = style.blank(view.title, style.FULL, 1.0 + 0.33 * len(axes))
    drawn = figure.add_subplot()
    drawn.grid(visible=False)
    keys = view.made.key.tolist()
    places = np.stack([axis.places for axis in axes], axis=1)
    places = np.where(np.isnan(places), ABSENT, places)
    rows = np.arange(len(axes))
    front = [keys.index(key) for key in view.front_keys]
    others = np.setdiff1d(np.arange(len(keys)), front)
    some = others
    if len(others) > MOST:
        some = others[np.unique(np.linspace(0, len(others) - 1, MOST).round().astype(int))]
    groups = (
        (some, style.GREY, 0.5, 0.4, 1, f"candidates ({len(others)})"),
        (front, style.BLUE, 0.9, 0.8, 2, f"front ({len(front)})"),
        ([keys.index(view.pick.key)], style.RED, 2.0, 1.0, 3, "pick"),
    )
    for group, colour, width, alpha, order, label in groups:
        lines = [np.stack([line, rows], axis=1) for line in places[group]]
        drawn.add_collection(
            LineCollection(
                lines, colors=colour, linewidths=width, alpha=alpha, zorder=order, label=label
            )
        )
    for row, axis in enumerate(axes):
        _axis(drawn, row, axis)
    drawn.set_yticks(rows, [style.plain(axis.label) for axis in axes])
    drawn.tick_params(length=0)
    drawn.set_xticks([])
    drawn.spines[:].set_visible(False)
    drawn.set_xlim(min(ABSENT, places.min()) - 0.02, 1.04)
    drawn.set_ylim(len(axes) - 0.35, -0.5)
    style.legend_above(figure, drawn)
    if legend := drawn.get_legend():
        for line in legend.get_lines():
            line.set_alpha(1.0)  # one faint line alone would not be seen
    if len(others) > MOST:
        style.note(figure, f"{MOST} of the {len(others)} candidates are drawn, evenly over time.")
    style.settle(figure)
    return figure


def _axis(drawn: "matplotlib.axes.Axes", row: int, axis: RecipeAxis) -> None:
    """The line, and below it its ends or the names along it."""
    drawn.plot((0, 1), (row, row), color=style.BLACK, linewidth=0.7, zorder=4)
    marks = axis.marks
    if len(marks) > NAMES:
        marks = [marks[0], marks[-1]]
    for place, text in marks:
        side = "left" if place == 0 else "right" if place == 1 else "center"
        drawn.plot((place, place), (row - 0.08, row + 0.08), color=style.BLACK, linewidth=0.7)
        drawn.annotate(
            style.plain(text), (place, row), xytext=(0, -2.5), textcoords="offset points",
            ha=side, va="top", fontsize=6.5, color="0.2", zorder=6,
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
        )  # fmt: skip
