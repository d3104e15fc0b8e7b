"""How fast the solvers are, and how near the optimum, on a model's own layers and statistics.

    python bench_solvers.py --model smollm2-135m --blocks 0,14,29 --threads 2
    python bench_solvers.py --synthetic llama-3.1-8b --device cuda --repeats 3

One process. In each layer the contenders take turns, and a time is the median over `--repeats`.
Some of these parts, a CSV file each, and a summary.md:

- refit: ours against OPTIMA's own solver and against exact Cholesky solutions, all for one Wanda
  mask of 50 % a row.
- solvers: SparseGPT, at further sparsities with the same factor, and ALPS.
- moonshot: what blending in the Taylor loss (λ 0.5, attention layers) adds to each solver.
- sparsegpt: at 60 % and 2:4, factor included, beside the code of `--against`. (Not by itself.)
- alps: what goes into its eigendecomposition, its iterations and its refit. (Not by itself.)
- floor: the matrix product that a refit is made of, and how near it comes to that product's speed.

`--synthetic` measures layers of a large model's shapes, with random weights and statistics instead.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import bench_against
import pandas as pd
import torch
from bench_common import (
    FACTORS,
    GRADIENT_SEQUENCES,
    GRADIENT_TOKENS,
    LAMBDA,
    REMARKS,
    VIEWS,
    CompileClock,
    Pdhg,
    Timing,
    alps_flops,
    import_mpax,
    in_turns,
    machine,
    markdown,
    refit_flops,
    row_by_row,
    row_costs,
    show,
    sparsegpt_flops,
    spread_rows,
    synthetic_stats,
    with_median,
)
from help_text import first_line
from rich.console import Console
from torch import Tensor

from optishear.calibration.gradient_store import load_or_collect_gradients
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Gram, InputSq, LayerStats, stats_of
from optishear.metrics import METRICS
from optishear.models.weights import read
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import Row, parse_pattern
from optishear.recipe.quadratic import blended_layers
from optishear.runs.keys import gradients_key
from optishear.runs.prepare import prepare
from optishear.solvers.alps import ALPS, admm
from optishear.solvers.base import LayerProblem
from optishear.solvers.masks import keep_highest
from optishear.solvers.methods import METHODS
from optishear.solvers.moonshot import blended, reconstruction
from optishear.solvers.quadratic import Quadratic
from optishear.solvers.refit import exact_refit, refit
from optishear.solvers.sparsegpt import BLOCK, SparseGPT
from optishear.text.sources import TextSpec
from optishear.text.tokens import TokenBatches


SPARSITY, FURTHER = 0.5, (0.6, 0.7)
PARTS = ("refit", "solvers", "moonshot", "floor")
MORE = ("sparsegpt", "alps")
HIDDEN, KEY_VALUE, MLP = 4096, 1024, 14336  # Llama-3.1-8B
SYNTHETIC = {  # role -> (out, in, input site)
    "q_proj": (HIDDEN, HIDDEN, "attention"),
    "k_proj": (KEY_VALUE, HIDDEN, "attention"),
    "v_proj": (KEY_VALUE, HIDDEN, "attention"),
    "o_proj": (HIDDEN, HIDDEN, "output"),
    "gate_proj": (MLP, HIDDEN, "mlp"),
    "up_proj": (MLP, HIDDEN, "mlp"),
    "down_proj": (HIDDEN, MLP, "down"),
}


@dataclass(frozen=True, eq=False)
class Case:
    """One layer as the benchmark sees it, its factors ready. `factors`: what making them took."""

    layer: Layer
    weight: Tensor
    stats: LayerStats
    quadratic: Quadratic
    factors: dict[str, float]
    gradients: LayerGradients | None = None

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def row(self) -> dict[str, Any]:
        """How its line of a table begins."""
        role = self.layer.role.rpartition(".")[2]
        rows, width = self.weight.shape
        return {"layer": f"{self.layer.block}.{role}", "rows": rows, "width": width}

    def wanda(self, sparsity: float) -> Tensor:
        scores = METRICS["wanda"]().score(self.weight, self.stats)
        return keep_highest(scores, Row().uniform(self.layer, sparsity), Row())

    def problem(self, method: str, sparsity: float, quadratic: Quadratic) -> LayerProblem:
        """The layer as a method's solver gets it, under the pattern of its paper."""
        pattern = parse_pattern(METHODS[method].pattern)
        drop = pattern.uniform(self.layer, sparsity)
        return LayerProblem(self.weight, drop, pattern, lambda: self.stats, lambda: quadratic)

    def cost(self, weight: Tensor) -> float:
        return row_costs(self.quadratic.shared.matrix, weight - self.weight).sum().item()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    console = Console(width=None if sys.stdout.isatty() else 160)
    given.out.mkdir(parents=True, exist_ok=True)
    mpax = "refit" in given.parts and not given.without_mpax
    clock = import_mpax(given.threads, device) if mpax else None
    tables = measure_all(given, clock, console)
    summary = [
        "# Benchmark of the solvers",
        "\n".join(f"- {line}" for line in machine(device, given.threads, clock is not None)),
        what_was_run(given),
    ]
    for part, frame in tables.items():
        for title, columns in (VIEWS | bench_against.VIEWS)[part].items():
            if not set(columns.split()) <= set(frame):
                continue  # raPDHG's, where it did not run
            view = with_median(pd.DataFrame(frame[columns.split()]))
            show(console, title, view)
            summary += [f"## {title}", markdown(view)]
        for line in (REMARKS | bench_against.REMARKS)[part](frame):
            console.print(line, highlight=False, soft_wrap=True)
            summary.append(line)
    (given.out / "summary.md").write_text("\n\n".join(summary) + "\n")
    console.print(f"written to {given.out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--blocks", type=_numbers, default=[0, 14, 29])
    parser.add_argument("--roles", default="", help="only layers whose role contains this")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=64, help="for raPDHG and the loop; 0 means all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("results/bench_solvers"))
    parser.add_argument("--without-mpax", action="store_true")
    parser.add_argument("--against", type=Path, help="a checkout of the code of before")
    parser.add_argument("--synthetic", choices=["llama-3.1-8b"])
    parser.add_argument("--scale", type=float, default=1.0, help="of the synthetic layers' widths")
    given = parser.parse_args()
    if given.repeats < 1 or not set(given.parts) <= {*PARTS, *MORE}:
        parser.error(f"--repeats is 1 or more, --parts some of {','.join(PARTS + MORE)}")
    if given.synthetic:
        given.parts = ["synthetic"]
    return given


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def what_was_run(given: argparse.Namespace) -> str:
    if given.synthetic:
        return (
            f"Layers of the shapes of {given.synthetic}, widths times {given.scale:g}, random "
            f"weights, inputs with eigenvalues i^-1 and 8 loud channels. Medians of "
            f"{given.repeats} rounds in which the contenders take turns, after one to warm up."
        )
    return (
        f"{given.model}, blocks {', '.join(map(str, given.blocks))}, fp32; calibrated on "
        f"{given.sequences} x {given.seq_len} tokens; damping 0.01 of the mean diagonal. Medians "
        f"of {given.repeats} rounds in which the contenders take turns, after one to warm up. "
        f"Costs in fp64 on the damped quadratic. Seconds, if nothing else is said. Factors (of H, "
        f"made once for all layers of a site and all sparsities) are ready when a solver starts, "
        f"and their time is a column of its own."
    )


