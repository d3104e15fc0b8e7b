"""What recipes found on one model are worth on others, on held-out text.

    python transfer_table.py --runs results/embedded_60/* results/smollm2_60/* \\
        --models embedded siblings/4x96:sotu:128x256 smollm2-135m --out results/transfer

Each run's pick is carried to each model as `optishear transfer --compare usual` does it: the metric
as it is, layer sparsities by role and relative depth, at the sparsity of the run. On the model that
it was found on that is the recipe itself. Beside it stand uniform Wanda and, where the metric is
another, the recipe without its layer sparsities. One row of transfers.csv for each run and model,
written when it is measured; a second call goes on from it.
"""

import argparse
import os
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
import torch
from bench_common import markdown, origin_line
from help_text import first_line

from optishear.records.run_directory import find_run
from optishear.runs.held_out import DENSE, FOUND
from optishear.runs.watcher import Silent
from optishear.tools.texts import usual_text
from optishear.tools.transfer import UNIFORM, WANDA, Target, source_of_run, transfer_to


MODEL_HELP = "a name or a folder, with :SOURCE:SEQUENCESxLENGTH where its text is not the usual one"


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--runs", nargs="+", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True, help=MODEL_HELP)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "transfers.csv"
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    done = {(row["run"], row["on"]) for row in rows}
    for run, named in product(given.runs, given.models):
        model, _, text = named.partition(":")
        labels = {"run": f"{run.parent.name}/{find_run(run).name}", "on": Path(model).name}
        if tuple(labels.values()) in done:
            continue
        rows.append(labels | measured(run, model, text))
        pd.DataFrame(rows).to_csv(file, index=False)
        print(rows[-1], flush=True)
    (given.out / "summary.md").write_text(summary(pd.DataFrame(rows), given), encoding="utf-8")


def measured(run: Path, model: str, text: str) -> dict[str, Any]:
    train, evaluation = (usual_text(model, split) for split in ("train", "evaluation"))
    if text:
        source, _, size = text.partition(":")
        sequences, seq_len = map(int, size.split("x"))
        train, evaluation = (
            replace(spec, source=source, sequences=sequences, seq_len=seq_len)
            for spec in (train, evaluation)
        )
    found = source_of_run(run, None)
    target = Target(model, calibration=train, compare_on=evaluation)
    with TemporaryDirectory() as folder:
        _, compared = transfer_to(found, target, Path(folder) / "recipe.json", Silent())
    assert compared is not None
    by_name = {row["name"]: next(iter(row["texts"].values())) for row in compared}
    numbers: dict[str, Any] = {"found on": Path(found.model).name}
    numbers["sparsity"] = round(next(r["sparsity"] for r in compared if r["name"] == FOUND), 4)
    for what in (DENSE, WANDA, UNIFORM, FOUND):
        if what in by_name:
            numbers[what] = round(by_name[what]["perplexity"], 4)
            numbers[f"{what} ±"] = round(by_name[what]["error"], 4)
    for what, gain in by_name[FOUND]["fewer_nats"].items():
        if what in (WANDA, UNIFORM):
            numbers[f"gain over {what}"] = round(gain["mean"], 5)
            numbers[f"gain over {what} ±"] = round(gain["error"], 5)
    return numbers


def summary(rows: pd.DataFrame, given: argparse.Namespace) -> str:
    return (
        "# Recipes carried from model to model\n\n"
        "Held-out perplexity of the model's usual text, one-shot; gains in nats per token, paired, "
        "± one standard error.\n\n"
        f"{markdown(rows)}\n\n"
        f"{origin_line(f'{given.threads} threads')}\n"
    )


if __name__ == "__main__":
    main()
