"""Held-out perplexity of every named method at several sparsities, pruned block by block.

    python experiments/methods_table.py --model smollm2-135m --out results/methods_smollm2

One row of methods.csv for each method, setting and calibration seed, written as soon as it is
measured; what the file already has is not measured again. summary.md holds the table that people
read: perplexity and its standard error over sequences, one column a setting.
"""

import argparse
import json
import os
import time
from pathlib import Path


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
import torch

from optishear.evaluation.perplexity import held_out
from optishear.experiment.apply import apply_to
from optishear.experiment.named import NamedMethod
from optishear.experiment.prepare import Prepared, prepare
from optishear.models.weights import lent
from optishear.records.manifest import provenance
from optishear.solvers.methods import METHODS
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches, token_batches


EXTRA = {  # named methods with an option
    "sparsegpt, by rows": ("sparsegpt", {"pattern": "row"}),
    "sparsegpt + refit": ("sparsegpt", {"refit": True}),
    "magnitude + refit": ("magnitude", {"refit": True}),
    "ria + refit": ("ria", {"refit": True}),
    "optima, moonshot": ("optima", {"moonshot_lambda": 0.5}),
}
DENSE = "dense"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", default="wikipedia-passages")
    parser.add_argument("--settings", default="0.5,0.6,0.7,2:4")
    parser.add_argument("--methods", default=",".join([*METHODS, *EXTRA]))
    parser.add_argument("--calibration", default="16x512")
    parser.add_argument("--evaluation", default="24x512")
    parser.add_argument("--gradient-sequences", type=int, default=16)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for seed in map(int, given.seeds.split(",")):
        measure(given, seed)
    summarise(given)


def measure(given: argparse.Namespace, seed: int) -> None:
    calibration = TextSpec(given.text, "train", *counts(given.calibration), seed=seed)
    prepared = prepare(given.model, "float32", given.device, calibration)
    evaluation = TextSpec(given.text, "evaluation", *counts(given.evaluation), seed=0)
    text = token_batches(evaluation, prepared.loaded.tokenizer)
    path = given.out / "methods.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    done = {(row["method"], str(row["setting"]), row["seed"]) for row in rows}
    todo = [(DENSE, "")] if (DENSE, "nan", 0) not in done and seed == 0 else []
    # One method after the other at each setting, so that an early stop leaves whole columns.
    todo += [(m, s) for s in given.settings.split(",") for m in given.methods.split(",")]
    for method, setting in todo:
        if (method, setting, seed) in done:
            continue
        rows.append(row_of(given, prepared, text, method, setting, seed))
        pd.DataFrame(rows).to_csv(path, index=False)
        print(rows[-1]["setting"], method, f"{rows[-1]['perplexity']:.2f}", flush=True)


def row_of(
    given: argparse.Namespace,
    prepared: Prepared,
    text: TokenBatches,
    method: str,
    setting: str,
    seed: int,
) -> dict[str, object]:
    started, notes, sparsity = time.perf_counter(), [], 0.0
    with lent(prepared.loaded.model, prepared.layout) as working:
        if method != DENSE:
            name, options = EXTRA.get(method, (method, {}))
            where = {"pattern": setting} if ":" in setting else {"sparsity": float(setting)}
            recipe = NamedMethod(name, **{**options, **where}).recipe(prepared.layout)
            sparsity = prepared.layout.sparsity(recipe.drop)
            reports = apply_to(prepared, working, recipe, True, given.gradient_sequences)
            notes = [f"{r.name}: {note}" for r in reports for note in r.notes]
        pruned = time.perf_counter() - started
        held = held_out(prepared.loaded.model, text)
    return {
        "method": method,
        "setting": setting,
        "seed": seed,
        "sparsity": round(sparsity, 6),
        "perplexity": round(held.perplexity, 4),
        "error": round(held.perplexity_error, 4),
        "nats": round(held.mean, 6),
        "prune_seconds": round(pruned, 1),
        "calibration": prepared.calibration.source,
        "evaluation": text.source,
        "notes": "; ".join(notes),
        "sequence_nats": json.dumps([round(x, 5) for x in held.nats]),
    }


def summarise(given: argparse.Namespace) -> None:
    table = pd.read_csv(given.out / "methods.csv", dtype={"setting": str})
    dense = table[table.method == DENSE].iloc[0]
    pruned = table[table.method != DENSE]
    seeds = ", ".join(map(str, sorted(set(pruned.seed))))
    lines = [
        f"# {given.model}: every named method, block by block",
        "",
        f"Held-out text: {dense.evaluation}. Calibration: {given.calibration} tokens of "
        f"{given.text}, train split, seed {seeds}; {given.gradient_sequences} gradient sequences "
        f"for MOONSHOT (λ = 0.5, attention layers). Perplexity ± standard error over sequences; "
        f"where there are several calibration seeds, their mean and (range).",
        "",
        f"Dense: {dense.perplexity:.2f} ± {dense.error:.2f}.",
        "",
    ]
    settings = list(dict.fromkeys(pruned.setting))
    lines += ["| method | " + " | ".join(map(heading, settings)) + " |"]
    lines += ["| --- |" + " --- |" * len(settings)]
    for method in dict.fromkeys(pruned.method):
        cells = [cell(pruned[(pruned.method == method) & (pruned.setting == s)]) for s in settings]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    code = provenance()
    lines += [
        "",
        "Seconds to prune (median over settings): "
        + ", ".join(
            f"{method} {rows.prune_seconds.median():.0f}"
            for method, rows in pruned.groupby("method", sort=False)
        )
        + ".",
        "",
        f"Machine: {code['machine']['processor']}, {given.threads} threads, torch "
        f"{code['versions']['torch']}; commit {code['code'].get('commit', '')[:12]}"
        f"{' (dirty)' if code['code'].get('dirty') else ''}.",
        "",
    ]
    (given.out / "summary.md").write_text("\n".join(lines), encoding="utf-8")


def heading(setting: str) -> str:
    return setting if ":" in setting else f"{100 * float(setting):g} %"


def cell(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    if len(rows) == 1:
        row = rows.iloc[0]
        return f"{row.perplexity:.2f} ± {row.error:.2f}"
    low, high = rows.perplexity.min(), rows.perplexity.max()
    return f"{rows.perplexity.mean():.2f} ({low:.2f} to {high:.2f}, {len(rows)} seeds)"


def counts(text: str) -> tuple[int, int]:
    sequences, seq_len = text.split("x")
    return int(sequences), int(seq_len)


if __name__ == "__main__":
    main()
