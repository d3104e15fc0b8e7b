"""What the solver benchmark is made of: timing in turns, the rivals, operation counts, tables."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from frames import numbers, where
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from optishear.calibration.statistics import Gram, InputSq, LayerStats
from optishear.records.manifest import now, provenance
from optishear.solvers.sparsegpt import BLOCK


LAMBDA, GRADIENT_SEQUENCES, GRADIENT_TOKENS = 0.5, 16, 256
FACTORS = ("inverse", "inverse_upper", "scaled_eigen")  # for refit, SparseGPT, ALPS
BLOCKS = 32  # of Llama-3.1-8B
IN_PLACE = {  # products that torch's counter does not know
    torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten.baddbmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * a[2] * b[2],
    torch.ops.aten.addr_: lambda _, a, b, **__: 2 * a[0] * b[0],
    torch.ops.aten.addmv_: lambda _, a, b, **__: 2 * a[0] * a[1],
}
PDHG_PACKAGES = ("mpax", "jax", "jaxlib")


@dataclass
class Timing:
    """`flops`: of the matrix products that ran, 2 m n k each, as torch counts them."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of the process: what others do is not in it
    result: Any = None
    flops: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)


def in_turns(
    contenders: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, Timing]:
    """Each contender once a round, so that a slow spell of the machine hits all alike.

    The first of `repeats` + 1 rounds is a warm-up: its times are thrown away, its products counted.
    """
    timings = {name: Timing() for name in contenders}
    for name, run in contenders.items():
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
            run()
        timings[name].flops = counter.get_total_flops()
    for _ in range(repeats):
        for name, run in contenders.items():
            timings[name].result = None  # its memory goes back before the next one is made
            synchronize(device)
            started, before = time.perf_counter(), time.process_time()
            result = run()
            synchronize(device)
            timings[name].seconds.append(time.perf_counter() - started)
            timings[name].cpu.append(time.process_time() - before)
            timings[name].result = result
    return timings


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def row_costs(
    hessian: Float[Tensor, "in in"], change: Float[Tensor, "rows in"]
) -> Float[Tensor, " rows"]:
    """1/2 d_r H d_r^T of each row, in fp64 throughout."""
    wide = change.double()
    return 0.5 * ((wide @ hessian.double()) * wide).sum(1)


def row_by_row(
    hessian: Float[Tensor, "in in"], dense: Float[Tensor, "rows in"], keep: Bool[Tensor, "rows in"]
) -> Float[Tensor, "rows in"]:
    """The exact optimum as many codes have it: a Python loop, one fp32 Cholesky factor a row."""
    weight = torch.zeros_like(dense)
    for row in range(len(dense)):
        kept = keep[row].nonzero()[:, 0]
        factor = torch.linalg.cholesky(hessian[kept[:, None], kept])
        right = hessian[kept] @ dense[row]
        weight[row, kept] = torch.cholesky_solve(right[:, None], factor)[:, 0]
    return weight


class CompileClock:
    """The seconds that jax has spent on tracing and compiling."""

    def __init__(self) -> None:
        jax = import_module("jax")
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += seconds


def import_mpax(threads: int, device: torch.device) -> CompileClock:
    """Raises SystemExit where there is no fair match. (jax reads settings when first imported.)"""
    os.environ.setdefault("NPROC", str(threads))
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    try:
        jax, _ = import_module("jax"), import_module("mpax")
    except ImportError as error:
        raise SystemExit(
            "OPTIMA's own solver comes from the package mpax, which is not installed: "
            "pip install 'optishear[bench]', or go on without it by --without-mpax."
        ) from error
    if device.type == "cuda" and jax.default_backend() != "gpu":
        raise SystemExit(
            "Here jax knows no GPU, so raPDHG would run on the CPU against a refit on the GPU: "
            "install jax with CUDA (pip install 'jax[cuda12]'), or go on by --without-mpax."
        )
    return CompileClock()


