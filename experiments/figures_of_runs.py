"""Figures of results/README.md that are drawn from runs: their tables, journals and comparisons."""

import json
from typing import Any

import numpy as np
import pandas as pd
from figure_marks import MARKS, RESULTS

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
    figure = style.blank("The 318 metrics, and who finds the best of them", style.FULL, 2.9)
    left, right = figure.subplots(1, 2, width_ratios=(3, 4))
    table = _runs("metric")
    [every] = table[table["search.driver"] == "exhaustive"].run
    folder = RESULTS / "metric" / every
    lines = (folder / "journal.jsonl").read_text().splitlines()[1:]
    kls = sorted(entry["values"]["kl"] for entry in map(json.loads, lines) if entry["values"])
    left.semilogy(range(1, len(kls) + 1), kls, "-", color=style.BLUE, linewidth=1.4)
    rows = json.loads((folder / "evaluation.json").read_text())["rows"]
    fixed = {row["name"]: row["search"]["kl"] for row in rows if row.get("search")}
    for mark, (name, colour) in zip(
        MARKS, {"magnitude": style.GREY, "wanda": style.ORANGE, "ria": style.GREEN}.items()
    ):
        place = int(np.searchsorted(kls, fixed[name])) + 1
        left.plot(place, fixed[name], mark, color=colour, label=name, markersize=6)
    left.set(xlabel="metric, by rank", ylabel="KL (nats per token)")
    left.legend()
    for mark, colour, shift, (name, label) in zip(
        MARKS, (style.BLUE, style.RED), (-0.12, 0.12),
        {"metric": "of the 318", "metric_continuous": "continuous"}.items(),
    ):  # fmt: skip
        own = _runs(name)
        gain = _column(own, "gain over ria")
        places = [DRIVERS.index(driver) + shift for driver in own["search.driver"]]
        right.errorbar(
            places + 0.04 * (own["search.seed"] - 1), own[gain], own[f"{gain} ±"], fmt=mark,
            color=colour, label=label, markersize=4, elinewidth=0.8,
        )  # fmt: skip
    right.axhline(0, color=style.BLACK, linewidth=0.8)
    right.set_xticks(range(len(DRIVERS)), DRIVERS)
    right.set(ylabel="gain over RIA (nats per token)")
    right.legend()
    style.note(
        figure,
        "Embedded model, 60 % a row. KL on search text, gain on held-out text: a mark a seed, "
        "± one standard error, paired.",
    )
    return figure


def layers() -> Any:
    """Question 2: held-out perplexity under Wanda's scores, by whose sparsities."""
    table = _runs("layer_sparsity")
    usual = table["objectives"].map(len) == 2  # reconstruction and KL; KL alone is EvoPress's
    table = table[table["space.sparsity.budget"].notna() & usual]
    figure = style.blank("Layer sparsities under Wanda's scores", style.FULL, 2.9)
    panels = figure.subplots(1, 3)
    searched = {"block": "per block", "layer": "per layer", "curve": "curve"}
    fixed = {"wanda": "uniform", "wanda@owl": "OWL", "wanda@alphapruning": "AlphaPruning"}
    for axes, (budget, rows) in zip(panels, table.groupby("space.sparsity.budget")):
        columns = {
            label: (rows, _column(table, name), style.GREY) for name, label in fixed.items()
        } | {
            label: (rows[rows["space.sparsity.by"] == kind], _column(table, "found"), style.BLUE)
            for kind, label in searched.items()
        }
        top = 1.03 * rows[_column(table, "wanda")].max()
        for place, (own, column, colour) in enumerate(columns.values()):
            values = own[column]
            if values.min() > top:
                text = f"↑ {style.number(values.mean())}"
                axes.text(place, top, text, ha="center", va="top", fontsize=style.SMALL)
            else:
                axes.plot([place] * len(values), values, "o", color=colour, markersize=4)
        axes.set_ylim(top=top)
        axes.set_xticks(range(len(columns)), list(columns), rotation=60, ha="right")
        axes.set_title(f"{100 * budget:g} %", fontsize=style.SMALL + 1, loc="left")
    panels[0].set_ylabel("held-out perplexity")
    style.note(
        figure, "Embedded model; NSGA-II, 96 evaluations; a mark a seed (other windows each)."
    )
    return figure


def parts() -> Any:
    """Question 4: what each part of the space gains alone and with others, three seeds."""
    table = _runs("joint_parts")
    gain = _column(table, "gain over optima")
    figure = style.blank("Joint search against its parts, 96 evaluations each", style.FULL, 2.2)
    axes = figure.subplots()
    for place, rows in table.groupby(table.apply(_part, axis=1)):
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


def _part(run: pd.Series) -> int:
    """Which of PARTS was searched."""
    metric, sparsities = "power" in str(run["space.metric"]), run["space.sparsity.by"] == "block"
    if pd.notna(run["space.moonshot.by"]):
        return 4 if metric and sparsities else 0
    return 3 if metric and sparsities else 2 if sparsities else 1


def _runs(experiment: str) -> pd.DataFrame:
    [runs] = finished_runs([RESULTS / experiment]).values()
    return run_table(runs)


def _column(table: pd.DataFrame, name: str) -> str:
    """The column of that name, whatever the held-out text is called."""
    [column] = [c for c in table.columns if str(c).endswith(f": {name}")]
    return str(column)
