"""The figures of a run's curves, made and written: apart from those of its front, which may not be
there yet."""

from pathlib import Path
from typing import TYPE_CHECKING

from optishear.records.output import folder_for
from optishear.records.run_directory import RunDirectory
from optishear.records.run_files import read_manifest
from optishear.report.additivity import additivity
from optishear.report.additivity_figure import additivity_figure
from optishear.report.curves_figure import curves_figure
from optishear.report.measured_curves import MeasuredCurves, read_curves
from optishear.report.style import paper_style, save


if TYPE_CHECKING:
    import matplotlib.figure


def curve_figures(run: RunDirectory, title: str) -> dict[str, "matplotlib.figure.Figure"]:
    """By name `curves`, and `additivity` where there are enough recipes; none of a run without
    curves. To be called and saved inside `paper_style()`."""
    found = read_curves(run)
    return {} if found is None else figures_of(run, found, title)


def figures_of(
    run: RunDirectory, found: MeasuredCurves, title: str
) -> dict[str, "matplotlib.figure.Figure"]:
    """The same of curves that were read."""
    figures = {"curves": curves_figure(found, title)}
    if (compared := additivity(run, found)).enough:
        figures["additivity"] = additivity_figure(compared, title)
    return figures


def draw_curves(run: RunDirectory, found: MeasuredCurves) -> list[Path]:
    """Writes them into the run's folder, as PNG and as SVG; the run need not have finished."""
    experiment = read_manifest(run.manifest)["experiment"]
    title = f"{experiment['name']} · {experiment['model']}"
    with folder_for(run.figures, "RUN"), paper_style():
        drawn = figures_of(run, found, title)
        return [path for name, figure in drawn.items() for path in save(figure, run.figures / name)]
