"""Figures of the pages in results/ drawn from runs: their tables, journals and comparisons."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from figure_marks import MARKS, RESULTS
from frames import groups, numbers, where

from optishear.records.journal import read_journal
from optishear.records.run_directory import find_run
from optishear.records.run_files import read_evaluation
from optishear.report import style
from optishear.report.run_table import finished_runs, run_table


DRIVERS = ("exhaustive", "nsga2", "nsga3", "tpe", "random")
PARTS = (
    "λ",
    "metric",
    "block sparsities",
    "metric + sparsities",
    "metric + sparsities + λ + solver",
)


def metric() -> Any:
    """Question 1: all metrics there are, sorted, and what each driver found in fewer."""
    figure = style.blank("The 318 metrics, and who finds the best of them", style.FULL, 5.2)
    embedded, smollm2 = figure.subplots(2, 2, width_ratios=(3, 4))
    _all_metrics(embedded[0], "metric")
    _all_metrics(smollm2[0], "metric_smollm2")
    both = {"of the 318": "metric", "continuous": "metric_continuous"}
    _gains_by_driver(embedded[1], both, over="RIA")
    _gains_by_driver(smollm2[1], {"of the 318": "metric_smollm2"}, over="Wanda")
    embedded[0].set_title("embedded model", fontsize=style.SMALL + 1, loc="left")
    smollm2[0].set_title("SmolLM2-135M", fontsize=style.SMALL + 1, loc="left")
    style.note(
        figure,
        "60 % a row. KL on search text; gain on held-out text over the best fixed metric: a mark a "
        "seed, ± one standard error, paired.",
    )
    return figure


def _all_metrics(axes: Any, experiment: str) -> None:
    table = _runs(experiment)
    [every] = table[table["search.driver"] == "exhaustive"].run
    run = find_run(RESULTS / experiment / every)
    _, entries, _ = read_journal(run.journal)
    kls = sorted(entry["values"]["kl"] for entry in entries if entry["values"])
    axes.semilogy(range(1, len(kls) + 1), kls, "-", color=style.BLUE, linewidth=1.4)
    rows = read_evaluation(run)
    fixed = {row["name"]: row["search"]["kl"] for row in rows if row.get("search")}
    for mark, (name, colour) in zip(
        MARKS, {"magnitude": style.GREY, "wanda": style.ORANGE, "ria": style.GREEN}.items()
    ):
        place = int(np.searchsorted(kls, fixed[name])) + 1
        axes.plot(place, fixed[name], mark, color=colour, label=name, markersize=6)
    axes.set(xlabel="metric, by rank", ylabel="KL (nats per token)")
    axes.legend()


def _gains_by_driver(axes: Any, experiments: Mapping[str, str], over: str) -> None:
    for mark, colour, shift, (label, name) in zip(
        MARKS, (style.BLUE, style.RED), (-0.12, 0.12), experiments.items()
    ):
        own = _runs(name)
        gain = _column(own, f"gain over {over.lower()}")
        places = [DRIVERS.index(driver) + shift for driver in own["search.driver"]]
        axes.errorbar(
            places + 0.04 * (own["search.seed"] - 1), own[gain], own[f"{gain} ±"], fmt=mark,
            color=colour, label=label, markersize=4, elinewidth=0.8,
        )  # fmt: skip
    axes.axhline(0, color=style.BLACK, linewidth=0.8)
    axes.set_xticks(range(len(DRIVERS)), DRIVERS)
    axes.set(ylabel=f"gain over {over} (nats/token)")
    axes.legend()


def layers() -> Any:
    """Question 2: held-out perplexity under Wanda's scores, by whose sparsities."""
    figure = style.blank("Layer sparsities under Wanda's scores", style.FULL, 5.6)
    rows_of_panels = figure.subplots(2, 4, width_ratios=(6, 6, 6, 4))
    models = {"layer_sparsity": "embedded", "layer_sparsity_smollm2": "SmolLM2"}
    for panels, (experiment, model) in zip(rows_of_panels, models.items()):
        table = _runs(experiment)
        by_rows = (table["space.pattern"] == "row") & table["space.sparsity.budget"].notna()
        for axes, (budget, rows) in zip(
            panels, groups(where(table, by_rows), "space.sparsity.budget")
        ):
            _sparsities(axes, rows)
            axes.set_title(f"{model}, {100 * budget:g} %", fontsize=style.SMALL + 1, loc="left")
        _patterns(panels[-1], where(table, table["space.pattern"] != "row"))
        panels[-1].set_title("N:M, 50 %", fontsize=style.SMALL + 1, loc="left")
        panels[0].set_ylabel("held-out perplexity")
    style.note(
        figure,
        "Grey: fixed, blue: searched (embedded 96 evaluations, SmolLM2 48); a mark a seed (other "
        "windows each).",
    )
    return figure


