"""How good is the damping that a layer is given by what was held back from it?

    python damping_choice.py --sequences 4,16,64 --methods optima,sparsegpt,alps --out FILE.md

One-shot, with statistics of the dense embedded model: some layers are solved at every damping of
the grid, with the sums over all sequences, and their error is measured on 128 other sequences. The
table has by how much, as the mean over layers of log(error / least error of the grid), each layer
is worse than it could be at 0.01, at the one number that is best for all, and at its chosen one.
"""

import argparse
import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from help_text import first_line

from optishear.calibration.collect import collect
from optishear.calibration.held_back import cut
from optishear.calibration.parts import collect_in_parts, one_after_the_other
from optishear.calibration.statistics import Gram, LayerStats, stats_of, summed
from optishear.models.weights import read
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.layout import ModelLayout
from optishear.recipe.quadratic import AUTO, DAMPINGS, USUAL_DAMPING
from optishear.recipe.recipe import Recipe
from optishear.runs.prepare import prepare
from optishear.solvers.damping import HeldBack, best
from optishear.solvers.methods import METHODS, needs_of, solver_of
from optishear.text.sources import TextSpec


UNSEEN = 128  # sequences
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--sequences", default="4,16,64")
    parser.add_argument("--methods", default="optima,sparsegpt,alps")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--blocks", default="2,5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts = [int(count) for count in given.sequences.split(",")]
    text = TextSpec("embedded", "train", max(counts) + UNSEEN, 256, seed=given.seed)
    prepared = prepare("embedded", "float32", "cpu", text)
    blocks = [int(block) for block in given.blocks.split(",")]
    layout = ModelLayout(tuple(x for x in prepared.layout.layers if x.block in blocks))
    model, every = prepared.loaded.model, prepared.calibration.batch
    unseen = collect(model, layout, every[-UNSEEN:].split(BATCH), frozenset({Gram}))
    lines = [
        "| method | sequences | at 0.01 | one number for all | chosen | seconds a layer: choosing, "
        "solving |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in given.methods.split(","):
        for count in counts:
            recipe = recipe_of(name, layout, given.sparsity)
            kinds = summed(needs_of(recipe))
            before, after = cut(every[:count].split(BATCH), kinds)
            summing = one_after_the_other(model, layout)
            stats = collect_in_parts(summing, [before], kinds, held_back=[after])
            lines.append(f"| {name} | {count} | {row(model, layout, recipe, stats, unseen)} |")
            print(lines[-1], flush=True)
            given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def recipe_of(name: str, layout: ModelLayout, sparsity: float) -> Recipe:
    pattern = METHODS[name].parts.pattern
    drop = {layer.name: pattern.uniform(layer, sparsity) for layer in layout.layers}
    return with_damping(METHODS[name].recipe(layout, drop, pattern), AUTO)


def with_damping(recipe: Recipe, damping: float | str) -> Recipe:
    quadratic = replace(recipe.default.quadratic, damping=damping)
    return replace(recipe, default=replace(recipe.default, quadratic=quadratic))


@torch.no_grad()
def row(
    model: torch.nn.Module,
    layout: ModelLayout,
    recipe: Recipe,
    stats: Mapping[str, LayerStats],
    unseen: Mapping[str, LayerStats],
) -> str:
    worse: list[dict[float, float]] = []
    chosen, choosing, solving = 0.0, 0.0, 0.0
    data, solver = CalibrationData(stats), solver_of(recipe.default)
    for layer in layout.layers:
        weight = read(model, layer).detach()
        error = HeldBack(weight, stats_of(unseen, layer).per_token(Gram)).error
        pose = partial(data.problem, layer, weight)
        found = {}
        for damping in DAMPINGS:
            start = time.process_time()
            found[damping] = error(solver.solve(pose(with_damping(recipe, damping))).weight)
            solving += (time.process_time() - start) / len(DAMPINGS)
        worse.append({d: math.log(e / min(found.values())) for d, e in found.items()})
        start = time.process_time()
        chosen += worse[-1][best(pose(recipe).quadratic.tried)]
        choosing += time.process_time() - start
    mean = {d: sum(each[d] for each in worse) / len(worse) for d in DAMPINGS}
    number = min(mean, key=mean.__getitem__)
    layers = len(worse)
    return (
        f"{mean[USUAL_DAMPING]:.4f} | {mean[number]:.4f} ({number:g}) | {chosen / layers:.4f} | "
        f"{choosing / layers:.2f}, {solving / layers:.2f}"
    )


if __name__ == "__main__":
    main()
