"""Two parts of the solver benchmark: SparseGPT beside another checkout's, and what ALPS is made of.

`--against PATH` names a folder with the code of before, by `git worktree add PATH COMMIT`. Both
run in one process and take turns, from the statistics to the solution, with nothing factored yet.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
from bench_common import Aim, Timing
from frames import numbers, where
from torch import Tensor

from optishear.calibration.statistics import Gram, InputSq, LayerStats


PACKAGE = "optishear"
OURS, BEFORE = "ours", "before"
CASES = {"60": ("block:128", 0.6), "2:4": ("n:4", 0.5)}  # name -> pattern, sparsity
MODULES = ("calibration.statistics", "recipe.pattern", "solvers.base")
SOLVING = ("solvers.moonshot", "solvers.sparsegpt")


def checkout(path: Path | None) -> SimpleNamespace:
    """The modules that solve, of this checkout or of another one, which then stay side by side."""
    mine = {name: module for name, module in sys.modules.items() if _is_ours(name)}
    if path is not None:
        for name in mine:
            del sys.modules[name]
        sys.path.insert(0, str(path.resolve()))
    found = {name.rpartition(".")[2]: _module(name) for name in (*MODULES, *SOLVING)}
    if path is not None:
        sys.path.pop(0)
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(mine)
        at = Path(str(found["sparsegpt"].__file__)).resolve()
        if path.resolve() not in at.parents:
            raise SystemExit(f"--against {path}: no checkout of {PACKAGE} is there.")
    return SimpleNamespace(**found)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}")


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == PACKAGE


def sparsegpt_contenders(
    weight: Tensor, stats: LayerStats, sides: Mapping[str, SimpleNamespace]
) -> dict[str, Callable[[], Any]]:
    return {
        f"{side} {name}": partial(_solve, modules, weight, stats, *case)
        for name, case in CASES.items()
        for side, modules in sides.items()
    }


def _own(statistics: Any, stats: LayerStats) -> Any:
    """These statistics as a revision has them: before kinds were classes, as fields."""
    squares, gram = stats[InputSq].total, stats[Gram].total
    if not hasattr(statistics, "STATISTICS"):
        return statistics.LayerStats(stats.tokens, stats.sequences, squares, gram)
    kinds = statistics.InputSq(squares), statistics.Gram(gram)
    return statistics.LayerStats.of(stats.tokens, stats.sequences, *kinds)


def _solve(
    modules: SimpleNamespace, weight: Tensor, stats: LayerStats, text: str, sparsity: float
) -> Any:
    """A layer from its statistics, everything made anew."""
    own = _own(modules.statistics, stats)
    pattern, quadratic = modules.pattern.parse_pattern(text), modules.moonshot.reconstruction(own)
    drop = int(weight.numel() * sparsity)
    problem = modules.base.LayerProblem(weight, drop, pattern, lambda: own, lambda: quadratic)
    return modules.sparsegpt.SparseGPT().solve(problem)


def sparsegpt_columns(timings: Mapping[str, Timing], cost: Callable[[Tensor], float]) -> dict:
    row: dict[str, Any] = {}
    for name in CASES:
        ours = timings[f"{OURS} {name}"]
        row |= {f"{name}_s": ours.median, f"{name}_cpu_s": ours.median_cpu}
        if (before := timings.get(f"{BEFORE} {name}")) is not None:
            row |= {
                f"before_{name}_s": before.median,
                f"before_{name}_cpu_s": before.median_cpu,
                f"{name}_ratio": ours.median / before.median,
                f"{name}_cpu_ratio": ours.median_cpu / before.median_cpu,
                f"{name}_same_mask": (ours.result.keep == before.result.keep)
                .double()
                .mean()
                .item(),
                f"{name}_cost_ratio": cost(ours.result.weight) / cost(before.result.weight),
            }
    return row


def sparsegpt_remarks(frame: pd.DataFrame) -> list[str]:
    if "60_cpu_ratio" not in frame:
        return ["SparseGPT from the statistics on, factor included."]
    is_down = frame.layer.str.contains("down")
    down, others = where(frame, is_down), where(frame, ~is_down)
    aims = [
        Aim(
            f"ours ÷ before under {name}, {what}, CPU seconds",
            float(numbers(part, column).max()),
            limit,
            False,
        )
        for what, part, name, limit in (
            ("down projections", down, "60", 0.4),
            ("down projections", down, "2:4", 0.4),
            ("the others", others, "2:4", 0.6),
            ("the others", others, "60", 1.0),
        )
        for column in [f"{name}_cpu_ratio"]
        if len(part)
    ]
    return [
        *(f"- {aim.verdict}" for aim in aims),
        "SparseGPT from the statistics on, factor included, beside the code of before.",
    ]


def alps_columns(timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Where its time goes. Of an iteration the two products and the selection are timed alone."""
    iterations = timings["admm"].result.iterations
    spent = {name: timings[name].median_cpu for name in ("eigen", "alps", "admm")}
    eigen, whole, chosen = spent.values()
    products = 2 * iterations * timings["product"].median_cpu
    selections = iterations * timings["select"].median_cpu
    return {
        "iterations": iterations,
        "eigen_s": eigen,
        "alps_s": whole,
        "iterations_s": chosen,
        "refit_s": max(0.0, whole - chosen),
        "eigen_share": eigen / (whole + eigen),
        "iterations_share": chosen / (whole + eigen),
        "refit_share": max(0.0, whole - chosen) / (whole + eigen),
        "products_of_iterations": products / chosen,
        "selection_of_iterations": selections / chosen,
    }


VIEWS = {
    "sparsegpt": {
        "SparseGPT from the statistics to the solution": "layer rows width 60_s 60_cpu_s 2:4_s "
        "2:4_cpu_s",
        "SparseGPT beside the code of before": "layer before_60_cpu_s 60_cpu_s 60_cpu_ratio "
        "60_ratio before_2:4_cpu_s 2:4_cpu_s 2:4_cpu_ratio 2:4_ratio",
        "What became of its answers": "layer 60_same_mask 60_cost_ratio 2:4_same_mask "
        "2:4_cost_ratio",
    },
    "alps": {
        "Where the time of ALPS goes, layer pattern, 50 %": "layer rows width iterations eigen_s "
        "iterations_s refit_s eigen_share iterations_share refit_share products_of_iterations "
        "selection_of_iterations",
    },
}


def alps_remarks(_: pd.DataFrame) -> list[str]:
    return [
        "CPU seconds. Shares are of eigendecomposition (with the Hessian and its damping) + "
        "iterations + refit; the first serves all layers of a site and all levels. The refit finds "
        "the inverse that it reads."
    ]


REMARKS: dict[str, Callable[[pd.DataFrame], list[str]]] = {
    "sparsegpt": sparsegpt_remarks,
    "alps": alps_remarks,
}
