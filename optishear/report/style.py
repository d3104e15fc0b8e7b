"""The style of every figure: paper sizes, and colours and marks that survive a grey printer."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from optishear.records.atomic import replace_file


if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

FULL, HALF = 7.0, 3.5  # inches: the width of a page and of one of its two columns
DPI = 200
SILENT = {"png": "Software", "svg": "Date"}  # what would differ from one day to the next
SMALL = 7.5  # points: legends, titles, notes

# Okabe and Ito's palette; every colour is used together with a marker or a weight of its own.
BLACK, BLUE, RED, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
ORANGE, SKY, PURPLE, GREY = "#E69F00", "#56B4E9", "#CC79A7", "#9A9A9A"

SETTINGS = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so equal on every machine
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "svg.hashsalt": "optishear",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Quantity:
    """An objective as a reader sees it: fractions in per cent, all else in its own unit."""

    name: str
    unit: str
    maximise: bool

    @property
    def percent(self) -> bool:
        return self.unit.startswith("fraction of ")

    @property
    def label(self) -> str:
        unit = f"% of {self.unit.removeprefix('fraction of ')}" if self.percent else self.unit
        unit = plain(unit).replace("_F", "$_F$")  # the Frobenius norm's index
        if unit.startswith(self.name):  # perplexity, in "perplexity (search text)"
            return unit
        return f"{plain(self.name)} ({unit})" if unit else plain(self.name)

    def shown(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        return values * 100 if self.percent else values

    def text(self, value: float) -> str:
        return f"{plain(self.name)} {f'{100 * value:.1f} %' if self.percent else number(value)}"


def without_backend() -> Any:
    """matplotlib, imported though MPLBACKEND names a backend that is not installed here (a notebook
    sets it for whatever it starts). Our figures have a canvas of their own and open no window."""
    if (known := sys.modules.get("matplotlib")) is not None:
        return known
    asked = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked
    from matplotlib.backends.registry import backend_registry

    if asked and backend_registry.is_valid_backend(asked):
        matplotlib.rcParams["backend"] = asked  # for the caller's own figures
    return matplotlib


@contextmanager
def paper_style() -> Iterator[None]:
    """matplotlib's own defaults and ours inside, the caller's settings again on leaving."""
    matplotlib = without_backend()
    settings: dict[Any, Any] = dict(matplotlib.rcParamsDefault) | SETTINGS
    with matplotlib.rc_context({k: v for k, v in settings.items() if k != "backend"}):
        yield


def blank(title: str, width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty figure of this size in inches, that finds its own margins."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    lines = fill(plain(title), width=int(16 * width), max_lines=2, placeholder=" …")
    figure.suptitle(lines, fontsize=SMALL + 0.5, x=0.01, ha="left", color="0.25")
    return figure


def save(
    figure: "matplotlib.figure.Figure", stem: Path, kinds: Sequence[str] = tuple(SILENT)
) -> list[Path]:
    """`stem`.png and `stem`.svg, or one of them; the same figure gives the same bytes."""
    paths = []
    for kind in kinds:
        content = BytesIO()
        figure.savefig(content, format=kind, dpi=DPI, metadata={SILENT[kind]: None})
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        replace_file(paths[-1], content.getvalue())
    return paths


def settle(figure: "matplotlib.figure.Figure") -> None:
    """Lays the figure out once and for all, so that its places can be measured."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def note(figure: "matplotlib.figure.Figure", text: str) -> None:
    """A footnote at the lower left, on as many lines as it takes."""
    if not text:
        return
    width = int(17 * figure.get_figwidth())
    figure.supxlabel(fill(text, width), fontsize=SMALL - 0.5, x=0.01, ha="left", color="0.35")


def legend_above(figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes") -> None:
    """The legend between title and axes, in as many columns as its longest label allows."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        ncols=columns(axes.get_legend_handles_labels()[1], figure.get_figwidth() - 0.8),
        handletextpad=0.4,
        columnspacing=1.2,
        handlelength=1.6,
    )


def columns(labels: Sequence[str], width: float) -> int:
    """In how many columns a legend `width` inches wide has its fewest rows, and full ones."""
    inches = np.array([0.054 * len(label) + 0.5 for label in labels])  # text, handle and gaps
    fitting = [
        number
        for number in range(1, len(labels) + 1)
        if sum(column.max() for column in np.array_split(inches, number)) <= width
    ]
    rows = -(-len(labels) // max(fitting, default=1))
    return -(-len(labels) // rows)


def callout(axes: "matplotlib.axes.Axes", text: str, at: tuple[float, float]) -> None:
    """The text beside the point, where it hides least; the layout must be settled."""
    label = axes.annotate(
        text, at, xytext=(0, 0), textcoords="offset points", fontsize=SMALL, zorder=6,
        multialignment="left",
        bbox={"boxstyle": "round,pad=0.3", "fc": "white", "ec": "0.6", "lw": 0.5},
        arrowprops={"arrowstyle": "-", "color": BLACK, "lw": 0.6, "shrinkB": 5},
    )  # fmt: skip
    point, dots = axes.transData.transform(at), DPI / 72
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
            path = line.get_transform().transform_path(line.get_path())
            drawn = path if line.get_linestyle() == "None" else path.interpolated(9)
            marks = np.asarray(drawn.vertices)
            within = ((marks > low) & (marks < low + size)).all(axis=1).sum()
            hidden += 10 ** (line.get_zorder() - 2) * float(within)
        if hidden < least:
            sides = ("right", "center", "left")[right + 1], ("top", "center", "bottom")[up + 1]
            best, least = ((right * reach, up * reach), *sides), hidden
    label.set(position=best[0], ha=best[1], va=best[2])


def plain(text: str) -> str:
    """The text as it is: matplotlib would read what lies between two dollar signs as formulas."""
    return text.replace("$", r"\$")


def number(value: float) -> str:
    """Three significant digits, thousands written out."""
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"
