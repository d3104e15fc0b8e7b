"""What finds layer sparsities, and for how many tokens: rules, evolution, knapsack, gradient.

    python experiments/benchmarks/bench_allocation.py --work /tmp/runs --out results/allocation

Every contender searches the sparsities of all layers under one exact budget, for the least KL on
the same search tokens, and is then measured on held-out text, one-shot and block by block. Rules
are tuned: the best of a grid of their constants by KL on the search tokens, which count as its
tokens. A token is one token through one forward pass; a backward pass counts as two. A contender
that ends by itself before the others is left at what it had.

allocation.csv.xz has a row for each contender, setting and seed; paths.csv.xz the least KL by
tokens spent. A seed draws the calibration and search windows and seeds the driver. What is there
already is not measured again: runs lie under --work, where each resumes.
"""

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import torch
import yaml
from bench_common import markdown, origin_line
from figure_marks import COLOURS, MARKS
from frames import groups, where
from help_text import first_line

from optishear.config import Experiment
from optishear.config.files import load_experiment
from optishear.records.journal import read_journal
from optishear.records.run_directory import read_json
from optishear.report import style
from optishear.runs.results import Run
from optishear.runs.search import search
from optishear.runs.watcher import Silent
from optishear.search.slopes import PASSES


SOLVED = ["methods", "rules", "knapsack", "gradient"]
DESCENDED = ["methods", "rules", "gradient"]
SPACES: dict[str, dict[str, Any]] = {
    "wanda": {
        "pattern": "row",
        "metric": {"name": "wanda"},
        "sparsity": {"steps": 32, "low": 0.2, "high": 0.9},
    },
    "alps": {
        "pattern": "layer",
        "solver": {"name": "alps"},
        "sparsity": {"steps": 16, "low": 0.25, "high": 0.9},
    },
}
LAYERS, BLOCKS, CURVE = "layer", "block", "curve"
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {  # name: (sparsity.by, settings of the search)
    "random, curves": (CURVE, {"driver": "random"}),
    "random, layers": (LAYERS, {"driver": "random"}),
    "NSGA-II, curve": (CURVE, {"driver": "nsga2"}),
    "NSGA-II, blocks": (BLOCKS, {"driver": "nsga2"}),
    "EvoPress": (LAYERS, {"driver": "evopress", "keep": 0.25, "rungs": "quarter"}),
    "knapsack": (LAYERS, {"driver": "knapsack", "evaluations": 24}),
    "gradient": (LAYERS, {"driver": "gradient", "population": 1, "evaluations": 16}),
    "NSGA-II, seeded, guided": (
        LAYERS,
        {"driver": "nsga2", "seeds": SOLVED, "variation": "guided"},
    ),
    "NSGA-II, 6 short steps": (
        LAYERS,
        {"driver": "nsga2", "seeds": DESCENDED, "descent": {"tokens": 512, "steps": 6}},
    ),
    "NSGA-II, 16 steps": (
        LAYERS,
        {"driver": "nsga2", "seeds": DESCENDED, "descent": {"tokens": 2048, "steps": 16}},
    ),
}
SEEDED = [name for name, (_, changes) in CONTENDERS.items() if "seeds" in changes]
UNIFORM, RULES = "uniform", {
    "OWL, tuned": [f"owl:lambda={value}" for value in (0.02, 0.05, 0.08, 0.12, 0.16, 0.2)],
    "AlphaPruning, tuned": [f"alphapruning:epsilon={value}" for value in (0.05, 0.1, 0.2, 0.3)],
}  # fmt: skip
KEY = ["method", "setting", "seed", "contender"]


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--methods", default="wanda,alps")
    parser.add_argument("--settings", default="0.6,0.7")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--contenders", default=",".join(["fixed", *CONTENDERS]).replace(", ", "; ")
    )
    parser.add_argument("--rules", default="owl,alphapruning", help="that uniform stands beside")
    parser.add_argument("--calibration", default="embedded@train:64x256")
    parser.add_argument("--search", default="embedded@search:8x256")
    parser.add_argument("--evaluation", default="embedded@evaluation:128x256")
    parser.add_argument("--evaluations", type=int, default=96)
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="of the gradient among the seeds")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="where the runs lie")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    rows, path = load(given.out / "allocation.csv.xz"), load(given.out / "paths.csv.xz")
    done = {tuple(str(row[key]) for key in KEY) for row in rows}
    for method, setting, seed, contender in combinations(given):
        if (method, setting, seed, contender) in done:
            continue
        own = {"method": method, "setting": setting, "seed": seed}
        for found, way in measured(given, method, setting, seed, contender):
            rows.append({**own, **found})
            path += [{**own, "contender": found["contender"], **point} for point in way]
            print(*(f"{value}" for value in rows[-1].values()), flush=True)
        pd.DataFrame(rows).to_csv(given.out / "allocation.csv.xz", index=False)
        pd.DataFrame(path).to_csv(given.out / "paths.csv.xz", index=False)
    summarise(given, pd.DataFrame(rows), pd.DataFrame(path))


