"""How the search got there: the dominated hypervolume, or the best value, after each evaluation."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from optishear.report import style
from optishear.report.front_figure import BASELINE_MARKS, frame, scale_axis
from optishear.report.style import Quantity
from optishear.search.front import hypervolume_history


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

REFERENCE = 1.1  # in every objective, once they are scaled to [0, 1]

Outcome = tuple[float, ...] | None  # an evaluation's values in their own units, None if it failed


def convergence_figure(
    quantities: Sequence[Quantity], outcomes: Sequence[Outcome], picked: int, title: str
) -> "matplotlib.figure.Figure":
    """`outcomes` in the order made; `picked` is the index of the picked recipe's."""
    if len(quantities) == 1:
        return value_figure(quantities[0], outcomes, picked, title, width=style.HALF)
    figure = style.blank(title, style.HALF, 2.9)
    axes = figure.add_subplot()
    volumes = hypervolume_history(_scaled(quantities, outcomes), np.full(len(quantities), REFERENCE))
    _curve(axes, volumes, picked, f"hypervolume (at the end {volumes[-1]:.3f})")
    axes.set_ylabel(f"hypervolume (objectives scaled\nto [0, 1], reference {REFERENCE} in each)")
    axes.margins(y=0.08)
    _finish(figure, axes, outcomes)
    return figure


def value_figure(
    quantity: Quantity,
    outcomes: Sequence[Outcome],
    picked: int,
    title: str,
    width: float = style.FULL,
    baselines: Mapping[str, tuple[float, ...]] | None = None,
) -> "matplotlib.figure.Figure":
    """One objective: every candidate's value where it was made, and the best so far."""
    baselines = baselines or {}
    figure = style.blank(title, width, 2.9)
    axes = figure.add_subplot()
    made = np.array([np.nan if o is None else o[0] for o in outcomes])
    done = np.flatnonzero(np.isfinite(made))
    axes.plot(
        done + 1, quantity.shown(made[done]), "o", color=style.GREY, alpha=0.55, markersize=2.6,
        markeredgewidth=0, label=f"candidates ({len(done)})",
    )  # fmt: skip
    best = (np.fmax if quantity.maximise else np.fmin).accumulate(made)
    for index, (name, values) in enumerate(baselines.items()):
        marker, colour = BASELINE_MARKS[index % len(BASELINE_MARKS)]
        level = [float(quantity.shown(np.array(values[0])))] * 2
        axes.plot(
            (1, len(outcomes)), level, "--", marker=marker, color=colour, linewidth=0.9,
            markersize=5.5, markeredgecolor=style.BLACK, markeredgewidth=0.6,
            label=style.plain(name), zorder=2.5,
        )  # fmt: skip
    _curve(axes, quantity.shown(best), picked, "best so far")
    fixed = np.array([best[done[0]], best[-1], *(values[0] for values in baselines.values())])
    scale_axis(axes.yaxis, quantity, frame(quantity, made[done], fixed))
    _finish(figure, axes, outcomes)
    return figure


def _scaled(quantities: Sequence[Quantity], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Minimised, and [0, 1] over all that succeeded; one that never varies is 0."""
    signs = np.array([-1.0 if quantity.maximise else 1.0 for quantity in quantities])
    values = np.array([outcome for outcome in outcomes if outcome is not None]) * signs
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    span = np.where(span > 0, span, 1.0)
    return [
        None if outcome is None else tuple(((np.array(outcome) * signs - low) / span).tolist())
        for outcome in outcomes
    ]


def _curve(
    axes: "matplotlib.axes.Axes", values: Float[np.ndarray, " n"], picked: int, label: str
) -> None:
    places = np.arange(1, len(values) + 1)
    axes.plot(places, values, drawstyle="steps-post", color=style.BLUE, linewidth=1.4, label=label)
    axes.plot(
        picked + 1, values[picked], "*", color=style.RED, markersize=11, zorder=5,
        markeredgecolor=style.BLACK, markeredgewidth=0.7, label=f"pick (made as no. {picked + 1})",
    )  # fmt: skip


def _finish(
    figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", outcomes: Sequence[Outcome]
) -> None:
    from matplotlib.ticker import MaxNLocator

    style.failures(axes, [index + 1 for index, o in enumerate(outcomes) if o is None])
    margin = max(0.02 * len(outcomes), 0.5)
    axes.set_xlim(1 - margin, len(outcomes) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("evaluations")
    style.legend_above(axes)
    style.settle(figure)