def measure_all(
    given: argparse.Namespace, clock: CompileClock | None, console: Console
) -> dict[str, pd.DataFrame]:
    """All parts on all layers. Files are written anew after each layer, for a run may break."""
    rows: dict[str, list[dict[str, Any]]] = {part: [] for part in given.parts}
    for case in synthetic_cases(given) if given.synthetic else model_cases(given):
        console.print(f"{case.layer.name} {tuple(case.weight.shape)}", highlight=False)
        contenders, compiling = contenders_of(case, given, clock)
        timings = in_turns(contenders, given.repeats, case.device)
        for part in given.parts:
            if part != "moonshot" or case.gradients is not None:
                rows[part].append(case.row | MEASURES[part](case, timings, compiling))
                pd.DataFrame(rows[part]).to_csv(given.out / f"{part}.csv", index=False)
    return {part: pd.DataFrame(rows[part]) for part in given.parts if rows[part]}


def model_cases(given: argparse.Namespace) -> Iterator[Case]:
    """The chosen layers, one after another, in the order of the model."""
    source = "embedded" if given.model == "embedded" else "wikipedia-passages"
    text = TextSpec(source, "train", given.sequences, given.seq_len)
    needs = frozenset({InputSq, Gram})
    known = prepare(given.model, "float32", given.device, text).calibrate(needs)
    chosen = [
        layer
        for layer in known.layout.layers
        if layer.block in given.blocks and given.roles in layer.role
    ]
    if not chosen:
        raise SystemExit(f"{given.model} has no such layers in blocks {given.blocks}.")
    gradients = {}
    if "moonshot" in given.parts:
        names = set(blended_layers(known.layout, "attention"))
        attention = ModelLayout(tuple(layer for layer in chosen if layer.name in names))
        tokens = known.calibration.batch[:GRADIENT_SEQUENCES, :GRADIENT_TOKENS]
        part = replace(known, layout=attention, calibration=TokenBatches.of(tokens, "shortened"))
        folder = gradients_key(part, len(tokens)).path
        gradients = load_or_collect_gradients(folder, known.loaded.model, attention, tokens).layers
    ready: dict[str, tuple[Quadratic, dict[str, float]]] = {}
    for layer in chosen:
        stats = stats_of(known.data.stats, layer)
        if layer.site not in ready:
            ready[layer.site] = factored(stats, given)
        weight = read(known.loaded.model, layer).float()
        yield Case(layer, weight, stats, *ready[layer.site], gradients.get(layer.name))