def load(path: Path) -> list[dict[str, Any]]:
    kinds = dict.fromkeys(KEY, str)
    return pd.read_csv(path, dtype=kinds).to_dict("records") if path.exists() else []  # pyright: ignore


def combinations(given: argparse.Namespace) -> Iterator[tuple[str, str, str, str]]:
    """One after the other, so that an early stop leaves whole columns."""
    for seed in given.seeds.split(","):
        for method in given.methods.split(","):
            for setting in given.settings.split(","):
                for contender in given.contenders.split(","):
                    name = contender.replace("; ", ", ")
                    yield method, setting, seed, UNIFORM if name == "fixed" else name


def experiment_of(
    given: argparse.Namespace, method: str, setting: str, seed: str, contender: str
) -> Experiment:
    """What a contender is, as an experiment file would say it."""
    by, changes = CONTENDERS.get(contender, (LAYERS, {"driver": "random", "evaluations": 2}))
    space = dict(SPACES[method])
    space["sparsity"] = {**space["sparsity"], "by": by, "budget": float(setting)}
    settings: dict[str, Any] = {
        "population": given.population,
        "evaluations": given.evaluations,
        "seed": int(seed),
        "descent": {"steps": given.steps},
        **changes,
    }
    settings["population"] = min(settings["population"], settings["evaluations"])
    search_text = text_of(given.search)
    if settings.get("rungs") == "quarter":
        settings["rungs"] = [search_text["sequences"] // 4 * search_text["seq_len"]]
    rules = [rule for grid in rules_of(given).values() for rule in grid]
    fixed = [method, *(f"{method}@{rule}" for rule in rules)]
    file = given.work / f"{given.model}_{method}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        yaml.safe_dump(
            {
                "model": given.model,
                "dtype": given.dtype,
                "threads": given.threads,
                "text": {
                    "calibration": text_of(given.calibration),
                    "search": search_text,
                    "evaluation": text_of(given.evaluation) | {"seed": 0},
                },
                "space": space,
                "objectives": ["kl"],
                "pick": "lowest:kl",
                "search": settings,
                "baselines": fixed if contender == UNIFORM else [],
            }
        )
    )
    return load_experiment(str(file))


def rules_of(given: argparse.Namespace) -> dict[str, list[str]]:
    """The grids of constants of the rules that are asked for."""
    asked = given.rules.split(",")
    return {name: grid for name, grid in RULES.items() if grid[0].partition(":")[0] in asked}


def text_of(said: str) -> dict[str, Any]:
    """`wikipedia-passages@search:8x512` as an experiment has it."""
    source, _, rest = said.partition("@")
    split, _, size = rest.partition(":")
    sequences, _, length = size.partition("x")
    return {"source": source, "split": split, "sequences": int(sequences), "seq_len": int(length)}


Row = dict[str, Any]


