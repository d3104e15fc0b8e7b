"""The front figure: every candidate, the front among them, the pick and the baselines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from optishear.report import style
from optishear.report.style import Quantity


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Values = Float[np.ndarray, "n objectives"]
Bounds = tuple[float, float, bool]

DECADES = 1.5  # positive errors that span more than this many are drawn on a log axis
BASELINE_MARKS = tuple(
    zip("sD^vPX<>", (style.ORANGE, style.GREEN, style.PURPLE, style.SKY, "#F0E442", "white") * 2)
)


@dataclass(frozen=True)
class FrontView:
    """What there is to draw, in the objectives' own units and directions."""

    quantities: tuple[Quantity, ...]
    candidates: Float[np.ndarray, "candidates objectives"]  # all that succeeded, in the order made
    front: Float[np.ndarray, "front objectives"]
    picked: tuple[float, ...]  # a row of `front`, unless finalists were measured block by block
    pick: str
    baselines: Mapping[str, tuple[float, ...]]
    failed: int

    def bounds(self, index: int) -> Bounds:
        """What the axis of this objective shows: the candidates, the front, the near baselines."""
        quantity, candidates, front = self.quantities[index], self.candidates, self.front[:, index]
        low, high, _ = extent(quantity, candidates[:, index], front)
        levels = [values[index] for values in self.baselines.values()]
        if not quantity.maximise and not quantity.percent and 0 < low < high:
            levels = [level for level in levels if level <= high * high / low]
        return extent(quantity, candidates[:, index], np.array([*front, *levels]))


def front_figure(view: FrontView, title: str) -> "matplotlib.figure.Figure":
    """Two objectives as one panel with the front as a staircase; more as a triangle of pairs."""
    return _panel(view, title) if len(view.quantities) == 2 else _triangle(view, title)


def _panel(view: FrontView, title: str) -> "matplotlib.figure.Figure":
    figure = style.blank(title, style.FULL, 4.1)
    axes = figure.add_subplot()
    x = next((i for i, q in enumerate(view.quantities) if q.name == "sparsity"), 0)
    y = 1 - x
    across, up = (view.quantities[i].shown(view.front[:, i]) for i in (x, y))
    order = np.lexsort((up, across))
    # Between two points of the front one can count on the one that is no worse across, no more.
    turn = slice(None, -1), slice(1, None)
    early, late = turn if view.quantities[x].maximise else turn[::-1]
    stairs = np.repeat(across[order], 2)[early], np.repeat(up[order], 2)[late]
    axes.plot(*stairs, color=style.BLUE, linewidth=1.1, zorder=2)
    scale_axis(axes, "x", view.quantities[x], view.bounds(x))
    scale_axis(axes, "y", view.quantities[y], view.bounds(y))
    _marks(axes, view, x, y)
    style.legend_above(figure, axes)
    style.note(figure, footnote(view))
    style.settle(figure)
    lines = [q.text(v) for q, v in zip(view.quantities, view.picked)]
    text = "\n".join([style.plain(view.pick).replace(",", ",\n"), *lines])
    at = [view.quantities[i].shown(np.array([view.picked[i]])).item() for i in (x, y)]
    style.callout(axes, text, (at[0], at[1]))
    return figure


def _triangle(view: FrontView, title: str) -> "matplotlib.figure.Figure":
    """Column i has objective i across, row j objective j + 1 upwards; the legend in the corner."""
    last = len(view.quantities) - 1
    figure = style.blank(title, style.FULL, 6.4)
    corner = figure.add_subplot(last, last, last)
    corner.set_axis_off()
    for i, j in combinations_with_replacement(range(last), 2):
        axes = figure.add_subplot(last, last, j * last + i + 1)
        scale_axis(axes, "x", view.quantities[i], view.bounds(i), ticks=5)
        scale_axis(axes, "y", view.quantities[j + 1], view.bounds(j + 1), ticks=5)
        _marks(axes, view, x=i, y=j + 1)
        if last > 2:  # narrow panels
            axes.set_xlabel(axes.get_xlabel().replace(" (", "\n(", 1))
            axes.set_ylabel(axes.get_ylabel().replace(" (", "\n(", 1))
        axes.label_outer()
    legend = corner.legend(*axes.get_legend_handles_labels(), loc="upper right")
    legend.set_in_layout(False)
    values = [q.text(v) for q, v in zip(view.quantities, view.picked)]
    style.note(figure, f"{style.plain(view.pick)}: {', '.join(values)}. {footnote(view)}")
    figure.align_ylabels()
    style.settle(figure)
    return figure


