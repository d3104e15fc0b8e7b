"""The importance figure: rank correlations of features and objectives, intervals, and noise."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from optishear.report import style
from optishear.report.importance import DRAWS, LEVEL, Importance


if TYPE_CHECKING:
    import matplotlib.figure


def importance_figure(
    found: Sequence[Importance], features: Sequence[str], title: str
) -> "matplotlib.figure.Figure":
    """A column an objective, a row a feature in the order of `features`, as data flows."""
    shown = [name for name in features if any(name in one.table.index for one in found)]
    figure = style.blank(title, style.FULL, 1.35 + 0.19 * len(shown))
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, one in zip(panels, found, strict=True):
        table = one.table.reindex(shown)
        rows = np.arange(len(shown))
        panel.barh(
            rows, 2 * table.noise, left=-table.noise, height=0.9, color="#E4E4E4",
            label="could be chance",
        )  # fmt: skip
        panel.axvline(0, color=style.BLACK, linewidth=0.6)
        for clear, marker, colour, label in (
            (True, "o", style.BLUE, "beyond chance"),
            (False, "o", "white", "not told from chance"),
        ):
            chosen = (table.clear == clear).to_numpy()
            edges = style.BLUE if clear else style.GREY
            panel.hlines(
                rows[chosen], table.low[chosen], table.high[chosen], color=edges, linewidth=1.1
            )
            panel.plot(
                table.effect[chosen], rows[chosen], marker, color=colour, markersize=4.4,
                markeredgecolor=edges, markeredgewidth=0.9, label=label, zorder=3,
            )  # fmt: skip
        panel.set_xlim(-1.08, 1.08)
        panel.set_xticks((-1, 0, 1) if len(found) > 2 else (-1, -0.5, 0, 0.5, 1))
        panel.set_title(style.plain(one.objective), fontsize=8.5)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        panel.set_ylim(len(shown) - 0.4, -0.6)
    panels[0].set_yticks(range(len(shown)), [style.plain(name) for name in shown])
    handles, labels = panels[0].get_legend_handles_labels()
    counts = " or ".join(str(count) for count in sorted({one.evaluations for one in found}))
    figure.legend(
        handles, labels, loc="outside lower left",
        ncols=style.columns(labels, style.FULL - 0.2), alignment="left",
        title_fontsize=style.SMALL - 0.5,
        title=f"Spearman's rank correlation (of names: correlation ratio of the ranks, from 0) "
        f"over {counts} evaluations;\nlines are {LEVEL:.0%} bootstrap intervals ({DRAWS} draws).",
    )  # fmt: skip
    style.settle(figure)
    return figure