def synthetic_cases(given: argparse.Namespace) -> Iterator[Case]:
    """The seven layers of one block. One site's factors at a time are kept, for they are large."""
    device, ready, held = torch.device(given.device), None, ""
    for number, (role, (out, into, site)) in enumerate(SYNTHETIC.items()):
        out, into = (max(16, round(n * given.scale / 8) * 8) for n in (out, into))
        if site != held:
            ready = None
            stats = synthetic_stats(into, device, seed=number)
            ready, held = (stats, *factored(stats, given)), site
        generator = torch.Generator(device).manual_seed(100 + number)
        weight = 0.02 * torch.randn(out, into, generator=generator, device=device)
        assert ready is not None
        yield Case(Layer(role, 0, role, out, into, site), weight, *ready)


def factored(stats: LayerStats, given: argparse.Namespace) -> tuple[Quadratic, dict[str, float]]:
    """A site's quadratic with all its factors made, and the seconds from the statistics to each."""

    def make(factor: str) -> Quadratic:
        quadratic = reconstruction(stats)
        getattr(quadratic.shared, factor)
        return quadratic

    makers = {factor: partial(make, factor) for factor in FACTORS}
    timings = in_turns(makers, given.repeats, stats[InputSq].total.device)
    return with_factors(timings["scaled_eigen"].result), {f: timings[f].median for f in FACTORS}


def with_factors(quadratic: Quadratic) -> Quadratic:
    for factor in FACTORS:
        getattr(quadratic.shared, factor)
    return quadratic


def contenders_of(
    case: Case, given: argparse.Namespace, clock: CompileClock | None
) -> tuple[dict[str, Callable[[], Any]], list[float]]:
    """What is to be timed on this layer, and the list to which raPDHG adds its compile times."""
    weight, plain, keep = case.weight, case.quadratic, case.wanda(SPARSITY)
    found: dict[str, Callable[[], Any]] = {"refit": lambda: refit(plain, weight, keep)}
    compiling: list[float] = []
    if "refit" in given.parts:
        chosen = spread_rows(len(weight), given.rows, case.device)
        some, kept = weight[chosen], keep[chosen]
        found["exact"] = lambda: exact_refit(plain, weight, keep)
        found["some rows"] = lambda: (chosen, refit(plain, some, kept))
        found["loop"] = lambda: row_by_row(plain.shared.matrix, some, kept)
        if clock is not None:
            pdhg = Pdhg(plain.shared.matrix, some, kept, clock)
            found["pdhg"], compiling = pdhg.solve, pdhg.compiling
    if "sparsegpt" in given.parts:
        found |= bench_against.sparsegpt_contenders(weight, case.stats, sides(given.against))
    if {"solvers", "moonshot", "synthetic", "alps"} & set(given.parts):
        for sparsity in (SPARSITY, *(FURTHER if "solvers" in given.parts else ())):
            problem = case.problem("sparsegpt", sparsity, plain)
            found[f"sparsegpt {sparsity}"] = partial(SparseGPT().solve, problem)
        found["alps"] = lambda: ALPS().solve(case.problem("alps", SPARSITY, plain))
    if "moonshot" in given.parts and case.gradients is not None:
        found |= moonshot_contenders(case, case.gradients, keep)
    if "alps" in given.parts:
        problem = case.problem("alps", SPARSITY, plain)
        found["eigen"] = lambda: reconstruction(case.stats).shared.scaled_eigen
        found["admm"] = lambda: admm(problem)
        found["select"] = lambda: keep_highest(weight.abs(), problem.drop, problem.pattern)
    if {"floor", "alps"} & set(given.parts):
        found["product"] = lambda: weight @ plain.shared.matrix
    return found, compiling


