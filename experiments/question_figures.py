"""The figures of results/README.md, drawn from the files in results/ alone.

    python experiments/question_figures.py            # all, into results/figures
    python experiments/question_figures.py objective  # one of them

Nothing is measured here.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optishear.report import style
from optishear.report.run_table import finished_runs, run_table


RESULTS = Path(__file__).parents[1] / "results"
DRIVERS = ("exhaustive", "nsga2", "nsga3", "tpe", "random")
MARKS = "osD^vPX*"
COLOURS = (style.BLUE, style.RED, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.GREY)


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


def objective() -> Any:
    """Question 5: rank correlation with held-out perplexity, by search tokens."""
    table = pd.read_csv(RESULTS / "ranks_embedded" / "correlations.csv")
    figure = style.blank(
        "Which objective ranks candidates as held-out perplexity does", style.FULL, 2.9
    )
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"all": "all recipes", "better half": "the better half of them"}
    for axes, (group, title) in zip(panels, titles.items()):
        own = table[table.candidates == group]
        for number, (name, rows) in enumerate(own.groupby("quantity", sort=False)):
            axes.errorbar(
                rows.tokens * 1.06 ** (number - 1.5), rows.spearman,
                [rows.spearman - rows.low, rows.high - rows.spearman],
                fmt=f"-{MARKS[number]}", color=COLOURS[number], label=name, markersize=4,
                elinewidth=0.8, linewidth=1.2,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks([512, 2048, 8192], ["512", "2,048", "8,192"])
        axes.minorticks_off()
        axes.set_title(f"{title} (n = {own.n.iloc[0]})", fontsize=style.SMALL + 1, loc="left")
        axes.set_xlabel("search tokens")
    panels[0].set_ylabel("Spearman's correlation")
    panels[0].legend(loc="lower right")
    style.note(figure, "Embedded model at 60 %, three seeds; 95 % intervals by bootstrap.")
    return figure


def joint() -> Any:
    """Question 4: every fixed method and profile, and the searched recipe, at 60 and 70 %."""
    table = pd.read_csv(RESULTS / "methods_smollm2" / "methods.csv", dtype={"setting": str})
    text = "wikipedia-passages/evaluation, 24 of 315 windows of 512"
    table = table[table.evaluation.str.startswith(text)]
    found = "found: ALPS, joint search"
    names = {
        "magnitude": "magnitude", "ria": "RIA", "wanda": "Wanda", "sparsegpt": "SparseGPT",
        "optima": "Wanda + refit", "alps": "ALPS", found: "found",
    }  # fmt: skip
    profiles = {"": "uniform", "owl": "OWL", "alphapruning": "AlphaPruning"}
    figure = style.blank("SmolLM2-135M: fixed methods and the searched recipe", style.FULL, 3.0)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, setting in zip(panels, ("0.6", "0.7")):
        rows = table[table.setting == setting].set_index("method")
        for number, (profile, label) in enumerate(profiles.items()):
            methods = [f"{m}@{profile}".rstrip("@") for m in names]
            there = [(place, m) for place, m in enumerate(methods) if m in rows.index]
            there = [(place, m) for place, m in there if m != found]
            axes.plot(
                [rows.perplexity[m] for _, m in there],
                [place + 0.17 * (number - 1) for place, _ in there],
                MARKS[number], color=COLOURS[number], label=label, markersize=5,
            )  # fmt: skip
        if found in rows.index:
            axes.plot(
                rows.perplexity[found], len(names) - 1, "*", color=style.RED, markersize=11,
                markeredgecolor=style.BLACK, markeredgewidth=0.6, label="searched",
            )  # fmt: skip
            axes.axvline(rows.perplexity[found], color=style.RED, linewidth=0.7)
        axes.set_xscale("log")
        axes.set_title(f"{100 * float(setting):g} %", fontsize=style.SMALL + 1, loc="left")
        axes.set_xlabel("held-out perplexity")
    panels[0].set_yticks(range(len(names)), list(names.values()))
    panels[0].legend(loc="upper right")
    style.note(figure, "Wikipedia passages, 24 × 512 tokens; pruned block by block; one seed.")
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


PARTS = (
    "λ",
    "metric",
    "block sparsities",
    "metric + sparsities",
    "metric + sparsities + λ + solver",
)


def _part(run: pd.Series) -> int:
    """Which of PARTS was searched."""
    metric, sparsities = "power" in str(run["space.metric"]), run["space.sparsity.by"] == "block"
    if pd.notna(run["space.moonshot.by"]):
        return 4 if metric and sparsities else 0
    return 3 if metric and sparsities else 2 if sparsities else 1


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


FIGURES: Mapping[str, Callable[[], Any]] = {
    "metric": metric,
    "layers": layers,
    "parts": parts,
    "joint": joint,
    "objective": objective,
}


def _runs(experiment: str) -> pd.DataFrame:
    [runs] = finished_runs([RESULTS / experiment]).values()
    return run_table(runs)


def _column(table: pd.DataFrame, name: str) -> str:
    """The column of that name, whatever the held-out text is called."""
    [column] = [c for c in table.columns if str(c).endswith(f": {name}")]
    return str(column)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FIGURES)}; none: all")
    parser.add_argument("--out", type=Path, default=RESULTS / "figures")
    given = parser.parse_args()
    if unknown := sorted({*given.names} - {*FIGURES}):
        parser.error(f"no figure is called {unknown[0]!r}; there are: {', '.join(FIGURES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    with style.paper_style():
        for name in given.names or FIGURES:
            print(*style.save(FIGURES[name](), given.out / name))


if __name__ == "__main__":
    main()