class Pdhg:
    """OPTIMA's own way to refit rows: mpax's raPDHG, called as its authors' code calls it.

    For each row r, over the change x: min 1/2 x^T Q x + c^T x with A x = b, G x >= h, l <= x <= u,

        Q = H, c = 0; A = zeros(1, d), b = 0; G = ones(1, d), h = -1e5   (two constraints that say
        l, u = -inf, inf where the weight is kept                        nothing; mpax wants some)
        l, u = -w, -w + 1e-4 where it is pruned

    in fp32, by raPDHG(eps_abs=1e-2, eps_rel=1e-2, iteration_limit=100_000, verbose=False) from a
    zero start, matrices dense, under jax.vmap over the rows with Q, A and G shared and only l and u
    batched. Not under jax.jit, where it does not trace; so its loops are compiled anew in each call
    (`compiling` has those seconds). Pruned weights are set to zero afterwards, as theirs are.

    Where we differ: H is damped as ours is, theirs is not, so that all minimise one and the same
    cost; a row that is not reported optimal is used all the same (theirs falls back to the mask
    where more than 5 % are not); the arrays are moved to jax before the clock starts.
    """

    def __init__(
        self,
        hessian: Float[Tensor, "in in"],
        dense: Float[Tensor, "rows in"],
        keep: Bool[Tensor, "rows in"],
        clock: CompileClock,
    ):
        jnp = import_module("jax.numpy")
        width, free = dense.shape[1], torch.inf
        lower, upper = torch.where(keep, -free, -dense), torch.where(keep, free, -dense + 1e-4)
        self._shared = (
            jnp.asarray(hessian.cpu().numpy()),
            jnp.zeros((1, width)),
            jnp.ones((1, width)),
        )
        self._bounds = (jnp.asarray(lower.cpu().numpy()), jnp.asarray(upper.cpu().numpy()))
        self._dense, self._keep, self._clock = dense, keep, clock
        self.compiling: list[float] = []

    def solve(self) -> tuple[Float[Tensor, "rows in"], Bool[np.ndarray, " rows"], float]:
        """(weights, which rows it calls optimal, iterations in the mean)."""
        jax, jnp, mpax = map(import_module, ("jax", "jax.numpy", "mpax"))
        statuses = import_module("mpax.utils").TerminationStatus
        width = self._dense.shape[1]
        before = self._clock.seconds

        def one_row(q, a, g, lower, upper):
            problem = mpax.create_qp(
                Q=q,
                c=jnp.zeros(width),
                A=a,
                b=jnp.zeros(1),
                G=g,
                h=jnp.full(1, -1e5),
                l=lower,
                u=upper,
                use_sparse_matrix=False,
            )
            solver = mpax.raPDHG(eps_abs=1e-2, eps_rel=1e-2, iteration_limit=100_000, verbose=False)
            found = solver.optimize(problem)
            return found.primal_solution, found.termination_status, found.iteration_count

        rows = jax.vmap(one_row, in_axes=(None, None, None, 0, 0))
        change, status, iterations = map(np.array, rows(*self._shared, *self._bounds))
        self.compiling.append(self._clock.seconds - before)
        weight = self._dense + torch.from_numpy(change).to(self._dense.device)
        optimal = status == int(statuses.OPTIMAL)
        return weight.masked_fill(~self._keep, 0), optimal, float(iterations.mean())


def refit_flops(rows: int, width: int, iterations: int, samples: int = 0) -> int:
    """4 R d^2 (k + 1): R rows of width d, k iterations with two products each, and two before.

    With n gradients a row there come, k + 1 times, 4 R n d for H_r x and 4 R n d + 2 R n^2 for
    H_r^-1 x; and once 2 R n d^2 for S H^-1, 2 R n^2 d for S H^-1 S^T, R n^3 / 3 to factor it.
    """
    r, d, k, n = rows, width, iterations, samples
    each = 4 * r * d * d + 8 * r * n * d + 2 * r * n * n
    return each * (k + 1) + 2 * r * n * d * d + 2 * r * n * n * d + r * n**3 // 3