def moonshot_contenders(
    case: Case, gradients: LayerGradients, keep: Tensor
) -> dict[str, Callable[[], Any]]:
    def blend() -> Quadratic:
        return blended(case.weight, case.stats, gradients, LAMBDA)

    mixed = with_factors(blend())
    return {
        "moonshot inverse": lambda: blend().shared.inverse,
        "moonshot refit": lambda: refit(mixed, case.weight, keep),
        "moonshot sparsegpt": lambda: SparseGPT().solve(case.problem("sparsegpt", SPARSITY, mixed)),
        "moonshot alps": lambda: ALPS().solve(case.problem("alps", SPARSITY, mixed)),
    }


@cache
def sides(against: Path | None) -> dict[str, SimpleNamespace]:
    found = {bench_against.OURS: bench_against.checkout(None)}
    if against is not None:
        found = {bench_against.BEFORE: bench_against.checkout(against)} | found
    return found


def sparsegpt_row(case: Case, timings: dict[str, Timing], _: list[float]) -> dict[str, Any]:
    return bench_against.sparsegpt_columns(timings, case.cost)


def alps_row(case: Case, timings: dict[str, Timing], _: list[float]) -> dict[str, Any]:
    return bench_against.alps_columns(timings)


def refit_row(case: Case, timings: dict[str, Timing], compiling: list[float]) -> dict[str, Any]:
    hessian, ours, factor = case.quadratic.shared.matrix, timings["refit"], case.factors["inverse"]
    optimum = row_costs(hessian, timings["exact"].result - case.weight)
    whole = optimum.sum().item()
    chosen, on_some = timings["some rows"].result
    some, best = case.weight[chosen], optimum[chosen].sum().item()

    def excess_on_some(weight: Tensor) -> float:
        return row_costs(hessian, weight - some).sum().item() / best - 1

    loop = timings["loop"].median * len(case.weight) / len(some)
    row = {
        "iterations": ours.result.iterations,
        "bound": ours.result.excess,
        "excess": case.cost(ours.result.weight) / whole - 1,
        "refit_s": ours.median,
        "factor_s": factor,
        "exact_s": timings["exact"].median,
        "exact_ratio": timings["exact"].median / ours.median,
        "exact_ratio_with_factor": timings["exact"].median / (ours.median + factor),
        "some_rows": len(some),
        "loop_scaled_s": loop,
        "loop_ratio": loop / ours.median,
        "loop_ratio_with_factor": loop / (ours.median + factor),
        "loop_excess": excess_on_some(timings["loop"].result),
        "some_refit_s": timings["some rows"].median,
        "some_excess": excess_on_some(on_some.weight),
    }
    if "pdhg" not in timings:
        return row
    theirs, mine = timings["pdhg"], timings["some rows"].median
    weight, optimal, iterations = theirs.result
    compiled = statistics.median(compiling[1:])
    return row | {
        "pdhg_s": theirs.median,
        "pdhg_compiling_s": compiled,
        "pdhg_iterations": iterations,
        "pdhg_optimal": float(optimal.mean()),
        "pdhg_excess": excess_on_some(weight),
        "pdhg_ratio": theirs.median / mine,
        "pdhg_ratio_with_factor": theirs.median / (mine + factor),
        "pdhg_ratio_less_compiling": (theirs.median - compiled) / mine,
    }