def _marks(axes: "matplotlib.axes.Axes", view: FrontView, x: int, y: int) -> None:
    """Everything at its place, but baselines that are too far at the edge of the settled axes."""

    def place(values: Values) -> list[Float[np.ndarray, " n"]]:
        return [view.quantities[i].shown(values[:, i]) for i in (x, y)]

    axes.plot(
        *place(view.candidates), "o", color=style.GREY, alpha=0.55, markersize=2.6,
        markeredgewidth=0, label=f"candidates ({len(view.candidates)})",
    )  # fmt: skip
    axes.plot(
        *place(view.front), "o", color=style.BLUE, markersize=4.6, markeredgecolor="white",
        markeredgewidth=0.5, zorder=3, label=f"front ({len(view.front)})",
    )  # fmt: skip
    for number, (name, values) in enumerate(view.baselines.items()):
        marker, colour = BASELINE_MARKS[number % len(BASELINE_MARKS)]
        across, up = place(np.array([values]))
        axes.plot(
            np.clip(across, *axes.get_xlim()), np.clip(up, *axes.get_ylim()), marker, color=colour,
            markersize=6.5, zorder=4, markeredgecolor=style.BLACK, markeredgewidth=0.7,
            clip_on=False, label=style.plain(name),
        )  # fmt: skip
    axes.plot(
        *place(np.array([view.picked])), "*", color=style.RED, markersize=13, zorder=5,
        markeredgecolor=style.BLACK, markeredgewidth=0.7, clip_on=False, label="pick",
    )  # fmt: skip


def extent(
    quantity: Quantity, candidates: Float[np.ndarray, " n"], fixed: Float[np.ndarray, " m"]
) -> Bounds:
    """Least and greatest value to show, and whether by logarithms.

    All that is `fixed` is inside. Of the candidates a few extreme ones (beyond three quartile
    ranges, at most a fortieth at either end) are left out where they widen the rest by half.
    """
    every = np.concatenate([fixed, candidates])
    positive = not quantity.maximise and not quantity.percent and bool(every.min() > 0)
    places = np.log10(every) if positive else every
    fence_low, q1, q3, fence_high = np.quantile(places[len(fixed) :], [0.025, 0.25, 0.75, 0.975])
    reach = 3 * (q3 - q1)
    inside = (places >= min(fence_low, q1 - reach)) & (places <= max(fence_high, q3 + reach))
    inside[: len(fixed)] = True
    if np.ptp(places) <= 1.5 * np.ptp(places[inside]):
        inside[:] = True
    low, high = float(every[inside].min()), float(every[inside].max())
    return low, high, positive and float(np.ptp(places[inside])) > DECADES


def scale_axis(
    axes: "matplotlib.axes.Axes", side: str, quantity: Quantity, bounds: Bounds, ticks: int = 8
) -> None:
    """Label, scale, limits (with a margin) and ticks of the axis `side`, x or y."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high, log = bounds
    axis = axes.xaxis if side == "x" else axes.yaxis
    ends = np.log10([low, high]) if log else quantity.shown(np.array([low, high]))
    margin = 0.05 * np.ptp(ends) or 0.05 * abs(ends[1]) or 1.0
    ends = ends + np.array([-margin, margin])
    axis.set_label_text(quantity.label)
    axes.set(**{f"{side}lim": 10**ends if log else ends})
    if not log:
        axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
        power = math.floor(math.log10(np.abs(ends).max() or 1))
        if not -3 < power < 5:  # into the label: above the axis it would lie under the legend
            axis.set_label_text(rf"{quantity.label}  $\times\,10^{{{power}}}$")
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 10.0**power:g}"))
        return
    axes.set(**{f"{side}scale": "log"})
    if np.ptp(ends) < 3 and ticks > 5:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: style.number(value)))
    axis.set_minor_formatter(NullFormatter())


def footnote(view: FrontView) -> str:
    """What the axes do not show: failures, and what lies outside."""
    parts = []
    if view.failed:
        parts.append(f"{view.failed} evaluation{'s' if view.failed > 1 else ''} failed.")
    low, high, _ = zip(*[view.bounds(index) for index in range(len(view.quantities))])
    outside = (view.candidates < low) | (view.candidates > high)
    furthest = []
    for index in np.flatnonzero(outside.any(axis=0)).tolist():
        values = view.candidates[:, index]
        value = values[np.argmax(np.abs(values - np.median(values)))]
        furthest.append(view.quantities[index].text(float(value)))
    if count := int(outside.any(axis=1).sum()):
        who = "1 candidate lies" if count == 1 else f"{count} candidates lie"
        parts.append(f"{who} outside the axes (furthest: {', '.join(furthest)}).")
    beyond = [
        f"{style.plain(name)} ({quantity.text(value)})"
        for name, values in view.baselines.items()
        for quantity, value, most in zip(view.quantities, values, high, strict=True)
        if value > most
    ]
    if beyond:
        parts.append(f"Drawn at the edge, but beyond it: {', '.join(beyond)}.")
    return " ".join(parts)
