"""Parts of the GPU benchmark that are no solver's: ceilings, masks, KL, whole candidates.

Whatever imports Triton is imported inside them, when the command line has been read.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from bench_gpu_setting import GB, SMOLLM2, TINY, Bench, Row, float32_products, random_model
from torch import Tensor


def ceilings(bench: Bench) -> list[Row]:
    """What this device does at its best, by torch's own copy and products."""
    source = torch.empty(bench.shapes.copied, dtype=torch.bfloat16, device=bench.device).zero_()
    target = torch.empty_like(source)
    took = {"copy": (bench.seconds(partial(target.copy_, source)), 2 * source.nbytes)}
    del source, target
    n = bench.shapes.square
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "highest"),
        ("tf32", torch.float32, "high"),
        ("fp32", torch.float32, "highest"),
    ):
        a = bench.normal(n, n).to(dtype)
        b, out = bench.normal(n, n, seed=1).to(dtype), torch.empty_like(a)
        with float32_products(precision):
            took[name] = (bench.seconds(partial(torch.mm, a, b, out=out)), 2 * n**3)
    rows = []
    for name, (seconds, amount) in took.items():
        bench.ceilings[name] = amount / seconds
        size = f"{bench.shapes.copied} bf16" if name == "copy" else f"{n} x {n} x {n}"
        rows.append(bench.row("ceilings", f"{name}, {size}", seconds, amount, name))
    return rows


