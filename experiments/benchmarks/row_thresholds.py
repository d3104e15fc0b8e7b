"""Are row thresholds worth having: a sparsity for every output row, learned as layers' are?

    python experiments/benchmarks/row_thresholds.py --out results/row_thresholds_embedded

Wanda's scores, one-shot, one budget for the whole model. All descents make the same number of
forward and backward passes over the same search tokens and end at the point of least KL on the way:

- uniform: all rows alike.
- layers: a sparsity for every layer by slopes, as the gradient driver, its rows alike.
- layers, rows by score: the counts of `layers`, but all weights of a layer compete (pattern layer).
- layers, then rows: half of the steps on layers, then each row by its own slope.
- rows: each row by its own slope from the start.
- layers and rows: both in each step, rows beside the mean of their layer.

How far a row steps, and beside what its slope is large, is chosen on calibration and search windows
of another seed (`--tune-seed`), by the least KL on the search text; tuning.csv.xz has that grid.
Where only one step and one scale are given there is nothing to choose, and the same --out may have
others. rows.csv.xz has a row for each model, search text, sparsity, seed, contender, step and
scale, written as soon as it is measured; what is there is not measured again. A seed draws
calibration and search windows.
"""

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import product
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
from mask_descent import (
    LAYER,
    LAYER_STEP,
    OWN,
    BothMoves,
    LayerMoves,
    Point,
    RowMasks,
    RowMoves,
    best,
    descend,
)
from masked_model import masked_model
from methods_table import spec_of

from optishear.evaluation.paired import paired_difference
from optishear.metrics import make_metric
from optishear.recipe.pattern import WholeLayer
from optishear.solvers.masks import keep_highest
from optishear.tasks import Samples


UNIFORM, LAYERS, BY_SCORE = "uniform", "layers", "layers, rows by score"
THEN_ROWS, ROWS, BOTH = "layers, then rows", "rows", "layers and rows"
TUNED = (THEN_ROWS, ROWS, BOTH)
CONTENDERS = (UNIFORM, LAYERS, BY_SCORE, *TUNED)
HOW = ["step", "scale"]  # of rows
KEY = ["model", "search", "sparsity", "seed", "contender", *HOW]