def sparsegpt_flops(rows: int, width: int, block: int, samples: int = 0) -> int:
    """Over blocks of b columns that end at column e, the sum of R b (b - 1) for the updates inside
    and 2 R b (d - e) for those after it, about R d^2 in all; and 2 R d^2 for the cost reported.

    With n gradients a row there come 2 R n d^2 for the p, (4 n^2 + 3 n) R d for the q and a, in the
    sweep 8 R n d, 2 R b^2 a block for the scores of the moment, and 4 R n d for the cost.
    """
    r, d, n = rows, width, samples
    total = 0
    for start in range(0, d, block):
        b = min(block, d - start)
        total += r * b * (b - 1) + 2 * r * b * (d - start - b) + (2 * r * b * b if n else 0)
    return total + 2 * r * (n + 1) * d * d + (4 * n * n + 15 * n) * r * d


def alps_flops(rows: int, width: int, admm: int, refit: int, samples: int = 0) -> int:
    """4 R d^2 a for a iterations of ADMM, the refit's k iterations, and 8 R d^2 for the four costs
    that are compared and reported.

    With n gradients a row there come 2 R n d^2 for t = S Q; 4 R n d + 2 R n^2 in each iteration;
    2 R n^2 d + R n^3 / 3 for the factors of K at each of about a / 3 values of rho; 4 R n d a cost.
    """
    r, d, n = rows, width, samples
    each, cost = 4 * r * d * d + 4 * r * n * d + 2 * r * n * n, 2 * r * d * d + 4 * r * n * d
    factors = 2 * r * n * n * d + r * n**3 // 3
    chosen = 2 * r * n * d * d + each * admm + factors * (admm // 3)
    return chosen + refit_flops(r, d, refit, n) + 4 * cost


def spread_rows(rows: int, wanted: int, device: torch.device) -> Int[Tensor, " wanted"]:
    """`wanted` of so many rows, evenly spread over them; 0 wants them all."""
    count = min(wanted or rows, rows)
    return torch.linspace(0, rows - 1, count, device=device).round().long()


def synthetic_stats(width: int, device: torch.device, seed: int) -> LayerStats:
    """Inputs as language models have them: eigenvalues i^-1 and 8 channels 20 times as loud."""
    generator = torch.Generator(device).manual_seed(seed)
    scale = torch.arange(1, width + 1, device=device).float().rsqrt()
    mixing = torch.randn(width, width, generator=generator, device=device) / width**0.5
    loud = torch.randperm(width, generator=generator, device=device)[:8]
    gram = torch.zeros(width, width, device=device)
    chunks, tokens = 4, width  # four times as many tokens as inputs
    for _ in range(chunks):
        x = (torch.randn(tokens, width, generator=generator, device=device) * scale) @ mixing
        x[:, loud] *= 20
        gram.addmm_(x.T, x)
    return LayerStats.of(chunks * tokens, chunks, InputSq(gram.diagonal().clone()), Gram(gram))


@dataclass(frozen=True)
class Aim:
    """A promise about a number, and what became of it."""

    text: str
    value: float
    limit: float
    at_least: bool

    @property
    def verdict(self) -> str:
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        sign = "≥" if self.at_least else "≤"
        return f"{'met' if met else 'MISSED'}: {self.text} {sign} {self.limit:g}: {self.value:.3g}"


def machine(device: torch.device, threads: int, mpax: bool) -> list[str]:
    """What has to be known to compare these numbers with others."""
    origin = provenance()
    code, box = origin["code"], origin["machine"]
    lines = [
        f"{now()}, commit {code.get('commit', 'unknown')}{' (dirty)' if code.get('dirty') else ''}",
        f"{box['processor']}, {box['cores']} cores, {threads} threads; {box['system']}",
        f"python {origin['versions']['python']}, torch {torch.__version__}, fp32 products in "
        f"precision {torch.get_float32_matmul_precision()!r}",
    ]
    if device.type == "cuda":
        lines.append(f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    if mpax:
        lines.append(", ".join(f"{name} {version(name)}" for name in PDHG_PACKAGES))
    return lines


def with_median(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with a last row of medians, where a column is of numbers."""
    middle = frame.median(numeric_only=True).to_frame().T
    middle.insert(0, frame.columns[0], "median")
    return pd.concat([frame, middle], ignore_index=True)


def cells(frame: pd.DataFrame) -> list[list[str]]:
    return [[_cell(value) for value in row] for row in frame.itertuples(index=False)]


def _titles(frame: pd.DataFrame) -> list[str]:
    """Columns as a file names them, with places to break the line."""
    return [str(column).replace("_", " ") for column in frame.columns]


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:.0f}" if whole and abs(value) < 1e6 else f"{value:.3g}"


def origin_line(had: str) -> str:
    """The machine, what the run `had` of it, torch, and the commit: how a summary.md ends."""
    origin = provenance()
    dirty = " (dirty)" if origin["code"].get("dirty") else ""
    return (
        f"Machine: {origin['machine']['processor']}, {had}, torch {origin['versions']['torch']}; "
        f"commit {origin['code'].get('commit', '')[:12]}{dirty}."
    )


def markdown(frame: pd.DataFrame) -> str:
    head = [_titles(frame), ["---"] * len(frame.columns)]
    return "\n".join("| " + " | ".join(row) + " |" for row in head + cells(frame))


def show(console: Console, title: str, frame: pd.DataFrame) -> None:
    table = Table(title=title, title_justify="left")
    for title in _titles(frame):
        table.add_column(title, justify="right")
    for row in cells(frame):
        table.add_row(*row)
    console.print(table)


VIEWS: dict[str, dict[str, str]] = {  # part -> title -> columns
    "refit": {
        "Refit against exact solutions": "layer rows width iterations excess refit_s factor_s "
        "exact_s exact_ratio exact_ratio_with_factor loop_scaled_s loop_ratio "
        "loop_ratio_with_factor",
        "Refit against OPTIMA's raPDHG, on some rows": "layer some_rows some_refit_s some_excess "
        "pdhg_s pdhg_compiling_s pdhg_iterations pdhg_optimal pdhg_excess pdhg_ratio "
        "pdhg_ratio_with_factor pdhg_ratio_less_compiling",
    },
    "solvers": {
        "SparseGPT and ALPS; cost relative to the refit of the Wanda mask": "layer rows width "
        "factor_s sparsegpt_50_s sparsegpt_60_s sparsegpt_70_s sparsegpt_50_cost "
        "sparsegpt_60_cost sparsegpt_70_cost eigen_s alps_50_s alps_50_cost",
    },
    "moonshot": {
        "MOONSHOT's surcharge: seconds": "layer rows width factor_s moonshot_factor_s refit_s "
        "refit_moonshot_s refit_ratio sparsegpt_s sparsegpt_moonshot_s sparsegpt_ratio alps_s "
        "alps_moonshot_s alps_ratio",
        "MOONSHOT's surcharge: operations": "layer refit_iterations refit_moonshot_iterations "
        "refit_ratio refit_flops_ratio refit_products_ratio sparsegpt_ratio sparsegpt_flops_ratio "
        "sparsegpt_products_ratio alps_ratio alps_flops_ratio alps_products_ratio",
    },
    "floor": {
        "The floor: one product rows x width x width": "layer rows width product_s "
        "product_gflops refit_products refit_s refit_gflops of_floor",
    },
    "synthetic": {
        "Layers of one block": "layer rows width inverse_s refit_s iterations excess_at_most "
        "inverse_upper_s sparsegpt_50_s scaled_eigen_s alps_50_s",
    },
}


def refit_remarks(frame: pd.DataFrame) -> list[str]:
    aims = [Aim("worst excess of the refit", frame.excess.max(), 1e-4, at_least=False)]
    if "pdhg_ratio" in frame:
        for key, what in (
            ("pdhg_ratio", ""),
            ("pdhg_ratio_with_factor", ", with the time to factor H"),
            ("pdhg_ratio_less_compiling", ", less its compiling"),
        ):
            ratio = numbers(frame, key)
            aims += [
                Aim(f"raPDHG ÷ refit{what}, median", float(np.median(ratio)), 100, at_least=True),
                Aim(f"raPDHG ÷ refit{what}, least", ratio.min(), 40, at_least=True),
            ]
    down = where(frame, frame.layer.str.contains("down"))
    if len(down):
        for key, what in (
            ("loop_ratio", ""),
            ("loop_ratio_with_factor", ", with the time to factor H"),
        ):
            text = f"row loop ÷ refit{what} on down projections, least"
            aims.append(Aim(text, numbers(down, key).min(), 4, at_least=True))
    most = frame.some_rows.max()
    lines = [
        *(f"- {aim.verdict}" for aim in aims),
        f"The row loop (one fp32 Cholesky factor a row) ran on {most} rows at most, and its "
        f"seconds are scaled to all rows.",
    ]
    if "pdhg_ratio" in frame:
        lines.append(
            "raPDHG ran on those rows, and so did the refit it is compared with. It is called as "
            "its authors call it (eps 1e-2, vmap over rows, not under jit), so its loops are "
            "compiled in each call; they take min(rows, 128 · 12 · 2^20 / width²) rows in one."
        )
    return lines


def moonshot_remarks(frame: pd.DataFrame) -> list[str]:
    worst = Aim("blended ÷ plain refit, worst", frame.refit_ratio.max(), 2, at_least=False)
    middle = Aim("blended ÷ plain refit, median", frame.refit_ratio.median(), 2, at_least=False)
    return [
        f"- {middle.verdict}",
        f"- {worst.verdict}",
        f"λ {LAMBDA:g}, {GRADIENT_SEQUENCES} gradient sequences of {GRADIENT_TOKENS} tokens. "
        f"Ratios are blended over plain: of seconds; of operations by formula (flops: "
        f"`refit_flops`, `sparsegpt_flops`, `alps_flops`); and, to check these, of 2 m n k over "
        f"all matrix products that ran (products).",
    ]


def synthetic_remarks(frame: pd.DataFrame) -> list[str]:
    lines = []
    sites = frame.drop_duplicates("site")
    for name, factor in zip(("refit", "sparsegpt_50", "alps_50"), FACTORS):
        factors, solves = BLOCKS * sites[f"{factor}_s"].sum(), BLOCKS * frame[f"{name}_s"].sum()
        lines.append(
            f"- {name}: {factors + solves:.4g} s = {factors:.4g} s for the factors of "
            f"{BLOCKS * len(sites)} sites + {solves:.4g} s for {BLOCKS * len(frame)} layers"
        )
    return [
        f"Extrapolated, not measured: one block times {BLOCKS}, calibration not counted.",
        *lines,
    ]


REMARKS: dict[str, Callable[[pd.DataFrame], list[str]]] = {
    "refit": refit_remarks,
    "solvers": lambda _: [
        f"SparseGPT under block:{BLOCK}, ALPS under layer, the refit of a Wanda mask under row, as "
        f"published. Levels reuse the factor; ALPS's own is an eigendecomposition."
    ],
    "moonshot": moonshot_remarks,
    "floor": lambda _: [
        "Floor ÷ refit: the time of that many bare products over the time of the refit."
    ],
    "synthetic": synthetic_remarks,
}