def masks(bench: Bench) -> list[Row]:
    """Scores, selection and masked weights of a whole model, each layer in one kernel."""
    from optishear.kernels import selection
    from optishear.kernels.separable import Separable
    from optishear.kernels.use import kernels
    from optishear.recipe.pattern import NofM, WholeLayer
    from optishear.recipe.pattern import Row as RowPattern
    from optishear.solvers.masks import keep_highest
    from optishear.solvers.ranks import write_kept

    shapes = bench.shapes
    layers = [
        (role, bench.normal(*shape, scale=0.02, seed=100 * block + number))
        for block in range(shapes.blocks)
        for number, (role, shape) in enumerate(shapes.block.items())
    ]
    buffers = {shape: torch.empty(shape, dtype=torch.bfloat16, device=bench.device)
               for shape in set(shapes.block.values())}  # fmt: skip
    outs = [torch.empty_like(weight) for _, weight in layers]
    norms = {
        width: bench.normal(width, seed=width).float().mul_(0.5).exp_()
        for width in {shape[1] for shape in shapes.block.values()}
    }
    sums = {id(w): (w.abs().float().sum(0), w.abs().float().sum(1)) for _, w in layers}

    def vectors(metric: str, weight: Tensor) -> Separable:
        norm = norms[weight.shape[1]]
        match metric:
            case "magnitude":
                return Separable()
            case "wanda":
                return Separable(norm)
        return Separable(norm**0.5, *sums[id(weight)])

    def write(metric: str, pattern: Any, weight: Tensor, out: Tensor, check: bool) -> Tensor:
        drop = weight.numel() // 2
        scores = vectors(metric, weight)
        return selection.write_without_lowest(weight, scores, drop, pattern, out, check)

    rows, weights = [], sum(weight.numel() for _, weight in layers)
    cases = [
        ("wanda", RowPattern(), "whole model in 25 ms and 70 % of copy"),
        ("magnitude", RowPattern(), ""),
        ("ria", RowPattern(), ""),
        ("wanda", NofM(4), ""),
        ("magnitude", WholeLayer(), ""),
        ("wanda", WholeLayer(), ""),
    ]
    for metric, pattern, aim in cases:
        right = True
        for _, weight in layers[: len(shapes.block)]:
            out, plain = buffers[weight.shape[0], weight.shape[1]], torch.empty_like(weight)
            keep = write(metric, pattern, weight, out, True)
            with kernels("off"):
                scores = vectors(metric, weight).scores(weight)
                want = keep_highest(scores, weight.numel() // 2, pattern)
            write_kept(weight, want, plain)
            right &= torch.equal(keep, want)
            right &= torch.equal(out.view(torch.int16), plain.view(torch.int16))

        def whole(metric: str = metric, pattern: Any = pattern) -> None:
            for (_, weight), out in zip(layers, outs, strict=True):
                write(metric, pattern, weight, out, False)

        seconds = bench.seconds(whole)
        moved = 5 * weights  # bf16 read and written, a byte of mask
        row = bench.row("masks", f"{metric}, {pattern.text}", seconds, moved, "copy", right=right)
        fast = seconds <= 0.025 and (row.share or 0) >= 0.7
        rows.append(replace(row, **bench.promise(aim, fast)) if aim else row)

    def reference() -> None:
        with kernels("off"):
            for (_, weight), out in zip(layers[: len(shapes.block)], outs, strict=False):
                scores = vectors("wanda", weight).scores(weight)
                write_kept(weight, keep_highest(scores, weight.numel() // 2, RowPattern()), out)

    seconds = bench.seconds(reference, repeats=3, warm_up=1)
    rows.append(bench.row("masks", "wanda, row: torch, one block", seconds))
    return rows


def kl(bench: Bench) -> list[Row]:
    """The log-sum-exp that the KL needs of a candidate, with and without logits in memory."""
    from optishear.kernels import log_sum_exp as kernel
    from optishear.models.head import Head
    from optishear.objectives.softmax import normaliser

    shapes = bench.shapes
    hidden = bench.normal(shapes.tokens, shapes.hidden)
    head = Head(bench.normal(shapes.vocab, shapes.hidden, scale=shapes.hidden**-0.5, seed=1))
    some = hidden[:: max(1, shapes.tokens // 64)]
    got = kernel.log_sum_exp(hidden, head.weight)[:: max(1, shapes.tokens // 64)]
    miss = (got - normaliser(head.logits(some)).lse).abs().max().item()
    ways: dict[str, Callable[[], Any]] = {
        "kernel, no logits": lambda: kernel.log_sum_exp(hidden, head.weight),
        "torch: fp32 logits, then their log-sum-exp": lambda: normaliser(head.logits(hidden)).lse,
        "bare product in bf16": lambda: hidden @ head.weight.T,
    }
    rows, operations = [], 2 * shapes.tokens * shapes.vocab * shapes.hidden
    for name, run in ways.items():
        if bench.on_gpu:
            torch.cuda.reset_peak_memory_stats(bench.device)
            before = torch.cuda.memory_allocated(bench.device)
        seconds = bench.seconds(run, repeats=5)
        note = ""
        if bench.on_gpu:
            peak = torch.cuda.max_memory_allocated(bench.device) - before
            note = f"{peak / GB:.2f} GB beside inputs"
        is_kernel = name.startswith("kernel")
        if is_kernel:
            note += f"{', ' if note else ''}off by {miss:.1e} nats at most"
        right = miss < 1e-4 if is_kernel else None
        rows.append(bench.row("kl", name, seconds, operations, "bf16", right=right, note=note))
    return rows


def candidate(bench: Bench) -> list[Row]:
    """A whole candidate of a search, every layer new, against the model's forward alone."""
    from optishear.errors import ConfigError
    from optishear.kernels.use import kernels
    from optishear.models.head import hidden_states
    from optishear.pipeline import MeasurementSettings, measure_on
    from optishear.pruning.calibration_data import CalibrationData
    from optishear.recipe.recipe import Recipe
    from optishear.text.tokens import TokenBatches

    shapes = bench.shapes
    loaded, layout, stats = random_model(bench)
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(0, shapes.vocab, (4, shapes.tokens // 4), generator=generator)
    search, tokens = TokenBatches.of(sequences, "random"), sequences.to(bench.device)

    def recipes() -> Iterator[Recipe]:
        for number in range(10**6):
            share = 0.4 + 0.02 * (number % 16)  # so that no layer is as the last recipe left it
            drop = {name: int(size * share) for name, size in layout.sizes.items()}
            yield Recipe.of({"name": "wanda"}, drop, "row")

    with torch.no_grad():
        bare = bench.seconds(lambda: hidden_states(loaded.model, tokens), repeats=5)
        rows = [bench.row("candidate", "forward without its head", bare)]
        with_head = bench.seconds(lambda: loaded.model(tokens, use_cache=False), repeats=5)
        rows.append(bench.row("candidate", "forward with its head", with_head))
    quantities, several = ("reconstruction", "kl", "sparsity"), recipes()
    first, values = next(several), dict[str, dict[str, float]]()
    usual = "interpret" if not bench.on_gpu else "on"
    ways = {"": (usual, False), ", kernels off": ("off", False), ", CUDA graphs": (usual, True)}
    if not bench.on_gpu:
        del ways[", CUDA graphs"]
    for way, (mode, graphed) in ways.items():
        what = f"masks, forward, reconstruction and KL{way}"
        try:
            with (
                kernels(mode),
                measure_on(
                    loaded, layout, CalibrationData(stats), search,
                    MeasurementSettings(quantities, shapes.tokens, graphed=graphed),
                ) as measure,
            ):  # fmt: skip
                found = values[way] = measure(first, search.tokens.numel())
                seconds = bench.seconds(
                    lambda run=measure: run(next(several), search.tokens.numel()), repeats=5
                )
        except ConfigError as error:  # a model that cannot be captured
            rows.append(Row("candidate", what, note=str(error)))
            continue
        # A KL is off by the rounding of fp32 logits, however small it is.
        right = all(abs(found[k] - v) <= 1e-3 * abs(v) + 1e-6 for k, v in values[""].items())
        ratio = seconds / bare
        aim = {} if mode == "off" else bench.promise("1.3 forwards", ratio <= 1.3)
        note = f"{ratio:.2f} forwards"
        rows.append(bench.row("candidate", what, seconds, right=right, note=note, **aim))
    return rows


def small(bench: Bench) -> list[Row]:
    """The same of a small model, where the launches of kernels are what takes the time."""
    shapes = SMOLLM2 if bench.on_gpu else TINY
    return [
        replace(row, part="small", aim="", met=None)
        for row in candidate(replace(bench, shapes=shapes))
    ]


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "ceilings": ceilings,
    "masks": masks,
    "kl": kl,
    "candidate": candidate,
    "small": small,
}
