"""Which cheap objective ranks candidates as held-out perplexity does, on how many search tokens?

    python objective_ranks.py results/objectives_smollm2/* --out results/ranks_smollm2

Reads finished runs whose recipes were all measured on several rungs (`keep: 1.0`), measures each
recipe's perplexity on the run's held-out text, applied as the search applies it, and correlates:
Spearman's rank correlation of every quantity on every rung with held-out perplexity, over all
recipes and over the better half of them (by held-out perplexity), each with a 95 % interval from
bootstrap over recipes. candidates.csv is written as it is measured; a second call goes on from it.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
from bench_common import origin_line
from frames import groups, where
from help_text import first_line
from scipy.stats import spearmanr

from optishear.config import Experiment
from optishear.evaluation.perplexity import held_out
from optishear.models.weights import working_weights
from optishear.pruning.oneshot import OneShot
from optishear.recipe.storage import SIZES
from optishear.records.journal import read_journal, recipe_of
from optishear.records.run_directory import RunDirectory, find_run, read_json
from optishear.report.evaluations import evaluations_table
from optishear.runs.prepare import prepare
from optishear.runs.setup import threads
from optishear.text.tokens import token_batches


HELD_OUT = "held_out"
LABELS = ("run", "key", "driver", "seed", HELD_OUT)
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=16, help="held-out, of the run's length")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "candidates.csv"
    known = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=list(LABELS))
    runs = [find_run(run) for run in given.runs]
    for run in runs:
        known = measured(run, known, file, given)
    known = where(known, known.run.isin([read_json(run.manifest)["hash"] for run in runs]))
    known = pd.DataFrame(known.dropna(axis=1, how="all"))
    known.to_csv(file, index=False)
    correlations = correlated(known)
    correlations.to_csv(given.out / "correlations.csv", index=False)
    (given.out / "summary.md").write_text(summary(known, correlations, given), encoding="utf-8")
    print(correlations.to_string(index=False))


def measured(
    run: RunDirectory, known: pd.DataFrame, file: Path, given: argparse.Namespace
) -> pd.DataFrame:
    """With a row for each recipe of the run: its values by rung, and its held-out perplexity.

    A recipe that was measured for another run of the same seed, and so the same text, is not again.
    """
    manifest = read_json(run.manifest)
    experiment = Experiment.model_validate(manifest["experiment"])
    values = values_by_rung(run, experiment)
    done = set(known[known.run == manifest["hash"]].key)
    todo = [key for key in values.index if key not in done]
    elsewhere = known[known.seed == experiment.search.seed].set_index("key")[HELD_OUT].to_dict()
    new = [key for key in todo if key not in elsewhere]
    fresh = held_out_nats(run, experiment, new, given)
    nats_of = chain(((key, elsewhere[key]) for key in todo if key in elsewhere), fresh)
    for number, (key, nats) in enumerate(nats_of, start=1):
        row = {
            "run": manifest["hash"],
            "driver": experiment.search.driver,
            "seed": experiment.search.seed,
            "key": key,
            HELD_OUT: nats,
            **values.loc[key].to_dict(),
        }
        known = pd.concat([known, pd.DataFrame([row])], ignore_index=True)
        known.to_csv(file, index=False)
        print(f"{manifest['hash']} {number}/{len(todo)} {np.exp(nats):.2f}", flush=True)
    return known


def values_by_rung(run: RunDirectory, experiment: Experiment) -> pd.DataFrame:
    """A row for each recipe that was measured on all rungs, a column `QUANTITY@TOKENS` each.

    Sizes are left out: under a budget all recipes have the same.
    """
    names = [name for name in experiment.quantities if name not in (*SIZES, "sparsity")]
    table = evaluations_table(run).rename(columns=lambda name: name.removeprefix("value."))
    wide = table.pivot_table(index="key", columns="rung", values=names).dropna()
    wide.columns = [f"{name}@{rung}" for name, rung in wide.columns]
    return wide


def held_out_nats(
    run: RunDirectory, experiment: Experiment, keys: Sequence[str], given: argparse.Namespace
) -> Iterator[tuple[str, float]]:
    """Nats per token of each recipe on the run's held-out text, of which so many sequences."""
    if not keys:
        return
    header, entries, _ = read_journal(run.journal)
    recipes = {entry["key"]: recipe_of(entry, (header or {})["layers"]) for entry in entries}
    texts, batch_tokens = experiment.text_specs, experiment.batch_tokens
    text = next(spec for name, spec in texts.items() if name.startswith("evaluation"))
    with threads(given.threads):
        prepared = prepare(
            experiment.model,
            experiment.dtype,
            experiment.device,
            texts["calibration"],
            batch_tokens,
        )
        calibrated = prepared.calibrate(experiment.needs, experiment.gradient_sequences)
        tokens = token_batches(replace(text, sequences=given.sequences), prepared.loaded.tokenizer)
        with working_weights(prepared.loaded.model, prepared.layout) as working:
            apply = OneShot(working, prepared.layout, calibrated.data)
            for key in keys:
                apply.write(recipes[key])
                yield key, held_out(prepared.loaded.model, tokens, batch_tokens).mean


