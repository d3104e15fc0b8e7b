"""How fast SparseGPT and the refit are on a GPU, at the shapes of Llama-3.1-8B.

    python bench_gpu_solvers.py --device cuda
    python bench_gpu_solvers.py --tiny        # a smoke run on a CPU, interpreted

Random weights, inputs with eigenvalues i^-1 and eight loud channels. One layer of each shape is
timed: medians over rounds in which the contenders take turns, after one to warm up. Times of the
whole model are extrapolated from those, to the 224 layers of 32 blocks, and their rows say so.
Before anything is timed, each part holds its answers against the reference on the same device and
stops where they differ by more than rounding.

`per_second` and `ceiling` are in what `what` says, FLOP/s or bytes/s. Ceilings are measured in the
same run: a plain product of the layer's shape in the precision in question, or a copy of it.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from help_text import first_line
from torch import Tensor

from optishear.calibration.statistics import Gram, InputSq, LayerStats
from optishear.kernels.use import kernels
from optishear.recipe.pattern import Block, NofM, Pattern, Row
from optishear.solvers.base import LayerProblem, LayerSolution
from optishear.solvers.masks import keep_highest
from optishear.solvers.moonshot import reconstruction
from optishear.solvers.products import product
from optishear.solvers.quadratic import Quadratic
from optishear.solvers.refit import (
    Refitted,
    exact_refit,
    move_rows,
    refit,
    turn_rows,
)
from optishear.solvers.sparsegpt import SparseGPT


BLOCKS, SPARSITY, TOLERANCE = 32, 0.5, 1e-3
ROUNDS = 3
CHECKED_ROWS = 32  # that are solved exactly, in fp64
LEVELS = 4  # sparsity levels that go through the sweep's kernel together
FEWER, LEAST_ROWS, LEAST_WIDTH = 4096, 2, 36  # tiny shapes: so many times smaller, but not below
GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Settings:
    """`seconds`: what a part may take. Past half of it there is only one round."""

    device: str
    tiny: bool
    seconds: float


@dataclass(frozen=True)
class Shape:
    """Layers of a block that are alike."""

    roles: str
    rows: int
    width: int
    layers: int  # of a block
    sites: int  # of a block: layers of one input share their factors

    @property
    def text(self) -> str:
        return f"{self.roles} {self.rows}x{self.width}"


SHAPES = (
    Shape("q, o", 4096, 4096, 2, 2),
    Shape("k, v", 1024, 4096, 2, 0),
    Shape("gate, up", 14336, 4096, 2, 1),
    Shape("down", 4096, 14336, 1, 1),
)
LAYERS = BLOCKS * sum(shape.layers for shape in SHAPES)


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a smoke run, in seconds on a CPU")
    parser.add_argument("--seconds", type=float, default=80.0, help="for each part")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    given = parser.parse_args()
    if not set(given.parts) <= set(PARTS):
        parser.error(f"--parts is some of {','.join(PARTS)}")
    if given.device == "cpu" and not given.tiny:
        parser.error("without a GPU there is only --tiny, which measures nothing")
    settings = Settings(given.device, given.tiny, given.seconds)
    for part in given.parts:
        for row in PARTS[part](settings):
            print(as_text(row), flush=True)


def as_text(row: dict[str, Any]) -> str:
    cells = [f"{row['part']:<9} {row['shape']:<22} {row['what']:<62}"]
    if row["milliseconds"] is not None:
        cells.append(f"{row['milliseconds']:>12.3f} ms")
    if row["per_second"] is not None:
        cells.append(f"{row['per_second'] / GIGA:>12.1f} G/s")
    if row["ceiling"] is not None:
        cells.append(f"of {row['ceiling'] / GIGA:.1f}")
    if row["share"] is not None:
        cells.append(f"{row['share']:>7.1%}")
    return " ".join(cells)


def row_of(
    part: str,
    what: str,
    shape: str,
    milliseconds: float | None = None,
    work: float | None = None,
    ceiling: float | None = None,
    share: float | None = None,
) -> dict[str, Any]:
    """`work`: what was done in those milliseconds, in the unit that `what` names."""
    per_second = work / (milliseconds / 1e3) if work and milliseconds else None
    if per_second and ceiling:
        share = per_second / ceiling
    return {
        "part": part,
        "what": what,
        "shape": shape,
        "milliseconds": milliseconds,
        "per_second": per_second,
        "ceiling": ceiling,
        "share": share,
    }


# --- the two parts ------------------------------------------------------------------------------


def sparsegpt(settings: Settings) -> list[dict[str, Any]]:
    row, found = partial(row_of, "sparsegpt"), []
    total = dict.fromkeys(("kernel", "torch", "factors"), 0.0)
    for layer in layers_of(settings):
        shape, weight, quadratic = layer.shape, layer.weight, layer.quadratic
        rows, width = weight.shape
        check_sparsegpt(layer)
        alike = same_bits(layer)
        found.append(
            row("share of a block's weights that are torch's bits", shape.text, share=alike)
        )
        solve = {
            "kernel": partial(switched, "on", partial(solved, layer, Block(128))),
            "torch": partial(switched, "off", partial(solved, layer, Block(128))),
            "kernel 2:4": partial(switched, "on", partial(solved, layer, NofM(4))),
            "torch 2:4": partial(switched, "off", partial(solved, layer, NofM(4))),
        }
        block, stacked = one_block(layer, 1), one_block(layer, LEVELS)
        floor = {
            "product": partial(product, weight, quadratic.shared.matrix),
            "copy": weight.clone,
            "block": block,
            "stacked": stacked,
        }
        took = medians(solve | floor, layer)
        product_rate = 2 * rows * width**2 / (took["product"] / 1e3)
        copy_rate = 8 * weight.numel() / (took["copy"] / 1e3)
        for name in solve:
            flops = 3 * rows * width**2  # of the updates, and of the cost that is reported
            found.append(row(f"{name} (FLOP/s)", shape.text, took[name], flops, product_rate))
        speed = took["torch"] / took["kernel"]
        found.append(row(f"kernel is {speed:.1f} times as fast as torch", shape.text))
        moved = 13 * rows * min(128, width)
        label = "one block of 128 columns, kernel alone (bytes/s)"
        found.append(row(label, shape.text, took["block"], moved, copy_rate))
        label = f"the same for {LEVELS} levels at once (bytes/s)"
        found.append(row(label, shape.text, took["stacked"], LEVELS * moved, copy_rate))
        for name in ("kernel", "torch"):
            total[name] += BLOCKS * shape.layers * took[name]
        total["factors"] += BLOCKS * shape.sites * layer.factors
    whole = whole_model(settings)
    for name in ("kernel", "torch"):
        found.append(row(f"{LAYERS} layers, {name}, extrapolated", whole, total[name]))
    label = f"the factors of their {BLOCKS * sum(s.sites for s in SHAPES)} inputs, extrapolated"
    return [*found, row(label, whole, total["factors"])]


REFITS = {  # what is compared -> (precision of products, kernels)
    "highest": ("highest", "on"),
    "tf32": ("tf32", "on"),
    "bf16x3": ("bf16x3", "on"),
    "tf32 without kernels": ("tf32", "off"),
}


def refits(settings: Settings) -> list[dict[str, Any]]:
    row, found = partial(row_of, "refit"), []
    total = dict.fromkeys(REFITS, 0.0)
    for layer in layers_of(settings):
        shape, weight, quadratic = layer.shape, layer.weight, layer.quadratic
        rows, width = weight.shape
        keep = wanda(layer)
        exact = exact_refit(quadratic, weight[some(layer)], keep[some(layer)])
        worst = max(check_refit(layer, keep, exact, *how) for how in REFITS.values())
        label = f"worst excess over fp64's optimum, of {len(exact)} rows"
        found.append(row(label, shape.text, share=worst))
        runs = {
            name: partial(switched, mode, partial(refitted, layer, keep, precision))
            for name, (precision, mode) in REFITS.items()
        }
        products = {
            precision: partial(product, weight, quadratic.shared.matrix, precision)
            for precision in ("highest", "tf32", "bf16x3")
        }
        steps = {
            "between": partial(switched, "on", between_products(layer, keep, fused=True)),
            "between in torch": between_products(layer, keep, fused=False),
            "copy": weight.clone,
        }
        iterations = {name: run().iterations for name, run in runs.items()}
        took = medians(runs | {f"product {p}": run for p, run in products.items()} | steps, layer)
        gemm = 2 * rows * width**2
        for precision in products:
            label = f"product, {precision} (FLOP/s)"
            found.append(row(label, shape.text, took[f"product {precision}"], gemm))
        for name, (precision, _) in REFITS.items():
            ceiling = gemm / (took[f"product {precision}"] / 1e3)
            label = f"to {TOLERANCE:g}, {name}, {iterations[name]} steps (FLOP/s)"
            flops = 2 * (iterations[name] + 1) * gemm
            found.append(row(label, shape.text, took[name], flops, ceiling))
            total[name] += BLOCKS * shape.layers * took[name]
        copy_rate = 8 * weight.numel() / (took["copy"] / 1e3)
        for name, how in (("between", "kernels"), ("between in torch", "torch")):
            label = f"what a step does between its products, {how} (bytes/s)"
            found.append(row(label, shape.text, took[name], 42 * weight.numel(), copy_rate))
    whole = whole_model(settings)
    for name in REFITS:
        found.append(row(f"{LAYERS} layers, {name}, extrapolated", whole, total[name]))
    return found


PARTS: dict[str, Callable[[Settings], list[dict[str, Any]]]] = {
    "sparsegpt": sparsegpt,
    "refit": refits,
}


def whole_model(settings: Settings) -> str:
    return "tiny shapes" if settings.tiny else "Llama-3.1-8B"


# --- layers -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """`factors`: the milliseconds from its statistics to the factor that SparseGPT reads."""

    shape: Shape
    weight: Tensor
    stats: LayerStats
    quadratic: Quadratic
    factors: float
    ends: float  # when there should be one round only


def layers_of(settings: Settings) -> Iterator[Layer]:
    """One of each shape. Those of one width share an input, and so their factors."""
    if settings.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton's functions are made
    device = torch.device(settings.device)
    held: tuple[LayerStats, Quadratic, float] | None = None
    factored(synthetic_stats(64, device, seed=0))  # so that no library is loaded on the clock
    ends = time.perf_counter() + (0 if settings.tiny else settings.seconds / 2)
    for number, shape in enumerate(SHAPES):
        if settings.tiny:
            rows = max(LEAST_ROWS, shape.rows // FEWER)
            width = max(LEAST_WIDTH, shape.width // FEWER // 4 * 4)
            shape = Shape(shape.roles, rows, width, shape.layers, shape.sites)
        if held is None or held[0][Gram].total.shape[0] != shape.width:
            held = None  # its memory goes back before the next is made
            stats = synthetic_stats(shape.width, device, seed=number)
            made: list[Quadratic] = []
            took = timed(lambda: made.append(factored(stats)), device)  # noqa: B023
            held = stats, made[0], took
        generator = torch.Generator(device).manual_seed(100 + number)
        weight = torch.randn(shape.rows, shape.width, generator=generator, device=device) * 0.02
        yield Layer(shape, weight, *held, ends)


def factored(stats: LayerStats) -> Quadratic:
    quadratic = reconstruction(stats)
    _ = quadratic.shared.inverse_upper
    return quadratic


def synthetic_stats(width: int, device: torch.device, seed: int) -> LayerStats:
    """Inputs as language models have them: eigenvalues i^-1 and 8 channels 20 times as loud."""
    generator = torch.Generator(device).manual_seed(seed)
    scale = torch.arange(1, width + 1, device=device).float().rsqrt()
    mixing = torch.randn(width, width, generator=generator, device=device) / width**0.5
    loud = torch.randperm(width, generator=generator, device=device)[:8]
    gram = torch.zeros(width, width, device=device)
    for _ in range(4):
        x = torch.randn(width, width, generator=generator, device=device) * scale @ mixing
        x[:, loud] *= 20
        gram.addmm_(x.T, x)
    return LayerStats.of(4 * width, 4, InputSq(gram.diagonal().clone()), Gram(gram))


def problem(layer: Layer, pattern: Pattern) -> LayerProblem:
    drop = int(SPARSITY * layer.weight.numel())
    return LayerProblem(layer.weight, drop, pattern, lambda: layer.stats, lambda: layer.quadratic)


def solved(layer: Layer, pattern: Pattern) -> LayerSolution:
    return SparseGPT().solve(problem(layer, pattern))


def wanda(layer: Layer) -> Tensor:
    scores = layer.weight.abs() * layer.stats[InputSq].total.sqrt()
    return keep_highest(scores, int(SPARSITY * layer.weight.numel()), Row())


def refitted(layer: Layer, keep: Tensor, precision: str) -> Refitted:
    return refit(layer.quadratic, layer.weight, keep, tolerance=TOLERANCE, precision=precision)


def one_block(layer: Layer, levels: int) -> Callable[[], None]:
    """The sweep's kernel over the first block of so many levels, as often as one likes."""
    columns = min(128, layer.shape.width)
    dense = layer.weight[:, :columns].repeat(levels, 1)
    upper = layer.quadratic.shared.inverse_upper[:columns, :columns]
    keep = dense > 0
    weight, passed = dense.clone(), torch.empty_like(dense)
    none = torch.zeros(len(dense), dtype=torch.int32, device=dense.device)
    from optishear.kernels.sparsegpt_sweep import sweep_block

    return lambda: sweep_block(weight, keep, upper, passed, 0, none, none)