Entry = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--sparsities", default="0.6,0.7")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--calibration", default="embedded@train:64x256")
    parser.add_argument("--search", default="embedded@search:8x256")
    parser.add_argument("--evaluation", default="embedded@evaluation:128x256")
    parser.add_argument("--steps", type=int, default=16, help="of every descent")
    parser.add_argument("--row-steps", default="0.02,0.05,0.1", help="to choose from")
    parser.add_argument("--scales", default=f"{OWN},{LAYER}", help="to choose from")
    parser.add_argument("--tune-seed", type=int, default=3)
    parser.add_argument("--tune-sparsity", type=float, default=0.6)
    parser.add_argument("--contenders", default="; ".join(CONTENDERS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    chosen = tuned(given)
    rows = Table(given.out / "rows.csv.xz", KEY)
    asked = given.contenders.split("; ")
    for seed, sparsity in product(map(int, given.seeds.split(",")), given.sparsities.split(",")):
        plans = [
            (name, {key: chosen[name][key] for key in HOW} if name in chosen else {})
            for name in CONTENDERS
            if name in asked
        ]
        measure(given, rows, float(sparsity), seed, plans)
    summarise(given, rows.frame)


class Table:
    """Entries in a file, each written as soon as it is there; `known` tells which are."""

    def __init__(self, path: Path, key: list[str]) -> None:
        self._path, self._key = path, key
        self.entries: list[Entry] = pd.read_csv(path).to_dict("records") if path.exists() else []  # pyright: ignore

    def known(self, entry: Mapping[str, Any]) -> bool:
        return any(all(row[key] == entry[key] for key in self._key) for row in self.entries)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.frame.to_csv(self._path, index=False)
        print(*(f"{value}"[:60] for value in entry.values()), flush=True)

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.entries)


Plan = tuple[str, Mapping[str, Any]]  # a contender, and the step and scale of its rows


def tuned(given: argparse.Namespace) -> dict[str, Mapping[str, Any]]:
    """The step and scale of each contender's rows: of the grid, those of the least KL."""
    table = Table(given.out / "tuning.csv.xz", KEY)
    grid = [
        {"step": float(step), "scale": scale}
        for scale, step in product(given.scales.split(","), given.row_steps.split(","))
    ]
    names = [name for name in TUNED if name in given.contenders.split("; ")]
    if len(grid) == 1:
        return dict.fromkeys(names, grid[0])
    measure(given, table, given.tune_sparsity, given.tune_seed, product(names, grid))
    measure(given, table, given.tune_sparsity, given.tune_seed, [(LAYERS, {})])
    return picked(table.frame)


def picked(grid: pd.DataFrame) -> dict[str, Mapping[str, Any]]:
    """By contender the step and scale of the least KL on the search text."""
    return {
        name: own.sort_values("kl").to_dict("records")[0]
        for name, own in groups(where(grid, grid.contender != LAYERS), "contender")
    }


def measure(
    given: argparse.Namespace, table: Table, sparsity: float, seed: int, plans: Iterable[Plan]
) -> None:
    """Whatever the table lacks of these plans, on the windows of this seed."""
    common = {"model": given.model, "search": given.search, "sparsity": sparsity, "seed": seed}
    none = {"step": 0.0, "scale": "none"}
    named = [{**common, "contender": name, **none, **how} for name, how in plans]
    missing = [entry for entry in named if not table.known(entry)]
    if not missing:
        return
    calibration, search = spec_of(given.calibration, seed), spec_of(given.search, seed)
    held_out = spec_of(given.evaluation, 0)
    with masked_model(given.model, calibration, search, held_out) as (masked, evaluation):
        masks = RowMasks(masked, masked.scores(make_metric({"name": "wanda"})))
        run = Run(masks, evaluation, sparsity, given.steps)
        for entry in missing:
            table.add({**entry, **run.measured(entry)})


class Run:
    """One model's descents at one sparsity. What two contenders share is made once."""

    def __init__(self, masks: RowMasks, evaluation: Samples, sparsity: float, steps: int) -> None:
        self._masks, self._evaluation = masks, evaluation
        self._sparsity, self._steps = sparsity, steps
        self._budget = int(masks.masked.layout.total * sparsity)
        self._layers = cache(self._descend_layers)

    def measured(self, entry: Mapping[str, Any]) -> Entry:
        path = self._path(entry)
        point = best(path)
        keep = self._masks.keep(point.counts)
        if entry["contender"] == BY_SCORE:
            keep = {
                name: keep_highest(self._masks.scores[name], int(own.sum()), WholeLayer())
                for name, own in self._masks.rows.split(point.counts).items()
            }
        dropped = sum(int((~kept).sum()) for kept in keep.values())
        assert dropped == self._budget, f"{dropped} weights went, not {self._budget}"
        masked, rows = self._masks.masked, self._masks.rows
        masked.write(keep)
        held = masked.held_out(self._evaluation)
        shares = torch.cat([(~kept).float().mean(1) for kept in keep.values()]).double().numpy()
        within = shares - rows.mean(shares)[rows.layer]
        return {
            "backward": len(path) if len(path) > 1 else 0,
            "kl": round(masked.kl(), 6),
            "perplexity": round(held.perplexity, 4),
            "nats": round(held.mean, 6),
            "rows_apart": round(float(np.sqrt((within**2).mean())), 4),
            "least_row": round(float(shares.min()), 4),
            "most_row": round(float(shares.max()), 4),
            "path": json.dumps([round(point.kl, 5) for point in path]),
            "sequence_nats": json.dumps([round(x, 5) for x in held.nats]),
        }

    def _path(self, entry: Mapping[str, Any]) -> list[Point]:
        rows, masks, budget = self._masks.rows, self._masks, self._budget
        name, even = entry["contender"], rows.even(self._sparsity)
        if name == UNIFORM:
            return [Point(even, rows.counts(even, budget), 0.0)]
        if name in (LAYERS, BY_SCORE):
            return self._layers()
        how = (rows, entry["step"], entry["scale"])
        if name == THEN_ROWS:
            whole, half = self._layers(), self._steps // 2
            moves, rest = RowMoves(*how), self._steps - half
            return whole[:half] + descend(masks, whole[half].targets, moves, rest, budget)
        moves = RowMoves(*how) if name == ROWS else BothMoves(*how)
        return descend(masks, even, moves, self._steps, budget)

    def _descend_layers(self) -> list[Point]:
        even = self._masks.rows.even(self._sparsity)
        return descend(self._masks, even, LayerMoves(self._masks.rows), self._steps, self._budget)


def summarise(given: argparse.Namespace, table: pd.DataFrame) -> None:
    lines = [
        f"# {given.model}: a sparsity for each row, or for each layer",
        "",
        f"Wanda's scores, one-shot. Calibrated on {given.calibration}, held out "
        f"{given.evaluation}; {given.steps} forward and backward passes a descent. KL in nats per "
        f"token on the search text, means over seeds (range); *better by* is the gain in nats per "
        f"token of held-out text on `{LAYERS}`, paired by seed, ± its standard error over seeds "
        f"(of one seed, over sequences). *Rows apart* is the standard deviation of row sparsities "
        f"within their layer. *Step* is how far, as a sparsity, the first step of a row goes, and "
        f"beside what a slope is large or small: the row's own so far, or those of its layer "
        f"(a layer's first step is {LAYER_STEP:.2g}).",
    ]
    for search, of_search in groups(table, "search", sort=False):
        for sparsity, own in groups(of_search, "sparsity"):
            lines += ["", f"## {100 * sparsity:g} %, searched on {search}", ""]
            lines.append(markdown(pd.DataFrame(compared(own))))
    lines += ["", *tuning_lines(given), origin_line(f"{given.threads} threads")]
    (given.out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def compared(table: pd.DataFrame) -> Iterator[Entry]:
    base = where(table, table.contender == LAYERS)
    for _, rows in table.groupby(["contender", *HOW], sort=False):
        first = rows.to_dict("records")[0]
        name, rows = first["contender"], pd.DataFrame(rows)
        yield {
            "contender": name,
            "step": f"{first['step']:g}, {first['scale']}" if name in TUNED else "",
            "seeds": len(rows),
            "KL": spread(rows.kl, 4),
            "held-out perplexity": spread(rows.perplexity, 2),
            "better by": "" if name == LAYERS else gain(base, rows),
            "rows apart": f"{rows.rows_apart.mean():.3f}",
        }


def gain(base: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Of the seeds that both have."""
    both = base.merge(rows, on="seed", suffixes=("_base", "_own"))
    if both.empty:
        return ""
    if len(both) == 1:
        nats = [json.loads(both.loc[0, f"sequence_nats_{side}"]) for side in ("base", "own")]  # pyright: ignore
        mean, error = paired_difference(*nats)
    else:
        mean, error = paired_difference(both.nats_base.tolist(), both.nats_own.tolist())
    return f"{mean:+.4f} ± {error:.4f}"


def tuning_lines(given: argparse.Namespace) -> Iterator[str]:
    path = given.out / "tuning.csv.xz"
    if not path.exists():
        return
    table = pd.read_csv(path)
    base, chosen = where(table, table.contender == LAYERS), picked(table)
    yield from ["## The choice of the step", ""]
    yield (
        f"By the least KL on the search text of seed {given.tune_seed} at "
        f"{100 * given.tune_sparsity:g} %, where `{LAYERS}` has {base.kl.mean():.4f}. The chosen "
        f"one is marked (*)."
    )
    shown = []
    for entry in where(table, table.contender != LAYERS).to_dict("records"):
        own = chosen[entry["contender"]]
        shown.append(
            {
                "contender": entry["contender"] + " *" * all(own[x] == entry[x] for x in HOW),
                "step": f"{entry['step']:g}, {entry['scale']}",
                "KL": f"{entry['kl']:.4f}",
                "better by": gain(base, pd.DataFrame([entry])),
            }
        )
    yield from ["", markdown(pd.DataFrame(shown)), ""]


if __name__ == "__main__":
    main()
