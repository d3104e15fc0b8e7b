"""Has the KL slopes along the exponents of |W|^a ||x||^b, and is anything to be gained by these?

    python experiments/benchmarks/exponent_slopes.py --out results/exponent_slopes

Rows of one size under one budget, one-shot. Where an exponent moves, counts stay and some weights
change places; what that changes is, to first order, the sum of gradient times weight over those
that come less the same over those that go: one backward pass tells it of any step. What it leaves
out, half of the curvature times weight squared, is of one sign for those that come and for those
that go, so half of the difference between a step and its opposite is told better than either.
steps.csv.xz has what is told and the KL measured after the step. gains.csv.xz has what exponents
gain: the best b of a grid by KL on the search text (the ranks in a row know only b / a), or a b
for each layer by Adam down such slopes, with equal layers and with layer sparsities by slopes. A
seed draws calibration and search windows.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
import torch
from bench_allocation import spread
from bench_common import markdown, origin_line
from frames import groups
from help_text import first_line
from jaxtyping import Bool, Float, Int
from mask_descent import Adam, LayerMoves, RowMasks, best, descend
from masked_model import MaskedModel, Weights, masked_model
from methods_table import spec_of
from row_thresholds import Table, gain
from torch import Tensor

from optishear.metrics.classic import Power
from optishear.solvers.masks import keep_counts
from optishear.tasks import Samples


PAIRS = [(1.0, 1.0), (1.0, 0.5), (1.0, 1.5), (0.7, 1.0)]  # (a, b)
STEPS = [-0.2, -0.05, 0.05, 0.2]
GRID = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0]  # b, with a = 1
BOUNDS, AWAY, STEP = (0.0, 2.0), 0.1, 0.2  # of b by layer; where its slope is taken; Adam's step
EQUAL, LAYERS = "equal layers", "layers by slopes"
PLAIN, ONE, EACH = "Wanda", "best b for all", "b by layer"
TOLD = ("predicted", "measured")
SIDES = ["told up", "measured up", "told down", "measured down"]
HALVES = ["told, half", "measured, half"]

Keep = dict[str, Bool[Tensor, "out in"]]
Counts = Mapping[str, Int[np.ndarray, " out"]]  # of each row
Entry = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--calibration", default="embedded@train:64x256")
    parser.add_argument("--search", default="embedded@search:8x256")
    parser.add_argument("--evaluation", default="embedded@evaluation:128x256")
    parser.add_argument("--steps", type=int, default=16, help="of every descent")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    moved = Table(given.out / "steps.csv.xz", ["seed"])
    gains = Table(given.out / "gains.csv.xz", ["seed", "sparsities", "contender"])
    for seed in map(int, given.seeds.split(",")):
        texts = [spec_of(text, seed) for text in (given.calibration, given.search)]
        with masked_model(given.model, texts[0], texts[1], spec_of(given.evaluation, 0)) as opened:
            masked, evaluation = opened
            masks = RowMasks(masked, scores_of(masked, 1.0, 1.0))
            budget = int(masked.layout.total * given.sparsity)
            even = masks.rows.even(given.sparsity)
            equal = masks.rows.counts(even, budget)
            if not moved.known({"seed": seed}):
                for row in list(steps_of(masked, masks.rows.split(equal))):
                    moved.add({"seed": seed, **row})
            for name in (EQUAL, LAYERS):
                if gains.known({"seed": seed, "sparsities": name, "contender": EACH}):
                    continue
                counts = equal
                if name == LAYERS:
                    moves = LayerMoves(masks.rows)
                    counts = best(descend(masks, even, moves, given.steps, budget)).counts
                split = masks.rows.split(counts)
                for row in list(gains_of(masked, split, evaluation, given.steps)):
                    gains.add({"seed": seed, "sparsities": name, **row})
    summarise(given, moved.frame, gains.frame)


def scores_of(masked: MaskedModel, a: float, b: float | Mapping[str, float]) -> Weights:
    """|W|^a ||x||^b, with one b for all layers or one for each."""
    if not isinstance(b, Mapping):
        return masked.scores(Power(alpha=a, delta=b))
    return {name: masked.score(name, Power(alpha=a, delta=own)) for name, own in b.items()}


def keep_of(scores: Weights, counts: Counts) -> Keep:
    return {name: keep_counts(scores[name], torch.from_numpy(own)) for name, own in counts.items()}


def first_order(masked: MaskedModel, gradients: Weights, before: Keep, after: Keep) -> Weights:
    """By layer, < d KL / d W, W after - W before >: of the weights that come less those that go."""
    return {
        name: (gradients[name] * masked.dense(name) * (kept.float() - before[name].float())).sum()
        for name, kept in after.items()
    }


def steps_of(masked: MaskedModel, counts: Counts) -> Iterator[Entry]:
    """For each pair and step what one backward pass says of it, and what it is."""
    for a, b in PAIRS:
        before = keep_of(scores_of(masked, a, b), counts)
        masked.write(before)
        kl, gradients = masked.kl_and_gradients()
        for exponent in ("a", "b"):
            for step in STEPS:
                moved = (a + step, b) if exponent == "a" else (a, b + step)
                after = keep_of(scores_of(masked, *moved), counts)
                swapped = sum(int((after[name] & ~before[name]).sum()) for name in after)
                said = first_order(masked, gradients, before, after)
                masked.write(after)
                yield {
                    "a": a, "b": b, "exponent": exponent, "step": step, "kl": round(kl, 6),
                    "swapped": round(swapped / masked.layout.total, 6),
                    "predicted": round(float(sum(said.values())), 6),
                    "measured": round(masked.kl() - kl, 6),
                }  # fmt: skip


def gains_of(
    masked: MaskedModel, counts: Counts, evaluation: Samples, steps: int
) -> Iterator[Entry]:
    """Wanda, the best b of the grid, and a b for each layer, with these counts."""
    found = {}
    for b in GRID:
        masked.write(keep_of(scores_of(masked, 1.0, b), counts))
        found[b] = masked.kl()
    one = min(found, key=found.__getitem__)
    chosen = {PLAIN: 1.0, ONE: one, EACH: descended(masked, counts, steps)}
    for name, b in chosen.items():
        masked.write(keep_of(scores_of(masked, 1.0, b), counts))
        held = masked.held_out(evaluation)
        every = list(b.values()) if isinstance(b, Mapping) else [b]
        yield {
            "contender": name, "kl": round(masked.kl(), 6), "perplexity": round(held.perplexity, 4),
            "nats": round(held.mean, 6), "least_b": round(min(every), 3),
            "mean_b": round(float(np.mean(every)), 3), "most_b": round(max(every), 3),
            "sequence_nats": json.dumps([round(x, 5) for x in held.nats]),
        }  # fmt: skip


def descended(masked: MaskedModel, counts: Counts, steps: int) -> dict[str, float]:
    """The b of each layer with the least KL on the way down their slopes from Wanda's 1."""
    at, adam = np.ones(len(counts)), Adam(STEP)
    reached: list[tuple[float, Float[np.ndarray, " layers"]]] = []
    for _ in range(steps):
        keep = keep_of(scores_of(masked, 1.0, named(counts, at)), counts)
        masked.write(keep)
        kl, gradients = masked.kl_and_gradients()
        reached.append((kl, at))
        ends = [np.clip(at + side * AWAY, *BOUNDS) for side in (-1, 1)]
        less, more = (keep_of(scores_of(masked, 1.0, named(counts, end)), counts) for end in ends)
        change = first_order(masked, gradients, less, more)
        slopes = np.array([float(own) for own in change.values()]) / (ends[1] - ends[0])
        at = np.clip(at + adam(slopes), *BOUNDS)
    return named(counts, min(reached, key=lambda point: point[0])[1])