def measured(
    given: argparse.Namespace, method: str, setting: str, seed: str, contender: str
) -> Iterator[tuple[Row, list[Row]]]:
    """The contender's row and its path: KL so far by tokens spent."""
    experiment = experiment_of(given, method, setting, seed, contender)
    # In a folder of its own: what another contender measured would come first in its journal.
    run = search(experiment, given.work / re.sub(r"\W+", "_", contender), Silent())
    rows = {
        (row["name"].split(",")[0], row["mode"]): row
        for row in read_json(run.directory.evaluation)["rows"]
    }
    tokens = experiment.text.search.sequences * experiment.text.search.seq_len
    if contender != UNIFORM:
        path = path_of(run, tokens)
        kl = path[-1]["kl"]
        yield (
            {"contender": contender, "tokens": path[-1]["tokens"], "kl": kl, **of(rows, "found")},
            path,
        )
        return
    grids = {
        UNIFORM: [method],
        **{k: [f"{method}@{r}" for r in grid] for k, grid in rules_of(given).items()},
    }
    for name, grid in grids.items():
        values = {which: rows[which, "one-shot"]["search"]["kl"] for which in grid}
        best = min(values, key=values.__getitem__)
        path = [
            {"tokens": (index + 1) * tokens, "kl": min(list(values.values())[: index + 1])}
            for index in range(len(grid))
        ]
        row = {"contender": name, "tokens": len(grid) * tokens, "kl": values[best]}
        yield {**row, **of(rows, best), "constant": best.partition("@")[2]}, path


def of(rows: Mapping[tuple[str, str], Row], name: str) -> Row:
    """Held-out perplexities, and nats by sequence, for pairs."""
    found = {}
    for mode, ending in (("one-shot", ""), ("sequential", "_by_block")):
        [text] = rows[name, mode]["texts"].values()
        found[f"perplexity{ending}"] = text["perplexity"]
        found[f"nats{ending}"] = float(np.mean(text["nats"]))
    return found


def path_of(run: Run, top: int) -> list[Row]:
    """Where the least KL on all search tokens fell, by tokens spent until then, and the end."""
    spent = 0
    for place, passes in ((run.directory.curves, 1), (run.directory.descent, PASSES)):
        if place.exists():
            spent += sum(entry["rung"] * passes for entry in read_journal(place)[1])
    slopes = {}
    if run.directory.slopes.exists():
        slopes = {e["key"]: e["rung"] * PASSES for e in read_journal(run.directory.slopes)[1]}
    least, path, reached = np.inf, [], {}
    for entry in read_journal(run.directory.journal)[1]:
        key, rung = entry["key"], entry["rung"]
        spent += rung - reached.get(key, 0) + slopes.pop(key, 0)
        reached[key] = rung
        if rung == top and entry["values"] is not None and entry["values"]["kl"] < least:
            least = entry["values"]["kl"]
            path.append({"tokens": spent, "kl": least})
    return [*path, {"tokens": spent, "kl": least}]


def summarise(given: argparse.Namespace, table: pd.DataFrame, paths: pd.DataFrame) -> None:
    lines = [f"# {given.model}: layer sparsities, found in how many tokens", ""]
    lines += [
        f"Calibrated on {given.calibration}, searched on {given.search}, held out "
        f"{given.evaluation}. Means over seeds (range). KL in nats per token on the search text, "
        f"one-shot; gains in nats per token of held-out text over the uniform profile, block by "
        f"block, paired by seed, ± their standard deviation over seeds.",
        "",
    ]
    for method, of_method in groups(table, "method", sort=False):
        for setting, rows in groups(of_method, "setting"):
            base = where(rows, rows.contender == UNIFORM).set_index("seed")
            found = []
            for name, own in groups(rows, "contender", sort=False):
                own = own.set_index("seed")
                gain = (base.nats_by_block - own.nats_by_block).dropna()
                found.append(
                    {
                        "contender": name,
                        "seeds": len(own),
                        "tokens": f"{own.tokens.mean():,.0f}",
                        "KL": spread(own.kl, 4),
                        "perplexity": spread(own.perplexity, 2),
                        "block by block": spread(own.perplexity_by_block, 2),
                        "gain": f"{gain.mean():.4f} ± {gain.std():.4f}" if len(gain) > 1
                        else f"{gain.mean():.4f}",
                    }
                )  # fmt: skip
            lines += [f"## {method}, {100 * float(setting):g} %", "", markdown(pd.DataFrame(found))]
            lines += ["", *aims(rows, paths_of(paths, method, setting)), ""]
    figure(given, paths)
    lines += ["![KL by tokens](paths.svg)", "", origin_line(f"{given.threads} threads")]
    (given.out / "summary.md").write_text("\n".join(lines) + "\n")


