"""Figures of the pages in results/ drawn from the tables of the other programs here."""

from typing import Any

import pandas as pd
from figure_marks import COLOURS, MARKS, RESULTS
from frames import where

from optishear.report import style


def joint() -> Any:
    """Question 4: every fixed method and profile, and the searched recipe, at 60 and 70 %."""
    table = pd.read_csv(RESULTS / "methods_smollm2" / "methods.csv.xz", dtype={"setting": str})
    text = "wikipedia-passages/evaluation, 24 of 315 windows of 512"
    table = where(table, table.evaluation.str.startswith(text) & (table.seed == 0))
    found = "found: ALPS, joint search"
    names = {
        "magnitude": "magnitude", "ria": "RIA", "wanda": "Wanda", "sparsegpt": "SparseGPT",
        "optima": "Wanda + refit", "alps": "ALPS", found: "found",
    }  # fmt: skip
    profiles = {"": "uniform", "owl": "OWL", "alphapruning": "AlphaPruning"}
    figure = style.blank("SmolLM2-135M: fixed methods and the searched recipe", style.FULL, 3.0)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, setting in zip(panels, ("0.6", "0.7")):
        rows = where(table, table.setting == setting).set_index("method")
        for number, (profile, label) in enumerate(profiles.items()):
            methods = [f"{m}@{profile}".rstrip("@") for m in names]
            there = [(place, m) for place, m in enumerate(methods) if m in rows.index]
            there = [(place, m) for place, m in there if m != found]
            axes.plot(
                [rows.perplexity[m] for _, m in there],
                [place + 0.17 * (number - 1) for place, _ in there],
                MARKS[number], color=COLOURS[number], label=label, markersize=5,
            )  # fmt: skip
        searched = rows.perplexity[rows.index.str.startswith(found)]
        axes.plot(
            searched, [len(names) - 1] * len(searched), "*", color=style.RED, markersize=11,
            markeredgecolor=style.BLACK, markeredgewidth=0.6, label="searched, a seed each",
        )  # fmt: skip
        axes.axvline(searched.max(), color=style.RED, linewidth=0.7)
        axes.set_xscale("log")
        axes.set_title(f"{100 * float(setting):g} %", fontsize=style.SMALL + 1, loc="left")
        axes.set_xlabel("held-out perplexity")
    panels[0].set_yticks(range(len(names)), list(names.values()))
    panels[0].legend(loc="upper right")
    style.note(
        figure, "Wikipedia passages, 24 × 512 tokens; pruned block by block; one calibration."
    )
    return figure


QUANTITIES = {
    "kl": "KL",
    "perplexity": "perplexity on search text",
    "centred_reconstruction": "reconstruction, centred",
    "reconstruction": "reconstruction",
    "taylor": "Taylor loss",
}


def objective() -> Any:
    """Question 5: rank correlation with held-out perplexity, by search tokens."""
    figure = style.blank(
        "Which objective ranks candidates as held-out perplexity does", style.FULL, 4.6
    )
    panels = figure.subplots(2, 2, sharex="row", sharey="row")
    models = {"ranks_embedded": "Embedded model", "ranks_smollm2": "SmolLM2-135M"}
    groups = {"all": "all recipes", "better half": "the better half"}
    for row, (folder, model) in zip(panels, models.items()):
        table = pd.read_csv(RESULTS / folder / "correlations.csv")
        for axes, (group, title) in zip(row, groups.items()):
            own = table[table.candidates == group].set_index("quantity")
            for number, (name, label) in enumerate(QUANTITIES.items()):
                rows = own.loc[name]
                axes.errorbar(
                    rows.tokens * 1.05 ** (number - 2), rows.spearman,
                    [rows.spearman - rows.low, rows.high - rows.spearman],
                    fmt=f"-{MARKS[number]}", color=COLOURS[number], label=label, markersize=4,
                    elinewidth=0.8, linewidth=1.2,
                )  # fmt: skip
            tokens = sorted(set(own.tokens))
            axes.set_xscale("log", base=2)
            axes.set_xticks(tokens, [f"{t:,}" for t in tokens])
            axes.minorticks_off()
            count = f"n = {own.n.iloc[0]}"
            axes.set_title(f"{model}, {title} ({count})", fontsize=style.SMALL + 1, loc="left")
        row[0].set_ylabel("Spearman's correlation")
    panels[1, 1].axhline(0, color=style.BLACK, linewidth=0.8)
    panels[1, 0].axhline(0, color=style.BLACK, linewidth=0.8)
    panels[0, 0].legend(loc="lower left", ncols=2)
    style.note(
        figure,
        "By search tokens; 60 %, random search and NSGA-II; 95 % intervals by bootstrap over "
        "recipes.",
    )
    return figure


SOLVERS = {"wanda": "Wanda", "sparsegpt": "SparseGPT", "optima": "Wanda + refit", "alps": "ALPS"}
BLENDED = {  # what the names of methods_table call them
    "self_attn.q_proj+self_attn.k_proj": "q, k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "": "attention",
    "mlp.gate_proj+mlp.up_proj": "gate, up",
    "mlp.down_proj": "down",
    "all": "all",
}


