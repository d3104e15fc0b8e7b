"""What the solver benchmark is made of: timing in turns, the rivals, operation counts, tables."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from optishear.calibration.statistics import LayerStats
from optishear.records.manifest import now, provenance


PDHG_PACKAGES = ("mpax", "jax", "jaxlib")


@dataclass
class Timing:
    """`flops`: of the matrix products that ran, 2 m n k each, as torch counts them."""

    seconds: list[float] = field(default_factory=list)
    result: Any = None
    flops: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def in_turns(
    contenders: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, Timing]:
    """Each contender once a round, so that a slow spell of the machine hits all alike.

    The first of `repeats` + 1 rounds is a warm-up: its times are thrown away, its products counted.
    """
    timings = {name: Timing() for name in contenders}
    for name, run in contenders.items():
        with FlopCounterMode(display=False) as counter:
            run()
        timings[name].flops = counter.get_total_flops()
    for _ in range(repeats):
        for name, run in contenders.items():
            timings[name].result = None  # its memory goes back before the next one is made
            synchronize(device)
            started = time.perf_counter()
            result = run()
            synchronize(device)
            timings[name].seconds.append(time.perf_counter() - started)
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


def import_mpax(threads: int) -> None:
    """jax reads its settings when first imported. Raises SystemExit where mpax is missing."""
    os.environ.setdefault("NPROC", str(threads))
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    try:
        import mpax  # noqa: F401
    except ImportError as error:
        raise SystemExit(
            "OPTIMA's own solver comes from the package mpax, which is not installed: "
            "pip install 'optishear[bench]', or go on without it by --without-mpax."
        ) from error


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
    ):
        import jax
        import jax.numpy as jnp

        width, free = dense.shape[1], torch.inf
        lower, upper = torch.where(keep, -free, -dense), torch.where(keep, free, -dense + 1e-4)
        self._shared = (
            jnp.asarray(hessian.cpu().numpy()),
            jnp.zeros((1, width)),
            jnp.ones((1, width)),
        )
        self._bounds = (jnp.asarray(lower.cpu().numpy()), jnp.asarray(upper.cpu().numpy()))
        self._dense, self._keep = dense, keep
        self._compiling = 0.0
        self.compiling: list[float] = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self._compiling += seconds

    def solve(self) -> tuple[Float[Tensor, "rows in"], Bool[np.ndarray, " rows"], float]:
        """(weights, which rows it calls optimal, iterations in the mean)."""
        import jax
        import jax.numpy as jnp
        from mpax import create_qp, raPDHG
        from mpax.utils import TerminationStatus

        width = self._dense.shape[1]
        self._compiling = 0.0

        def one_row(q, a, g, lower, upper):
            problem = create_qp(
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
            solver = raPDHG(eps_abs=1e-2, eps_rel=1e-2, iteration_limit=100_000, verbose=False)
            found = solver.optimize(problem)
            return found.primal_solution, found.termination_status, found.iteration_count

        rows = jax.vmap(one_row, in_axes=(None, None, None, 0, 0))
        change, status, iterations = map(np.array, rows(*self._shared, *self._bounds))
        self.compiling.append(self._compiling)
        weight = self._dense + torch.from_numpy(change).to(self._dense.device)
        optimal = status == int(TerminationStatus.OPTIMAL)
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
    and 2 R b (d - e) for those after it: about R d^2 in all.

    With n gradients a row there come 2 R n d^2 for the p, (4 n^2 + 3 n) R d for the q and a, in the
    sweep 8 R n d, and 2 R b^2 a block for the scores of the moment.
    """
    r, d, n = rows, width, samples
    total = 0
    for start in range(0, d, block):
        b = min(block, d - start)
        total += r * b * (b - 1) + 2 * r * b * (d - start - b) + (2 * r * b * b if n else 0)
    return total + 2 * r * n * d * d + (4 * n * n + 3 * n) * r * d + 8 * r * n * d


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
    return LayerStats(chunks * tokens, chunks, gram.diagonal().clone(), gram)


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


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}"


def markdown(frame: pd.DataFrame) -> str:
    head = [list(map(str, frame.columns)), ["---"] * len(frame.columns)]
    return "\n".join("| " + " | ".join(row) + " |" for row in head + cells(frame))


def show(console: Console, title: str, frame: pd.DataFrame) -> None:
    table = Table(title=title, title_justify="left")
    for column in frame.columns:
        table.add_column(str(column), justify="right", overflow="fold")
    for row in cells(frame):
        table.add_row(*row)
    console.print(table)
