"""From a run's files to its figures: `draw_figures` is the door of this folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from optishear.records.output import folder_for
from optishear.records.run_directory import RunDirectory
from optishear.report.axes_of_recipes import recipe_axes
from optishear.report.convergence_figure import convergence_figure, value_figure
from optishear.report.curve_figures import curve_figures
from optishear.report.front_figure import front_figure
from optishear.report.heatmap_figure import heatmap_figure
from optishear.report.importance import Importance, importances
from optishear.report.importance_figure import importance_figure
from optishear.report.parallel_figure import parallel_figure
from optishear.report.profile_figure import profile_figure
from optishear.report.run_view import RunView, read_run
from optishear.report.style import paper_style, save
from optishear.report.varying import varying


if TYPE_CHECKING:
    import matplotlib.figure


def draw_figures(run: RunDirectory) -> list[Path]:
    """Writes each figure of `make_figures`, and of `curve_figures` where layers were measured
    alone, into the run's folder, as PNG and as SVG."""
    with folder_for(run.figures, "RUN"), paper_style():
        view = read_run(run)
        drawn = {**make_figures(view), **curve_figures(run, view.title)}
        return [path for name, figure in drawn.items() for path in save(figure, run.figures / name)]


def make_figures(view: RunView) -> dict[str, "matplotlib.figure.Figure"]:
    """The figures by name, not yet written; to be called and saved inside `paper_style()`.

    Parallel coordinates need two recipes that differ, and importance as many evaluations as
    `importances` asks for; a run without them has no such figure.
    """
    if len(view.front.quantities) == 1:
        first = value_figure(view.front, view.outcomes, view.found, view.title)
    else:
        first = front_figure(view.front, view.title)
    figures = {
        "front": first,
        "profile": profile_figure(view.layout, view.pick.drop, view.title),
        "convergence": convergence_figure(view.front, view.outcomes, view.found, view.title),
        "heatmap": heatmap_figure(view.layout, view.pick, view.title),
    }
    features = varying(view.evaluations)
    if len(features.columns):
        figures["parallel"] = parallel_figure(view, recipe_axes(view))
    if found := importances_of(view):
        figures["importance"] = importance_figure(found, list(features), view.title)
    return figures


def importances_of(view: RunView) -> tuple[Importance, ...]:
    """Of all that varied, for each objective, over all evaluations at the front's rung."""
    objectives = {quantity.name: view.values(quantity.name) for quantity in view.front.quantities}
    return importances(varying(view.evaluations), objectives)
