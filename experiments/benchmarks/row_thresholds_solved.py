"""Do row thresholds still pay where what is kept moves? The counts of Wanda's descents, solved.

    python experiments/benchmarks/row_thresholds_solved.py --out results/row_thresholds_solved

Layer sparsities, and a sparsity for every row, come from the descents of `row_thresholds.py` (half
of the passes on layers, the other half on rows), Wanda's masks, one-shot. Each method then prunes
twice, with equal counts in the rows of a layer and with those of the descent: one-shot, or block by
block where that is all the method knows. solved.csv.xz has a row for each model, sparsity, seed,
method and contender, written as soon as it is measured; what is there is not measured again.
"""

import argparse
import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import torch
from bench_allocation import spread
from bench_common import markdown, origin_line
from frames import groups, where
from help_text import first_line
from mask_descent import OWN, LayerMoves, RowMasks, RowMoves, best, descend
from masked_model import masked_model
from methods_table import spec_of
from row_thresholds import LAYERS, THEN_ROWS, Table, gain

from optishear.calibration.statistics import summed
from optishear.evaluation.perplexity import held_out
from optishear.metrics import make_metric
from optishear.models.weights import WorkingWeights, working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.oneshot import apply, prune, solve_layer
from optishear.recipe.groups import Cut
from optishear.recipe.layout import Layer
from optishear.recipe.pattern import Row
from optishear.recipe.recipe import Recipe
from optishear.runs.preconditions import text_for
from optishear.runs.prepare import Prepared, prepare
from optishear.solvers.base import LayerProblem, LayerSolution
from optishear.solvers.methods import METHODS, needs_of, solver_of


KEY = ["model", "sparsity", "seed", "method", "contender", "step"]

RowCounts = Mapping[str, np.ndarray]  # by layer, weights to drop of each row


