"""The additivity figure: what recipes cost against the sum of what their layers cost alone."""

from typing import TYPE_CHECKING

import numpy as np

from optishear.report import style
from optishear.report.additivity import Additivity
from optishear.report.front_figure import extent, scale_axis
from optishear.report.style import Quantity


if TYPE_CHECKING:
    import matplotlib.figure


def additivity_figure(found: Additivity, title: str) -> "matplotlib.figure.Figure":
    """Both axes have one scale: on the dashed line costs add up."""
    figure = style.blank(title, style.HALF, style.HALF + 0.4)
    axes = figure.subplots()
    both = np.concatenate([found.predicted, found.measured])
    bounds = extent(found.quantity, both, both)  # all of them are inside
    quantity, unit = found.quantity, found.quantity.unit
    scale_axis(axes, "x", Quantity(f"{quantity.name}, sum of curves", unit, False), bounds, 5)
    scale_axis(axes, "y", Quantity(f"{quantity.name}, measured", unit, False), bounds, 5)
    ends = axes.get_xlim()
    axes.plot(ends, ends, "--", color=style.BLACK, linewidth=0.9, label="costs add up")
    axes.plot(
        found.predicted, found.measured, "o", color=style.BLUE, markersize=4.2, alpha=0.75,
        markeredgecolor="white", markeredgewidth=0.4, zorder=3,
        label=f"recipes ({len(found.recipes)})",
    )  # fmt: skip
    axes.set_aspect("equal")
    style.legend_above(figure, axes)
    style.note(figure, found.text[0].upper() + found.text[1:])
    style.settle(figure)
    return figure