def solvers_row(case: Case, timings: dict[str, Timing], _: list[float]) -> dict[str, Any]:
    row = {"refit_s": timings["refit"].median, "factor_s": case.factors["inverse_upper"]}
    for sparsity in (SPARSITY, *FURTHER):
        refitted = refit(case.quadratic, case.weight, case.wanda(sparsity)).weight
        timing, level = timings[f"sparsegpt {sparsity}"], f"{100 * sparsity:.0f}"
        row[f"sparsegpt_{level}_s"] = timing.median
        row[f"sparsegpt_{level}_cost"] = case.cost(timing.result.weight) / case.cost(refitted)
    refitted = timings["refit"].result.weight
    return row | {
        "eigen_s": case.factors["scaled_eigen"],
        "alps_50_s": timings["alps"].median,
        "alps_50_cost": case.cost(timings["alps"].result.weight) / case.cost(refitted),
    }


def moonshot_row(case: Case, timings: dict[str, Timing], _: list[float]) -> dict[str, Any]:
    assert case.gradients is not None
    (rows, width), samples = case.weight.shape, case.gradients.samples
    plain, mixed = timings["refit"].result.iterations, timings["moonshot refit"].result.iterations
    row = {
        "gradients": samples,
        "factor_s": case.factors["inverse"],
        "moonshot_factor_s": timings["moonshot inverse"].median,
        "refit_iterations": plain,
        "refit_moonshot_iterations": mixed,
    }
    mixture = blended(case.weight, case.stats, case.gradients, LAMBDA)
    formulas = {
        "refit": (refit_flops(rows, width, plain), refit_flops(rows, width, mixed, samples)),
        "sparsegpt": (
            sparsegpt_flops(rows, width, BLOCK),
            sparsegpt_flops(rows, width, BLOCK, samples),
        ),
        "alps": (
            alps_flops(rows, width, *alps_iterations(case, case.quadratic)),
            alps_flops(rows, width, *alps_iterations(case, mixture), samples),
        ),
    }
    for name, key in (("refit", "refit"), ("sparsegpt", f"sparsegpt {SPARSITY}"), ("alps", "alps")):
        before, after = timings[key], timings[f"moonshot {name}"]
        row[f"{name}_s"], row[f"{name}_moonshot_s"] = before.median, after.median
        row[f"{name}_ratio"] = after.median / before.median
        row[f"{name}_flops"], row[f"{name}_moonshot_flops"] = formulas[name]
        row[f"{name}_flops_ratio"] = formulas[name][1] / formulas[name][0]
        row[f"{name}_products"], row[f"{name}_moonshot_products"] = before.flops, after.flops
        row[f"{name}_products_ratio"] = after.flops / before.flops
    return row


def alps_iterations(case: Case, quadratic: Quadratic) -> tuple[int, int]:
    """Of ADMM and of the refit after it, which a solution does not tell."""
    chosen = admm(case.problem("alps", SPARSITY, quadratic))
    refitted = refit(quadratic, case.weight, chosen.keep, chosen.weight)
    return chosen.iterations, refitted.iterations


def floor_row(case: Case, timings: dict[str, Timing], _: list[float]) -> dict[str, Any]:
    rows, width = case.weight.shape
    product, ours = timings["product"].median, timings["refit"]
    products = 2 * (ours.result.iterations + 1)
    return {
        "product_s": product,
        "product_gflops": 2e-9 * rows * width**2 / product,
        "refit_s": ours.median,
        "refit_products": products,
        "refit_gflops": 1e-9 * refit_flops(rows, width, ours.result.iterations) / ours.median,
        "of_floor": products * product / ours.median,
    }


def synthetic_row(case: Case, timings: dict[str, Timing], _: list[float]) -> dict[str, Any]:
    ours = timings["refit"]
    return {
        "site": case.layer.site,
        "inverse_s": case.factors["inverse"],
        "refit_s": ours.median,
        "iterations": ours.result.iterations,
        "excess_at_most": ours.result.excess,
        "inverse_upper_s": case.factors["inverse_upper"],
        "sparsegpt_50_s": timings[f"sparsegpt {SPARSITY}"].median,
        "scaled_eigen_s": case.factors["scaled_eigen"],
        "alps_50_s": timings["alps"].median,
    }


MEASURES: dict[str, Callable[[Case, dict[str, Timing], list[float]], dict[str, Any]]] = {
    "refit": refit_row,
    "solvers": solvers_row,
    "sparsegpt": sparsegpt_row,
    "alps": alps_row,
    "moonshot": moonshot_row,
    "floor": floor_row,
    "synthetic": synthetic_row,
}


if __name__ == "__main__":
    main()