@dataclass(frozen=True)
class UnequalRows(Row):
    """Every row loses a count of its own."""

    counts: tuple[int, ...] = ()

    def cuts(self, shape: tuple[int, ...], drop: int) -> tuple[Cut, ...]:
        if drop != sum(self.counts) or len(self.counts) != shape[0]:
            raise ValueError(f"{drop} of {shape} weights are not what these rows drop.")
        found, start = [], 0
        for count, run in groupby(self.counts):
            stop = start + len(list(run))
            found.append(Cut(slice(start, stop), slice(0, shape[1]), 1, shape[1], count))
            start = stop
        return tuple(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--sparsities", default="0.6,0.7")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default="wanda,optima,alps,alps-shifted")
    parser.add_argument("--calibration", default="embedded@train:64x256")
    parser.add_argument("--search", default="embedded@search:8x256")
    parser.add_argument("--evaluation", default="embedded@evaluation:128x256")
    parser.add_argument("--steps", type=int, default=16, help="of every descent")
    parser.add_argument("--row-step", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    table = Table(given.out / "solved.csv.xz", KEY)
    for seed in map(int, given.seeds.split(",")):
        for sparsity in map(float, given.sparsities.split(",")):
            measure(given, table, sparsity, seed)
    summarise(given, table.frame)


def measure(given: argparse.Namespace, table: Table, sparsity: float, seed: int) -> None:
    common = {"model": given.model, "sparsity": sparsity, "seed": seed, "step": given.row_step}
    entries = [
        {**common, "method": method, "contender": contender}
        for method in given.methods.split(",")
        for contender in (LAYERS, THEN_ROWS)
    ]
    entries = [entry for entry in entries if not table.known(entry)]
    if not entries:
        return
    counts = descended(given, sparsity, seed)
    prepared = prepare(given.model, "float32", "cpu", spec_of(given.calibration, seed))
    text = text_for(prepared.loaded, spec_of(given.evaluation, 0))
    with working_weights(prepared.loaded.model, prepared.layout) as working:
        for entry in entries:
            rows = counts[entry["contender"]]
            drop = {name: int(own.sum()) for name, own in rows.items()}
            recipe = METHODS[entry["method"]].recipe(prepared.layout, drop, Row())
            pruned(prepared, working, recipe, rows if entry["contender"] == THEN_ROWS else None)
            held = held_out(prepared.loaded.model, text)
            table.add(
                {
                    **entry,
                    "perplexity": round(held.perplexity, 4),
                    "nats": round(held.mean, 6),
                    "sequence_nats": json.dumps([round(x, 5) for x in held.nats]),
                }
            )


def descended(given: argparse.Namespace, sparsity: float, seed: int) -> dict[str, RowCounts]:
    """What each row drops at the end of both descents."""
    texts = [spec_of(text, seed) for text in (given.calibration, given.search)]
    with masked_model(given.model, texts[0], texts[1], spec_of(given.evaluation, 0)) as (model, _):
        masks = RowMasks(model, model.scores(make_metric({"name": "wanda"})))
        rows, budget = masks.rows, int(model.layout.total * sparsity)
        whole = descend(masks, rows.even(sparsity), LayerMoves(rows), given.steps, budget)
        half, moves = given.steps // 2, RowMoves(rows, given.row_step, OWN)
        rest = descend(masks, whole[half].targets, moves, given.steps - half, budget)
        ends = {LAYERS: best(whole), THEN_ROWS: best([*whole[:half], *rest])}
        return {name: rows.split(point.counts) for name, point in ends.items()}


def pruned(
    prepared: Prepared, working: WorkingWeights, recipe: Recipe, rows: RowCounts | None
) -> None:
    """Writes the recipe's weights, with these counts in the rows of its layers."""
    by = prune if rows is None else partial(prune_rows, rows)
    model, layout = prepared.loaded.model, prepared.layout
    if recipe.only_by_block():
        source = InMemory(model, working, layout)
        apply_by_block(source, recipe, prepared.batches, prune_layers=by)
        return
    working.restore()
    apply(layout.layers, working, prepared.calibrate(summed(needs_of(recipe))).data, recipe, by)


def prune_rows(
    rows: RowCounts,
    layers: Sequence[Layer],
    working: WorkingWeights,
    data: CalibrationData,
    recipe: Recipe,
) -> Generator[tuple[Layer, LayerSolution], None, None]:
    """`pruning.oneshot.prune` with a count for each row."""

    def pose(layer: Layer) -> LayerProblem:
        problem = data.problem(layer, working.dense(layer.name), recipe)
        return replace(problem, pattern=UnequalRows(tuple(map(int, rows[layer.name]))), ranks=None)

    with torch.no_grad():
        for layer in layers:
            solver = solver_of(recipe.at(layer))
            solution = solve_layer(solver, layer, partial(pose, layer))
            working.write(layer.name, solution.weight)
            yield layer, solution


def summarise(given: argparse.Namespace, table: pd.DataFrame) -> None:
    lines = [
        f"# {given.model}: a sparsity for each row, where what is kept moves",
        "",
        f"Counts of descents over Wanda's masks ({given.steps} passes, a row's first step "
        f"{given.row_step:g}), solved by each method: one-shot, shifted ones block by block. "
        f"Calibrated on {given.calibration}, searched on {given.search}, held out "
        f"{given.evaluation}. Means over seeds (range); *better by* is the gain of the rows' "
        f"counts in nats per token of held-out text, paired by seed, ± its standard error over "
        f"seeds (of one seed, over sequences).",
        "",
    ]
    for sparsity, rows in groups(table, "sparsity"):
        lines += [f"## {100 * sparsity:g} %", "", markdown(pd.DataFrame(compared(rows))), ""]
    lines += [origin_line(f"{given.threads} threads")]
    (given.out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compared(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for method, rows in groups(table, "method", sort=False):
        base, own = (where(rows, rows.contender == name) for name in (LAYERS, THEN_ROWS))
        yield {
            "method": method,
            "seeds": len(own),
            LAYERS: spread(base.perplexity, 2),
            THEN_ROWS: spread(own.perplexity, 2),
            "better by": gain(base, own),
        }


if __name__ == "__main__":
    main()