def _sparsities(axes: Any, rows: pd.DataFrame) -> None:
    fixed = {"wanda": "uniform", "wanda@owl": "OWL", "wanda@alphapruning": "AlphaPruning"}
    nsga2 = where(rows, rows["search.driver"] == "nsga2")
    nsga2 = where(nsga2, nsga2["objectives"].map(len) == 2)  # on KL alone: EvoPress's opponent
    searched = {
        "per block": where(nsga2, nsga2["space.sparsity.by"] == "block"),
        "per layer": where(nsga2, nsga2["space.sparsity.by"] == "layer"),
        "curve": where(nsga2, nsga2["space.sparsity.by"] == "curve"),
        "EvoPress": where(rows, rows["search.driver"] == "evopress"),
    }
    columns = {label: (nsga2, name, style.GREY) for name, label in fixed.items()}
    columns |= {label: (own, "found", style.BLUE) for label, own in searched.items() if len(own)}
    values = {label: numbers(own, _column(own, name)) for label, (own, name, _) in columns.items()}
    far = 1.3 * max(values[label].max() for label in ("uniform", *searched) if label in values)
    top = 1.03 * max(each.max() for each in values.values() if each.max() <= far)
    for place, (label, (_, _, colour)) in enumerate(columns.items()):
        if values[label].max() > far:
            text = f"↑ {style.number(values[label].mean())}"
            axes.text(place, top, text, ha="center", va="top", fontsize=style.SMALL)
        else:
            axes.plot([place] * len(values[label]), values[label], "o", color=colour, markersize=4)
    axes.set_ylim(top=top)
    axes.set_xticks(range(len(columns)), list(columns), rotation=60, ha="right")


def _patterns(axes: Any, rows: pd.DataFrame) -> None:
    places = []
    for of, named in (("n:4", "2:4"), ("n:8", "4:8")):
        own = where(rows, rows["space.pattern"] == of)
        for name, label, colour in (
            ("wanda", named, style.GREY), ("found", of.upper(), style.BLUE),
        ):  # fmt: skip
            axes.plot([len(places)] * len(own), own[_column(own, name)], "o", color=colour,
                      markersize=4)  # fmt: skip
            places.append(label)
    axes.set_xticks(range(len(places)), places, rotation=60, ha="right")
    axes.set_xlim(-0.5, len(places) - 0.5)


def parts() -> Any:
    """Question 4: what each part of the space gains alone and with others, three seeds."""
    table = _runs("joint_parts")
    gain = _column(table, "gain over optima")
    figure = style.blank("Joint search against its parts, 96 evaluations each", style.FULL, 2.2)
    axes = figure.subplots()
    part = [_part(run) for run in table.to_dict("records")]
    for place, rows in groups(table.assign(part=part), "part"):
        axes.errorbar(
            rows[gain], place + 0.12 * (rows["search.seed"] - 1), xerr=rows[f"{gain} ±"], fmt="o",
            color=style.BLUE, markersize=4, elinewidth=0.8,
        )  # fmt: skip
        axes.plot(rows[gain].mean(), place, "|", color=style.RED, markersize=16)
    axes.set_yticks(range(len(PARTS)), PARTS)
    axes.axvline(0, color=style.BLACK, linewidth=0.8)
    axes.set_xlabel("held-out gain over OPTIMA (nats per token)")
    style.note(
        figure,
        "Embedded model, 60 % a row, weights refitted; a dot a seed ± one standard error (paired), "
        "a bar their mean.",
    )
    return figure


def _part(run: Mapping[Any, Any]) -> int:
    """Which of PARTS was searched."""
    metric, sparsities = "power" in str(run["space.metric"]), run["space.sparsity.by"] == "block"
    if isinstance(run["space.moonshot.by"], str):
        return 4 if metric and sparsities else 0
    return 3 if metric and sparsities else 2 if sparsities else 1


def _runs(experiment: str) -> pd.DataFrame:
    [runs] = finished_runs([RESULTS / experiment]).values()
    return run_table(runs)


def _column(table: pd.DataFrame, name: str) -> str:
    """The column of that name, whatever the held-out text is called."""
    [column] = [c for c in table.columns if str(c).endswith(f": {name}")]
    return str(column)