def correlated(candidates: pd.DataFrame) -> pd.DataFrame:
    """A row for each group of candidates, quantity and rung.

    Runs with different seeds read different texts, so correlations are made within a seed and
    averaged over seeds; the bootstrap resamples the recipes of every seed.
    """
    rng = np.random.default_rng(0)
    names = [name for name in candidates.columns if "@" in name]
    rows = []
    compared = {"all": candidates, **dict(groups(candidates, "driver"))}
    better = [where(s, s[HELD_OUT] <= s[HELD_OUT].median()) for _, s in groups(candidates, "seed")]
    compared["better half"] = pd.DataFrame(pd.concat(better))
    for group, members in compared.items():
        parts = [part.drop_duplicates("key") for _, part in groups(members, "seed")]
        for name in names:
            quantity, _, rung = name.partition("@")
            own = [(part[name].to_numpy(), part[HELD_OUT].to_numpy()) for part in parts]
            draws = []
            for _ in range(RESAMPLES):
                picks = [rng.integers(0, len(x), len(x)) for x, _ in own]
                draws.append(np.mean([rank(x[i], y[i]) for (x, y), i in zip(own, picks)]))
            low, high = np.quantile(draws, [0.025, 0.975])
            rows.append(
                {
                    "candidates": group,
                    "n": sum(len(part) for part in parts),
                    "quantity": quantity,
                    "tokens": int(rung),
                    "spearman": round(float(np.mean([rank(x, y) for x, y in own])), 4),
                    "low": round(float(low), 4),
                    "high": round(float(high), 4),
                }
            )
    return pd.DataFrame(rows)


def rank(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.asarray(spearmanr(x, y))[0])


def summary(candidates: pd.DataFrame, correlations: pd.DataFrame, given: argparse.Namespace) -> str:
    lines = [
        "# Rank correlation of search objectives with held-out perplexity",
        "",
        f"{len(candidates)} recipes of {candidates.run.nunique()} runs "
        f"({', '.join(str(run) for run in given.runs)}). Held-out: {given.sequences} "
        f"sequences. Spearman's correlation, 95 % interval of "
        f"{RESAMPLES} bootstrap resamples of the recipes; columns are search tokens.",
        "",
    ]
    tokens = sorted(correlations.tokens.unique())
    for group, rows in groups(correlations, "candidates", sort=False):
        lines += [f"## {group} (n = {rows.n.iloc[0]})", ""]
        lines += ["| objective | " + " | ".join(f"{t:,}" for t in tokens) + " |"]
        lines += ["| --- |" + " --- |" * len(tokens)]
        for quantity, own in groups(rows, "quantity", sort=False):
            cells = [
                f"{r['spearman']:.3f} ({r['low']:.3f} to {r['high']:.3f})"
                for t in tokens
                for r in where(own, own.tokens == t).to_dict("records")
            ]
            lines.append(f"| {quantity} | " + " | ".join(cells) + " |")
        lines.append("")
    lines.append(origin_line(f"{given.threads} threads"))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
