"""The convergence figure: dominated hypervolume, or the best value, after each evaluation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from optishear.report import style
from optishear.report.front_figure import BASELINE_MARKS, FrontView, extent, footnote, scale_axis
from optishear.search.front import hypervolume_history


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

REFERENCE = 1.1  # in every objective, once they are scaled to [0, 1]

Outcome = tuple[float, ...] | None  # an evaluation's values in their own units, None if it failed


def convergence_figure(
    view: FrontView, outcomes: Sequence[Outcome], picked: int, title: str
) -> "matplotlib.figure.Figure":
    """`outcomes` in the order made; `picked` is the index of the picked recipe's."""
    figure = style.blank(title, style.HALF, 3.1)
    axes = figure.add_subplot()
    if len(view.quantities) == 1:
        (quantity,), best = view.quantities, _best(view, outcomes)
        _curve(axes, quantity.shown(best), picked, "best so far", f"pick (no. {picked + 1})")
        done = best[np.isfinite(best)]
        scale_axis(axes, "y", quantity, extent(quantity, done, done))
    else:
        scaled, remarks = _scaled(view, outcomes)
        volumes = hypervolume_history(scaled, np.full(len(view.quantities), REFERENCE))
        name = f"hypervolume (at the end {volumes[-1]:.3f})"
        _curve(axes, volumes, picked, name, f"pick (no. {picked + 1})")
        axes.set_ylabel(
            f"hypervolume (objectives scaled\nto [0, 1], reference {REFERENCE} in each)"
        )
        axes.margins(y=0.08)
        style.note(figure, remarks)
    _finish(figure, axes, outcomes)
    return figure


def value_figure(
    view: FrontView, outcomes: Sequence[Outcome], picked: int, title: str
) -> "matplotlib.figure.Figure":
    """One objective: every candidate's value where it was made, the best so far, the baselines."""
    (quantity,) = view.quantities
    figure = style.blank(title, style.FULL, 3.3)
    axes = figure.add_subplot()
    places = [index + 1 for index, outcome in enumerate(outcomes) if outcome is not None]
    axes.plot(
        places, quantity.shown(view.candidates[:, 0]), "o", color=style.GREY, alpha=0.55,
        markersize=2.6, markeredgewidth=0, label=f"candidates ({len(places)})",
    )  # fmt: skip
    scale_axis(axes, "y", quantity, view.bounds(0))
    for index, (name, values) in enumerate(view.baselines.items()):
        marker, colour = BASELINE_MARKS[index % len(BASELINE_MARKS)]
        level = np.clip(quantity.shown(np.array(values * 2)), *axes.get_ylim())
        axes.plot(
            (1, len(outcomes)), level, "--", marker=marker, color=colour, linewidth=0.9,
            markersize=5.5, markeredgecolor=style.BLACK, markeredgewidth=0.6, clip_on=False,
            label=style.plain(name), zorder=2.5,
        )  # fmt: skip
    text = f"pick: {style.plain(view.pick)}, {quantity.text(view.picked[0])}"
    _curve(axes, quantity.shown(_best(view, outcomes)), picked, "best so far", text)
    style.note(figure, footnote(view))
    _finish(figure, axes, outcomes)
    return figure


def _best(view: FrontView, outcomes: Sequence[Outcome]) -> Float[np.ndarray, " n"]:
    """The best value so far, NaN until one evaluation has succeeded."""
    made = np.array([np.nan if outcome is None else outcome[0] for outcome in outcomes])
    return (np.fmax if view.quantities[0].maximise else np.fmin).accumulate(made)


def _scaled(view: FrontView, outcomes: Sequence[Outcome]) -> tuple[list[Outcome], str]:
    """Minimised and brought to [0, 1] over the candidates, with remarks on how.

    As in the front's own figure, an error over many decades counts by its logarithm, and a few
    extreme candidates do not count into the range; else one of them would decide the whole scale.
    An objective that never varies is 0.
    """
    columns, extremes, logs = [], [], []
    for index, quantity in enumerate(view.quantities):
        values, front = view.candidates[:, index], view.front[:, index]
        low, high, log = extent(quantity, values, front)
        if extreme := int(((values < low) | (values > high)).sum()):
            extremes.append(f"{style.plain(quantity.name)} ({extreme})")
        if log:
            logs.append(style.plain(quantity.name))
            values, low, high = np.log10(values), np.log10(low), np.log10(high)
        share = (values - low) / (high - low or 1.0)
        columns.append(1 - share if quantity.maximise and high > low else share)
    points = iter(np.stack(columns, axis=1).tolist())
    scaled = [None if outcome is None else tuple(next(points)) for outcome in outcomes]
    remarks = [f"Extreme values left out of the scale: {', '.join(extremes)}."] if extremes else []
    remarks += [f"Scaled by the logarithm: {', '.join(logs)}."] if logs else []
    return scaled, " ".join(remarks)


def _curve(
    axes: "matplotlib.axes.Axes", values: Float[np.ndarray, " n"], picked: int, name: str, pick: str
) -> None:
    places = np.arange(1, len(values) + 1)
    axes.plot(places, values, drawstyle="steps-post", color=style.BLUE, linewidth=1.4, label=name)
    axes.plot(
        picked + 1, values[picked], "*", color=style.RED, markersize=11, zorder=5,
        markeredgecolor=style.BLACK, markeredgewidth=0.7, label=pick,
    )  # fmt: skip


def _finish(
    figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", outcomes: Sequence[Outcome]
) -> None:
    """The axis of evaluations; failed ones are ticks that stand on it."""
    from matplotlib.ticker import MaxNLocator

    if failed := [index + 1 for index, outcome in enumerate(outcomes) if outcome is None]:
        axes.plot(
            failed, [0.0] * len(failed), "|", color=style.RED, markersize=9, markeredgewidth=0.9,
            transform=axes.get_xaxis_transform(), clip_on=False, label=f"failed ({len(failed)})",
        )  # fmt: skip
    margin = max(0.02 * len(outcomes), 0.5)
    axes.set_xlim(1 - margin, len(outcomes) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel("evaluations")
    style.legend_above(figure, axes)
    style.settle(figure)
