"""Checks every GPU kernel against its reference and times what a candidate costs on a GPU.

One command, under 8 minutes, for a machine with a CUDA device; it needs torch, triton and
transformers, no model from anywhere and no other extra:

    python experiments/benchmarks/bench_gpu.py --to results/bench_gpu.json

Shapes are Llama-3.1-8B's, in the part `small` SmolLM2-135M's; weights and inputs are random.
Ceilings are measured in the same run: a copy inside the device's memory, and square products in
bf16, TF32 and fp32. Exit code 1: a kernel is not what its reference is; 2: there is no CUDA device.
`--interpret` runs the same on tiny shapes through Triton's interpreter: a test of this script,
whose times mean nothing.

What can be run is in `bench_gpu_parts.py`, {name: function of a Bench that returns rows}; the
solvers' of `bench_gpu_solvers.py` come after them.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any


if "--interpret" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before anybody imports Triton

import torch
from bench_gpu_parts import PARTS
from bench_gpu_setting import GB, LLAMA, TINY, Bench, Row
from help_text import first_line


SECONDS, SOLVER_SECONDS = 480, 80.0


def all_parts() -> dict[str, Callable[[Bench], list[Row]]]:
    """Those above, and the solvers' of `bench_gpu_solvers.py` beside this file."""
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
    lines: list[tuple[str, ...]] = [titles]
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
    parser = argparse.ArgumentParser(description=first_line(__doc__))
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
