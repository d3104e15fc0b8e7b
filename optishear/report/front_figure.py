"""What the search has found: every candidate, the front among them, the pick and the baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from optishear.report import style
from optishear.report.style import Quantity


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.axis
    import matplotlib.figure

Values = Float[np.ndarray, "n objectives"]
Bounds = tuple[float, float, bool]

DECADES = 1.5  # positive errors that span more than this many are drawn on a log axis
BASELINE_MARKS = (("s", style.ORANGE), ("D", style.GREEN), ("^", style.PURPLE), ("v", style.SKY))


@dataclass(frozen=True)
class FrontView:
    """What there is to draw, in the objectives' own units and directions."""

    quantities: tuple[Quantity, ...]
    candidates: Values  # all that succeeded, in the order made
    front: Values
    picked: int  # row of `front`
    pick: str
    baselines: Mapping[str, tuple[float, ...]]
    failed: int

    @property
    def fixed(self) -> Values:
        """What every frame must hold: the front and the baselines."""
        return np.array([*self.front.tolist(), *self.baselines.values()])

    def bounds(self, index: int) -> Bounds:
        return frame(self.quantities[index], self.candidates[:, index], self.fixed[:, index])


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
    _marks(axes, view, x, y)
    for index, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        scale_axis(axis, view.quantities[index], view.bounds(index))
    style.legend_above(axes)
    style.note(figure, _footnote(view))
    style.settle(figure)
    lines = [q.text(v) for q, v in zip(view.quantities, view.front[view.picked].tolist())]
    text = "\n".join([style.plain(view.pick), *lines])
    _callout(axes, text, (float(across[view.picked]), float(up[view.picked])))
    return figure


def _triangle(view: FrontView, title: str) -> "matplotlib.figure.Figure":
    """Row i has objective i + 1 upwards, column j objective j across."""
    last = len(view.quantities) - 1
    figure = style.blank(title, style.FULL, 6.4)
    grid = figure.subplots(last, last, squeeze=False)
    for i, j in np.ndindex(last, last):
        axes = grid[i, j]
        if j > i:
            axes.set_axis_off()
            continue
        _marks(axes, view, x=j, y=i + 1)
        for index, axis in ((j, axes.xaxis), (i + 1, axes.yaxis)):
            scale_axis(axis, view.quantities[index], view.bounds(index), ticks=5)
        axes.label_outer()
    legend = grid[0, -1].legend(*grid[-1, 0].get_legend_handles_labels(), loc="upper right")
    legend.set_in_layout(False)
    values = [q.text(v) for q, v in zip(view.quantities, view.front[view.picked].tolist())]
    style.note(figure, f"{style.plain(view.pick)}: {', '.join(values)}. {_footnote(view)}")
    style.settle(figure)
    return figure


def _marks(axes: "matplotlib.axes.Axes", view: FrontView, x: int, y: int) -> None:
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
        axes.plot(
            *place(np.array([values])), marker, color=colour, markersize=6.5, zorder=4,
            markeredgecolor=style.BLACK, markeredgewidth=0.7, label=style.plain(name),
        )  # fmt: skip
    axes.plot(
        *place(view.front[[view.picked]]), "*", color=style.RED, markersize=13, zorder=5,
        markeredgecolor=style.BLACK, markeredgewidth=0.7, label=f"pick: {style.plain(view.pick)}",
    )  # fmt: skip


