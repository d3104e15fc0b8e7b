"""Checks every GPU kernel against its reference and times what a candidate costs on a GPU.

One command, under 8 minutes, for a machine with a CUDA device; it needs torch, triton and
transformers, no model from anywhere and no other extra:

    python experiments/benchmarks/bench_gpu.py --to results/bench_gpu.json

Shapes are Llama-3.1-8B's, in the part `small` SmolLM2-135M's; weights and inputs are random.
Ceilings are measured in the same run: a copy inside the device's memory, and square products in
bf16, TF32 and fp32. Exit code 1: a kernel is not what its reference is; 2: there is no CUDA device.
`--interpret` runs the same on tiny shapes through Triton's interpreter: a test of this script,
whose times mean nothing.

`PARTS` is what can be run, {name: function of a Bench that returns rows}; those of
`bench_gpu_solvers.py` beside this file come after them.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any


if "--interpret" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before anybody imports Triton

import torch
from torch import Tensor


GB, TFLOP = 1e9, 1e12
SECONDS, SOLVER_SECONDS = 480, 80.0


@dataclass(frozen=True)
class Shapes:
    """A decoder of `blocks` blocks, as its prunable matrices and its head see it."""

    hidden: int
    inner: int
    key: int
    heads: int
    blocks: int
    vocab: int
    tokens: int
    square: int
    copied: int

    @property
    def block(self) -> dict[str, tuple[int, int]]:
        h, i, k = self.hidden, self.inner, self.key
        return {
            "q": (h, h), "k": (k, h), "v": (k, h), "o": (h, h),
            "gate": (i, h), "up": (i, h), "down": (h, i),
        }  # fmt: skip


LLAMA = Shapes(4096, 14336, 1024, 32, 32, 128256, 2048, 8192, 2**31)
SMOLLM2 = Shapes(576, 1536, 192, 9, 30, 49152, 2048, 8192, 2**31)
TINY = Shapes(8, 12, 4, 2, 1, 70, 16, 32, 2**10)


@dataclass(frozen=True)
class Row:
    """One measurement. `rate` is in `unit`, `share` of the ceiling called `ceiling`.

    `right` is None where nothing was to be checked; `met` where nothing was promised.
    """

    part: str
    what: str
    ms: float | None = None
    rate: float | None = None
    unit: str = ""
    share: float | None = None
    ceiling: str = ""
    right: bool | None = None
    aim: str = ""
    met: bool | None = None
    note: str = ""


@dataclass
class Bench:
    """Where and on what to measure. `ceilings`: bytes or operations a second, by name."""

    device: torch.device
    shapes: Shapes
    repeats: int
    ends: float
    ceilings: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def seconds(self, run: Callable[[], Any], repeats: int = 0, warm_up: int = 2) -> float:
        """The median of some runs, after the first ones. Waits for the device before and after."""
        times = []
        repeats, warm_up = (repeats or self.repeats, warm_up) if self.on_gpu else (1, 0)
        for number in range(warm_up + repeats):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            if number >= warm_up:
                times.append(time.perf_counter() - start)
        return median(times)

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def normal(self, *shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
        """bf16."""
        generator = torch.Generator(self.device).manual_seed(seed)
        made = torch.empty(shape, dtype=torch.bfloat16, device=self.device)
        return made.normal_(0, scale, generator=generator)

    def promise(self, aim: str, met: bool) -> dict[str, Any]:
        """What a row says of its aim: nothing where times mean nothing."""
        return {"aim": aim, "met": met} if self.on_gpu else {}

    def row(
        self,
        part: str,
        what: str,
        seconds: float,
        amount: float = 0,
        ceiling: str = "",
        **rest: Any,
    ) -> Row:
        """`amount`: bytes where the ceiling is `copy`, else operations."""
        if not amount:
            return Row(part, what, seconds * 1e3, **rest)
        unit, size = ("GB/s", GB) if ceiling == "copy" else ("TFLOP/s", TFLOP)
        limit = self.ceilings.get(ceiling)
        share = amount / seconds / limit if limit else None
        return Row(part, what, seconds * 1e3, amount / seconds / size, unit, share, ceiling, **rest)


# --- parts ------------------------------------------------------------------------------------


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
            out, plain = buffers[tuple(weight.shape)], torch.empty_like(weight)
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
            yield Recipe({"name": "wanda"}, drop, "row")

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


# --- the rest -----------------------------------------------------------------------------------


def random_model(bench: Bench) -> tuple[Any, Any, dict[str, Any]]:
    """A Llama with random weights on the device, its layout and statistics of random inputs."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from optishear.calibration.statistics import InputSq, LayerStats
    from optishear.models.discover import layout_of
    from optishear.models.load import LoadedModel

    shapes = bench.shapes
    width = shapes.hidden // shapes.heads
    config = LlamaConfig(
        hidden_size=shapes.hidden,
        intermediate_size=shapes.inner,
        num_hidden_layers=shapes.blocks,
        num_attention_heads=shapes.heads,
        num_key_value_heads=shapes.key // width,
        head_dim=width,
        vocab_size=shapes.vocab,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with bench.device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.requires_grad_(False)
    layout = layout_of(model)
    stats = {
        layer.site: LayerStats.of(
            1, 1, InputSq(bench.normal(layer.in_features, seed=number).float().square().add_(0.1))
        )
        for number, layer in enumerate(layout.layers)
    }
    where = Path("random")
    return LoadedModel(model, None, "random", where, "random", torch.bfloat16), layout, stats


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def all_parts() -> dict[str, Callable[[Bench], list[Row]]]:
    """Those above, and the solvers' of `bench_gpu_solvers.py` beside this file."""
    sys.path.insert(0, str(Path(__file__).parent))
    import bench_gpu_solvers

    def solver(name: str, bench: Bench) -> list[Row]:
        """It checks itself before it times anything, and says so where it is wrong."""
        device = "cuda" if bench.on_gpu else "cpu"
        settings = bench_gpu_solvers.Settings(device, not bench.on_gpu, SOLVER_SECONDS)
        try:
            found = bench_gpu_solvers.PARTS[name](settings)
        except SystemExit as wrong:
            return [Row(name, str(wrong), right=False)]
        return [
            Row(
                name,
                f"{row['shape']}: {row['what']}",
                row["milliseconds"],
                None if row["per_second"] is None else row["per_second"] / GB,
                "G/s",
                row["share"],
                "its own" if row["share"] is not None else "",
            )
            for row in found
        ]

    return {**PARTS, **{name: partial(solver, name) for name in bench_gpu_solvers.PARTS}}


def table(rows: list[Row]) -> str:
    titles = ("part", "what", "ms", "rate", "of ceiling", "right", "aim", "note")
    lines = [titles]
    for row in rows:
        share = "" if row.share is None else f"{row.share:.0%} of {row.ceiling}"
        aim = row.aim and f"{'met' if row.met else 'MISSED'}: {row.aim}"
        lines.append(
            (
                row.part,
                row.what,
                "" if row.ms is None else f"{row.ms:.3f}",
                "" if row.rate is None else f"{row.rate:,.1f} {row.unit}",
                share,
                {None: "", True: "yes", False: "WRONG"}[row.right],
                aim,
                row.note,
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def machine(bench: Bench) -> dict[str, Any]:
    about: dict[str, Any] = {
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "interpreted": not bench.on_gpu,
    }
    if bench.on_gpu:
        properties = torch.cuda.get_device_properties(bench.device)
        about |= {
            "device": properties.name,
            "memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    return about


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="", help="some of them, with commas between")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no part begins after these")
    parser.add_argument("--to", type=Path, default=Path("results/bench_gpu.json"))
    parser.add_argument("--interpret", action="store_true", help="tiny, in Triton's interpreter")
    given = parser.parse_args()
    parts = all_parts()
    names = [name for name in given.parts.split(",") if name] or list(parts)
    if unknown := [name for name in names if name not in parts]:
        print(f"--parts: no {unknown[0]!r}. There are: {', '.join(parts)}.", file=sys.stderr)
        return 2
    if find_spec("triton") is None:
        print("Triton is not installed, so there are no kernels to measure.", file=sys.stderr)
        return 2
    if not given.interpret and not torch.cuda.is_available():
        print(
            "There is no CUDA device here; --interpret runs a smoke test on the CPU.",
            file=sys.stderr,
        )
        return 2
    start = time.perf_counter()
    device = torch.device("cpu" if given.interpret else "cuda")
    shapes, repeats = (TINY, 1) if given.interpret else (LLAMA, given.repeats)
    bench = Bench(device, shapes, repeats, start + given.seconds)
    rows: list[Row] = []
    with ExitStack() as stack:
        from optishear.kernels.use import kernels

        stack.enter_context(kernels("interpret" if given.interpret else "on"))
        for name in names:
            if time.perf_counter() > bench.ends:
                rows.append(Row(name, "left out", note=f"{given.seconds:g} s were over"))
                continue
            try:
                rows += parts[name](bench)
            except (RuntimeError, ValueError) as error:  # the other parts are worth having
                rows.append(Row(name, "failed", right=False, note=str(error).splitlines()[0]))
            if bench.on_gpu:
                torch.cuda.empty_cache()
    took = time.perf_counter() - start
    print(table(rows))
    print(f"{took:.0f} s in all")
    given.to.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": machine(bench),
        "shapes": asdict(shapes),
        "seconds": took,
        "rows": [asdict(row) for row in rows],
    }
    given.to.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any(row.right is False for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