def named(counts: Counts, values: Float[np.ndarray, " layers"]) -> dict[str, float]:
    return dict(zip(counts, values.tolist(), strict=True))


def halves(steps: pd.DataFrame) -> pd.DataFrame:
    """Each step beside its opposite."""
    up, down = (pd.DataFrame(steps[side * steps.step > 0]) for side in (1, -1))
    by = ["seed", "a", "b", "exponent", "step"]
    both = up.merge(down.assign(step=-down.step), on=by, suffixes=("_up", "_down"))
    told = {
        title: both[f"{key}_{side}"]
        for title, (side, key) in zip(SIDES, [(s, k) for s in ("up", "down") for k in TOLD])
    }
    half = {title: (both[f"{x}_up"] - both[f"{x}_down"]) / 2 for title, x in zip(HALVES, TOLD)}
    swapped = (both.swapped_up + both.swapped_down) / 2
    return both[by].assign(swapped=swapped, **told, **half)


def agreed(rows: pd.DataFrame, told: str, measured: str) -> str:
    right = int((np.sign(rows[told]) == np.sign(rows[measured])).sum())
    return f"{right} of {len(rows)}"


def summarise(given: argparse.Namespace, steps: pd.DataFrame, gains: pd.DataFrame) -> None:
    lines = [
        f"# {given.model}, {100 * given.sparsity:g} %: exponents of |W|^a ||x||^b", "",
        f"Pattern row, one-shot. Calibrated on {given.calibration}, searched on {given.search}, "
        f"held out {given.evaluation}. KL in nats per token on the search text.", "",
        "## What one backward pass says of a step", "",
        "Swapped: weights that come, of all. Told and measured: the change of the KL, means over "
        "seeds, up and down; half: half of the difference between up and down.", "",
    ]  # fmt: skip
    both = halves(steps)
    shown = []
    for _, rows in both.groupby(["a", "b", "exponent", "step"], sort=False):
        first = rows.to_dict("records")[0]
        shown.append(
            {
                "a, b": f"{first['a']:g}, {first['b']:g}",
                "step": f"{first['exponent']} ± {first['step']:g}",
                "swapped": f"{100 * rows.swapped.mean():.2f} %",
                **{x: f"{rows[x].mean():+.4f}" for x in [*SIDES, *HALVES]},
            }
        )
    lines += [markdown(pd.DataFrame(shown)), ""]
    steps = steps.assign(size=steps.step.abs())
    for size, rows in groups(steps, "size"):
        half = pd.DataFrame(both[both.step == size])
        lines.append(
            f"- steps of {size:g}: the sign of one step is right in {agreed(rows, *TOLD)}, told "
            f"less measured {(rows.predicted - rows.measured).mean():+.4f}; that of half the "
            f"difference in {agreed(half, *HALVES)}, told over measured "
            f"{(half[HALVES[0]] / half[HALVES[1]]).median():.2f} (median)"
        )
    lines += [
        "", "## What exponents gain", "",
        f"By {len(GRID)} values of b, or {given.steps} steps of Adam on a b for each layer. Better "
        f"by: nats per token of held-out text, beside Wanda's exponents at the same sparsities, "
        f"paired by seed, ± the standard error over seeds. Means (range).", "",
    ]  # fmt: skip
    shown = []
    for sparsities, own in groups(gains, "sparsities", sort=False):
        base = pd.DataFrame(own[own.contender == PLAIN])
        for name, rows in groups(own, "contender", sort=False):
            shown.append(
                {
                    "sparsities": sparsities,
                    "exponents": name,
                    "KL": spread(rows.kl, 4),
                    "held-out perplexity": spread(rows.perplexity, 2),
                    "better by": "" if name == PLAIN else gain(base, rows),
                    "b": f"{rows.mean_b.mean():.2f} ({rows.least_b.min():g} to "
                    f"{rows.most_b.max():g})",
                }
            )
    lines += [markdown(pd.DataFrame(shown)), "", origin_line(f"{given.threads} threads")]
    (given.out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
