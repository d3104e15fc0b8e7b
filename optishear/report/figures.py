"""From a run's files to its figures: `draw_figures` is the door of this folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optishear.errors import ConfigError
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.records.journal import read_journal
from optishear.records.run_directory import RunDirectory, read_json
from optishear.report.convergence_figure import Outcome, convergence_figure, value_figure
from optishear.report.front_figure import FrontView, front_figure
from optishear.report.profile_figure import profile_figure
from optishear.report.style import Quantity, paper_style, save


if TYPE_CHECKING:
    import matplotlib.figure

FORMAT = "optishear-front/1"
# Rows of evaluation.json that are no baselines: the start, and the pick in both modes.
OWN_ROWS = ("dense", "found", "found, block by block")


def draw_figures(run: RunDirectory) -> list[Path]:
    """Writes front, profile and convergence into the run's folder, each as PNG and as SVG.

    A run without an evaluation has no baselines to show, and is drawn without them.
    """
    with paper_style():
        drawn = make_figures(run)
        return [path for name, figure in drawn.items() for path in save(figure, run.figures / name)]


def make_figures(run: RunDirectory) -> dict[str, "matplotlib.figure.Figure"]:
    """The figures by name, not yet written; to be called and saved inside `paper_style()`."""
    front = _read_front(run)
    quantities = tuple(
        Quantity(data["name"], data["unit"], data["maximise"]) for data in front["objectives"]
    )
    names = [quantity.name for quantity in quantities]
    keys = [entry["key"] for entry in front["entries"]]
    made, outcomes = _outcomes(run, names, set(keys))
    title = f"{front['experiment']} · {front['model']}"
    layout, picked = ModelLayout.from_json(front["layout"]), keys.index(front["picked"])
    recipe = Recipe.from_json(front["entries"][picked]["recipe"], where=str(run.front))
    view = FrontView(
        quantities=quantities,
        candidates=np.array([outcome for outcome in outcomes if outcome is not None]),
        front=np.array([_point(entry["values"], names) for entry in front["entries"]]),
        picked=picked,
        pick=front["pick"],
        baselines=_baselines(run, names),
        failed=outcomes.count(None),
    )
    found = made.index(front["picked"])
    if len(names) == 1:
        first = value_figure(view, outcomes, found, title)
    else:
        first = front_figure(view, title)
    return {
        "front": first,
        "profile": profile_figure(layout, recipe.drop, title),
        "convergence": convergence_figure(view, outcomes, found, title),
    }


def _read_front(run: RunDirectory) -> Mapping[str, Any]:
    front = read_json(run.front)
    found = front.get("format") if isinstance(front, dict) else None
    if found != FORMAT:
        raise ConfigError(f"{run.front}: format is {found!r}, this version reads {FORMAT!r}.")
    if front["picked"] not in [entry["key"] for entry in front["entries"]]:
        raise ConfigError(
            f"{run.front}: the picked recipe {front['picked']!r} is none of its "
            f"{len(front['entries'])} entries. Run the search again to write it anew."
        )
    return front


def _outcomes(
    run: RunDirectory, names: list[str], front: set[str]
) -> tuple[list[str], list[Outcome]]:
    """Keys and values of all evaluations in the order made, of the rung that the front is from.

    Values of different rungs cannot be compared; the front is from the one with most tokens.
    """
    if not run.journal.exists():
        raise ConfigError(f"{run.journal}: is not there, and the figures show what is in it.")
    _, entries, _ = read_journal(run.journal)
    rung = max((entry["rung"] for entry in entries if entry["key"] in front), default=None)
    entries = [entry for entry in entries if entry["rung"] == rung]
    keys = [entry["key"] for entry in entries]
    if missing := sorted(front - set(keys)):
        raise ConfigError(
            f"{run.journal}: {len(missing)} of the {len(front)} recipes in {run.front.name} were "
            f"not evaluated here, first {missing[0]!r}. Run the search again to go on."
        )
    values = [entry["values"] for entry in entries]
    return keys, [None if row is None else _point(row, names) for row in values]


def _baselines(run: RunDirectory, names: list[str]) -> dict[str, tuple[float, ...]]:
    if not run.evaluation.exists():
        return {}
    rows = read_json(run.evaluation)["rows"]
    return {
        row["name"]: _point(row["search"], names)
        for row in rows
        if row["name"] not in OWN_ROWS and row["search"] and set(names) <= set(row["search"])
    }


def _point(values: Mapping[str, float], names: list[str]) -> tuple[float, ...]:
    return tuple(float(values[name]) for name in names)