def between_products(layer: Layer, keep: Tensor, fused: bool) -> Callable[[], None]:
    """What a refit's step does besides its products, on made-up numbers."""
    move, turn, kept = move_rows, turn_rows, keep.float()
    if fused:
        from optishear.kernels import refit_step

        move, turn, kept = refit_step.move_rows, refit_step.turn_rows, keep
    weight, residual, direction = layer.weight.clone(), layer.weight.clone(), layer.weight.clone()
    product, slope = layer.weight, torch.full_like(layer.weight[:, 0], 1e-9)

    def run() -> None:
        move(weight, residual, direction, product, kept, slope)
        ahead = product if fused else product * kept
        turn(residual, ahead, direction, kept, slope)

    return run


# --- against the reference ----------------------------------------------------------------------


def check_sparsegpt(layer: Layer) -> None:
    """With kernels and without: the same counts, and costs that differ by less than 0.1 %."""
    for pattern in (Block(128), NofM(4)):
        ours = switched("on", partial(solved, layer, pattern))
        theirs = switched("off", partial(solved, layer, pattern))
        same = int((ours.keep == theirs.keep).sum()) / ours.keep.numel()
        assert ours.cost is not None
        assert theirs.cost is not None
        apart = abs(ours.cost / theirs.cost - 1)
        if int(ours.keep.sum()) != int(theirs.keep.sum()) or apart > 1e-3 or same < 0.99:
            raise SystemExit(
                f"SparseGPT on {layer.shape.text}, {pattern.text}: kernel and torch differ, costs "
                f"by {apart:.1e}, masks in {1 - same:.1e} of the weights. Nothing was timed."
            )


