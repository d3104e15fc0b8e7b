"""What local reconstruction brings: held-out perplexity with and without, by its settings.

    python reconstruction_choice.py --methods optima,alps --sparsities 0.6,0.7 --seeds 0,1,2 \\
        --reconstruct none,block,block:learning_rate=1e-3 --out FILE.md

Block by block, on the embedded model or another. A row is a method at a sparsity, calibrated on the
text that a seed draws; a column is what `optishear prune --reconstruct` is told. Every number is
written when it is there, and those that a file has are not measured again.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from help_text import first_line

from optishear.evaluation.perplexity import held_out
from optishear.models.weights import working_weights
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.runs.preconditions import text_for
from optishear.runs.prepare import Prepared, prepare
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import apply_to
from optishear.tools.texts import usual_text


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--methods", default="optima,alps")
    parser.add_argument("--sparsities", default="0.6")
    parser.add_argument("--target-shift", type=float, default=0.0)
    parser.add_argument("--order", default="block")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--reconstruct", default="none,block")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    columns = given.reconstruct.split(",")
    memo = given.out.with_suffix(".jsonl")
    rows = []
    for seed in map(int, given.seeds.split(",")):
        text = replace(usual_text(given.model, "train"), sequences=given.sequences, seed=seed)
        prepared = prepare(given.model, "float32", "cpu", text)
        held = usual_text(given.model, "evaluation")
        for method in given.methods.split(","):
            for sparsity in map(float, given.sparsities.split(",")):
                quadratic = {"target_shift": given.target_shift} if given.target_shift else {}
                named = NamedMethod(method, sparsity, quadratic=quadratic, order=given.order)
                head = f"{method}, {sparsity:g}, seed {seed}"
                cells = [measured(prepared, named, said, held, memo) for said in columns]
                rows.append(f"| {head} | " + " | ".join(map(cell, cells)) + " |")
                table = [f"| | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns), *rows]
                given.out.write_text("\n".join(table) + "\n", encoding="utf-8")
                print(rows[-1], flush=True)


def measured(
    prepared: Prepared, named: NamedMethod, said: str, held: TextSpec, memo: Path
) -> dict[str, float]:
    """Perplexity, the windows' error on what was held back, and seconds of this process."""
    settings = None if said == "none" else ReconstructionSettings.parsed(said, "--reconstruct")
    recipe = replace(named.on(prepared), reconstruct=settings)
    key = f"{prepared.loaded.hash} {prepared.calibration.hash} {recipe.key}"
    if (found := known(memo, key)) is not None:
        return found
    began = time.process_time()
    with working_weights(prepared.loaded.model, prepared.layout) as working:
        applied = apply_to(prepared, working, recipe, sequential=True)
        seconds = time.process_time() - began
        nats = held_out(prepared.loaded.model, text_for(prepared.loaded, held))
    windows = applied.windows
    found = {
        "perplexity": nats.perplexity,
        "before": mean(window.before for window in windows),
        "after": mean(window.after for window in windows),
        "best": mean(window.best for window in windows),
        "seconds": seconds,
    }
    with memo.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, "said": said, **found}) + "\n")
    return found


def known(memo: Path, key: str) -> dict[str, float] | None:
    lines = memo.read_text(encoding="utf-8").splitlines() if memo.exists() else []
    return next((found for line in lines if (found := json.loads(line))["key"] == key), None)


def mean(numbers: Iterable[float]) -> float:
    every = list(numbers)
    return sum(every) / len(every) if every else 0.0


def cell(found: dict[str, float]) -> str:
    told = f"{found['perplexity']:.2f}"
    if not found["best"]:
        return told
    return f"{told} ({found['before']:.4f} to {found['after']:.4f}, epoch {found['best']:.1f})"


if __name__ == "__main__":
    main()