def blend() -> Any:
    """Question 3: held-out gain of mixing the Taylor loss in, by λ, solver and layers."""
    gains = _gains_of_blends(pd.read_csv(RESULTS / "lambda_embedded" / "methods.csv.xz"))
    figure = style.blank("Mixing the Taylor loss in: λ = 1 is plain", style.FULL, 3.0)
    panels = figure.subplots(1, 3, width_ratios=(3, 3, 4))
    panels[1].sharey(panels[0])
    for axes, (roles, title) in zip(panels, {"": "attention", "all": "all layers"}.items()):
        own = where(gains, (gains.roles == roles) & (gains["lambda"] > 0))
        for number, (solver, label) in enumerate(SOLVERS.items()):
            by = where(own, own.solver == solver).groupby("lambda").gain
            axes.errorbar(
                [*by.groups, 1.0], [*by.mean(), 0.0], [*by.std(), 0.0], fmt=f"-{MARKS[number]}",
                color=COLOURS[number], label=label, markersize=4, elinewidth=0.8, linewidth=1.1,
            )  # fmt: skip
        axes.axhline(0, color=style.BLACK, linewidth=0.8)
        axes.set_title(f"blended: {title}", fontsize=style.SMALL + 1, loc="left")
        axes.set_xlabel("λ")
    own = where(gains, gains["lambda"] == 0.9)
    for number, (solver, label) in enumerate(SOLVERS.items()):
        by = where(own, own.solver == solver).groupby("roles").gain
        there = [roles for roles in BLENDED if roles in by.groups]
        panels[2].errorbar(
            [[*BLENDED].index(roles) + 0.15 * (number - 1.5) for roles in there],
            by.mean()[there], by.std()[there], fmt=MARKS[number], color=COLOURS[number],
            label=label, markersize=4, elinewidth=0.8,
        )  # fmt: skip
    panels[2].axhline(0, color=style.BLACK, linewidth=0.8)
    panels[2].set_xticks(range(len(BLENDED)), list(BLENDED.values()), rotation=60, ha="right")
    panels[2].set_title("λ = 0.9, blended alone", fontsize=style.SMALL + 1, loc="left")
    panels[0].set_ylabel("gain over λ = 1 (nats per token)")
    panels[0].legend()
    style.note(
        figure,
        "Embedded model, 60 %, block by block, held-out text; mean of three calibration seeds and "
        "their standard deviation.",
    )
    return figure


def _gains_of_blends(table: pd.DataFrame) -> pd.DataFrame:
    """Solver, λ, roles ("" is attention) and gain over λ = 1 of every blended row."""
    plain = table.set_index(["method", "seed"]).nats
    blended = table[table.method.str.contains("/lambda=")]
    facts = blended.method.str.extract(r"^(\w+)/lambda=([\d.]+)(?:/roles=(.+))?$")
    return pd.DataFrame(
        {
            "solver": facts[0],
            "lambda": facts[1].astype(float),
            "roles": facts[2].fillna(""),
            "gain": [
                plain[solver, seed] - nats
                for solver, seed, nats in zip(facts[0], blended.seed, blended.nats)
            ],
        }
    )


CALIBRATED_ON = {
    "embedded/train": "trained on",
    "embedded/search": "same kind, unseen",
    "wikipedia-passages/train": "Wikipedia",
    "brown/train": "Brown",
}


def calibration() -> Any:
    """Question 7: held-out perplexity by calibration sequences and source, three seeds."""
    table = pd.read_csv(RESULTS / "calibration_embedded" / "methods.csv.xz")
    table = table[table.method != "dense"]
    facts = table.calibration.str.extract(r"^([\w-]+/\w+), (\d+) of")
    table = table.assign(source=facts[0].map(CALIBRATED_ON), sequences=facts[1].astype(int))
    counts = sorted(set(table.sequences))
    figure = style.blank("How much calibration text, and which", style.FULL, 4.2)
    panels = figure.subplots(2, 3, sharex=True).flat
    for axes, (method, own) in zip(panels, table.groupby("method", sort=False), strict=True):
        for number, source in enumerate(CALIBRATED_ON.values()):
            rows = own[own.source == source]
            by = rows.groupby("sequences").perplexity
            axes.errorbar(
                by.mean().index * 1.04 ** (number - 1), by.mean(), by.std(),
                fmt=f"-{MARKS[number]}", color=COLOURS[number], label=source, markersize=3,
                elinewidth=0.8, linewidth=1.0,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, map(str, counts))
        axes.minorticks_off()
        axes.set_title(method, fontsize=style.SMALL + 1, loc="left")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    figure.supylabel("held-out perplexity", fontsize=style.SMALL + 1)
    style.note(
        figure,
        "By calibration sequences of 256 tokens. Embedded model, 60 %, block by block; mean of "
        "three seeds and their standard deviation.",
    )
    return figure


def transfer() -> Any:
    """Question 6: what recipes gain over uniform Wanda, by the model they were found on."""
    table = pd.read_csv(RESULTS / "transfer_table" / "transfers.csv")
    models = list(dict.fromkeys(table.on))
    figure = style.blank("Recipes carried from model to model, 60 %", style.FULL, 2.9)
    axes = figure.subplots()
    for number, (source, rows) in enumerate(table.groupby("found on", sort=False)):
        aside = 0.16 * (number - 1.5)
        places = [models.index(on) + aside for on in rows.on]
        axes.errorbar(
            places + 0.03 * rows.groupby("on").cumcount(), rows["gain over wanda"],
            rows["gain over wanda ±"], fmt=MARKS[number], color=COLOURS[number], label=source,
            markersize=4, elinewidth=0.8,
        )  # fmt: skip
    axes.axhline(0, color=style.BLACK, linewidth=0.8)
    axes.set_xticks(range(len(models)), models)
    axes.set(xlabel="applied to", ylabel="gain over Wanda (nats per token)")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper right", ncols=len(models) + 1,
        title="found on", title_fontsize=style.SMALL,
    )  # fmt: skip
    style.note(
        figure,
        "One-shot, held-out text of each model, one mark a run ± one standard error, paired. "
        "Uniform Wanda is 0.",
    )
    return figure