def same_bits(layer: Layer) -> float:
    """The share of a block's new weights that are the same bits as torch's, for one mask."""
    columns = min(128, layer.shape.width)
    keep = wanda(layer)[:, :columns]
    upper = layer.quadratic.shared.inverse_upper[:columns, :columns]
    ours, passed = layer.weight[:, :columns].clone(), layer.weight[:, :columns].clone()
    none = torch.zeros(len(ours), dtype=torch.int32, device=ours.device)
    from optishear.kernels.sparsegpt_sweep import sweep_block

    sweep_block(ours, keep.clone(), upper, passed, 0, none, none)
    theirs = layer.weight[:, :columns].clone()
    for j in range(columns):
        error = theirs[:, j] / upper[j, j] * ~keep[:, j]
        theirs[:, j] *= keep[:, j]
        theirs[:, j + 1 :].addr_(error, upper[j, j + 1 :], alpha=-1)
    apart = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    if apart > 1e-4:
        raise SystemExit(
            f"The sweep of a block of {layer.shape.text} is {apart:.1e} of the largest weight away "
            f"from torch's. Nothing was timed."
        )
    return (ours == theirs).float().mean().item()


def some(layer: Layer) -> Tensor:
    rows = len(layer.weight)
    return torch.linspace(0, rows - 1, min(CHECKED_ROWS, rows)).long()