def spread(values: Any, digits: int) -> str:
    low, high = values.min(), values.max()
    text = f"{values.mean():.{digits}f}"
    return text if len(values) == 1 else f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def paths_of(paths: pd.DataFrame, method: str, setting: str) -> pd.DataFrame:
    return where(paths, (paths.method == method) & (paths.setting == setting))


def at(path: pd.DataFrame, tokens: float) -> float:
    """The least KL with so many tokens; infinite before the first."""
    return float(path.kl[path.tokens <= tokens].min()) if (path.tokens <= tokens).any() else np.inf


def aims(rows: pd.DataFrame, paths: pd.DataFrame) -> list[str]:
    """What the solved starts are for, by seed."""
    unseeded, said = ["NSGA-II, curve", "NSGA-II, blocks"], []
    for seed, own in groups(paths, "seed"):
        by = dict(groups(own, "contender"))
        plain = {name: by[name] for name in unseeded if name in by}
        if not plain:
            continue
        best = min(plain, key=lambda name: plain[name].kl.min())
        goal, cost = plain[best].kl.min(), plain[best].tokens.max()
        for name in ("knapsack", "gradient", *SEEDED):
            if name in by:
                reached = by[name].tokens[by[name].kl <= goal]
                text = f"{reached.min() / cost:.2f} of its tokens" if len(reached) else "never"
                said.append(f"- seed {seed}: {name} reaches the KL that {best} ends with in {text}")
        for name in SEEDED:
            if name in by:
                spent, ends = by[name].tokens.max(), by[name].kl.min()
                others = {n: at(path, spent) for n, path in by.items() if n not in SEEDED}
                rival = min(others, key=others.__getitem__)
                said.append(f"- seed {seed}: at {spent:,} tokens {name} has {ends:.4f}, the best "
                            f"unseeded ({rival}) {others[rival]:.4f}")  # fmt: skip
    return said


def figure(given: argparse.Namespace, paths: pd.DataFrame) -> None:
    """KL by tokens, a panel a method and sparsity, a line a contender: medians over seeds."""
    panels = [
        (m, s) for m, own in groups(paths, "method", sort=False) for s, _ in groups(own, "setting")
    ]
    with style.paper_style():
        drawn = style.blank("", style.FULL, 2.6 * -(-len(panels) // 2) + 0.8)
        axes = np.atleast_1d(drawn.subplots(-(-len(panels) // 2), min(2, len(panels)))).ravel()
        for (method, setting), place in zip(panels, axes):
            own = paths_of(paths, method, setting)
            ticks = np.geomspace(own.tokens.min(), own.tokens.max(), 200)
            for number, (name, rows) in enumerate(groups(own, "contender", sort=False)):
                lines = [[at(path, t) for t in ticks] for _, path in groups(rows, "seed")]
                middle = np.median(lines, axis=0)
                shown = np.isfinite(middle) & (ticks <= rows.tokens.max() * 1.02)
                place.plot(
                    ticks[shown], middle[shown], color=COLOURS[number % len(COLOURS)],
                    marker=MARKS[number % len(MARKS)], markevery=(10 * number % 40, 40),
                    linestyle="--" if number >= len(COLOURS) else "-", markersize=4, linewidth=1.1,
                    label=name,
                )  # fmt: skip
            place.set_xscale("log")
            place.set_yscale("log")
            place.yaxis.set_major_formatter("{x:.2g}")
            place.yaxis.set_minor_formatter("{x:.2g}")
            name = f"{method}, {100 * float(setting):g} %"
            place.text(0.98, 0.96, name, ha="right", va="top", transform=place.transAxes)
            place.set_xlabel("tokens through the model")
            place.set_ylabel("KL (nats/token)")
        known = axes[0].get_legend_handles_labels()
        drawn.legend(*known, loc="outside upper left", ncols=4, frameon=False)
        text = "medians over seeds; a backward pass counts as two forward passes."
        style.note(drawn, f"{given.model}: least KL on the search text by tokens spent; {text}")
        style.save(drawn, given.out / "paths", ("svg", "png"))


if __name__ == "__main__":
    main()