def frame(
    quantity: Quantity, candidates: Float[np.ndarray, " n"], fixed: Float[np.ndarray, " m"]
) -> Bounds:
    """Least and greatest value to show, and whether on a log axis.

    All that is `fixed` is inside. Of the candidates a few extreme ones (beyond three quartile
    ranges, at most a fortieth at either end) are left out where that widens the rest by half.
    """
    every = quantity.shown(np.concatenate([fixed, candidates]))
    positive = not quantity.maximise and not quantity.percent and bool(every.min() > 0)
    places = np.log10(every) if positive else every
    ends = places.min(), places.max()
    fence_low, q1, q3, fence_high = np.quantile(places[len(fixed) :], [0.025, 0.25, 0.75, 0.975])
    inside = (places >= min(fence_low, q1 - 3 * (q3 - q1))) & (
        places <= max(fence_high, q3 + 3 * (q3 - q1))
    )
    inside[: len(fixed)] = True
    low, high = places[inside].min(), places[inside].max()
    if ends[1] - ends[0] <= 1.5 * (high - low):
        low, high = ends
    log = positive and bool(high - low > DECADES)
    if positive and not log:
        low, high = 10**low, 10**high
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    return (float(10**low), float(10**high), True) if log else (float(low), float(high), False)


def scale_axis(
    axis: "matplotlib.axis.Axis", quantity: Quantity, bounds: Bounds, ticks: int = 8
) -> None:
    """Label, scale, limits and ticks of one axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high, log = bounds
    axis.set_label_text(quantity.label)
    axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})
    if not log:
        axis.set_major_locator(MaxNLocator(ticks))
        return
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_minor_formatter(NullFormatter())
    if np.log10(high / low) < 3 and ticks > 5:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: style.number(value)))


def _footnote(view: FrontView) -> str:
    """How many candidates there were, and which of them the frame leaves out."""
    bounds = [view.bounds(index) for index in range(len(view.quantities))]
    shown = np.stack([q.shown(view.candidates[:, i]) for i, q in enumerate(view.quantities)], 1)
    low, high = (np.array([b[end] for b in bounds]) for end in (0, 1))
    outside = (shown < low) | (shown > high)
    text = f"{len(shown)} candidates" + (f", {view.failed} failed" if view.failed else "") + "."
    if not outside.any():
        return text
    furthest = []
    for index in np.flatnonzero(outside.any(axis=0)):
        values = view.candidates[outside[:, index], index]
        distance = np.abs(values - np.median(view.candidates[:, index]))
        furthest.append(view.quantities[index].text(float(values[np.argmax(distance)])))
    count = int(outside.any(axis=1).sum())
    lie = "lies" if count == 1 else "lie"
    return f"{text} {count} {lie} outside the axes (furthest: {', '.join(furthest)})."


def _callout(axes: "matplotlib.axes.Axes", text: str, at: tuple[float, float]) -> None:
    """The text beside the point, where it hides least; the layout must be settled."""
    label = axes.annotate(
        text, at, xytext=(0, 0), textcoords="offset points", fontsize=style.SMALL, zorder=6,
        bbox={"boxstyle": "round,pad=0.3", "fc": "white", "ec": "0.6", "lw": 0.5},
        arrowprops={"arrowstyle": "-", "color": style.BLACK, "lw": 0.6, "shrinkB": 5},
    )  # fmt: skip
    point, dots = axes.transData.transform(at), style.DPI / 72
    around = label.get_window_extent().padded(6 * dots)
    size, inner = np.array([around.width, around.height]), axes.get_window_extent()
    corners = np.array([inner.min, inner.max])
    best, least = (label.get_position(), "left", "bottom"), np.inf
    for reach, right, up in product((12, 30, 55, 90), (1, -1, 0), (1, -1, 0)):
        if not (right or up):
            continue
        low = point + reach * dots * np.array([right, up]) + size * (np.array([right, up]) - 1) / 2
        hidden = 1e6 * bool((low < corners[0]).any() or (low + size > corners[1]).any()) + reach
        for line in axes.get_lines():  # what lies higher weighs more
            marks = line.get_transform().transform_path(line.get_path()).interpolated(9).vertices
            within = ((marks > low) & (marks < low + size)).all(axis=1).sum()
            hidden += 10 ** (line.get_zorder() - 2) * float(within)
        if hidden < least:
            sides = ("right", "center", "left")[right + 1], ("top", "center", "bottom")[up + 1]
            best, least = ((right * reach, up * reach), *sides), hidden
    label.set(position=best[0], ha=best[1], va=best[2])