def check_refit(layer: Layer, keep: Tensor, exact: Tensor, precision: str, mode: str) -> float:
    """How far the cost of some rows is above that of their exact solutions."""
    weight, kept, cost = layer.weight[some(layer)], keep[some(layer)], layer.quadratic.cost
    run = partial(refit, layer.quadratic, weight, kept, None, TOLERANCE, precision=precision)
    excess = cost(switched(mode, run).weight - weight) / cost(exact - weight) - 1
    if not excess <= TOLERANCE + 1e-5:
        raise SystemExit(
            f"The refit of {layer.shape.text} in {precision} ended {excess:.1e} above the optimum "
            f"where at most {TOLERANCE:g} was asked for. Nothing was timed."
        )
    return excess


# --- the clock ----------------------------------------------------------------------------------


def switched(mode: str, run: Callable[[], Any]) -> Any:
    """With kernels "on" or "off"; where the interpreter is on, "on" means that."""
    if mode == "on" and os.environ.get("TRITON_INTERPRET") == "1":
        mode = "interpret"
    with kernels(mode):
        return run()


def medians(contenders: dict[str, Callable[[], Any]], layer: Layer) -> dict[str, float]:
    """Milliseconds of each, which take turns; a round to warm up is not counted."""
    device = layer.weight.device
    for run in contenders.values():
        run()
    rounds = ROUNDS if time.perf_counter() < layer.ends else 1
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name].append(timed(run, device))
    return {name: statistics.median(each) for name, each in times.items()}


def timed(run: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) * 1e3
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


if __name__ == "__main__":
    main()
