"""What can be counted of the GPU kernels without a GPU: registers, instructions, steps of a search.

    python experiments/benchmarks/kernel_counts.py --out results/kernel_counts

Every kernel goes through Triton's compiler and ptxas for a GPU that need not be there, and what
came out is disassembled. A loop is counted from the target of a branch backwards to that branch.
The row kernel's search for its threshold is done again in numpy, step by step, on rows like those
of a language model. Nothing here is a time.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import pandas as pd
import triton
from bench_common import markdown
from help_text import first_line
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from optishear.kernels import (
    group_selection,
    head,
    layer_selection,
    refit_step,
    row_selection,
    scores,
    sparsegpt_sweep,
)


TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
FORMS = {0: "given", 1: "magnitude", 2: "wanda", 3: "ria"}
BOTH = {"WRITE": True, "KEEP": True}


@dataclass(frozen=True)
class Variant:
    """A kernel as it is compiled: `fixed` are its constants, `types` its arguments' (else i32).

    - `aligned`: every address and number is divisible by 16, as with a language model's matrices;
      that is compiled apart.
    """

    kernel: Any
    what: str
    types: Mapping[str, str]
    fixed: Mapping[str, Any]
    warps: int
    stages: int = 3
    fusion: bool = False
    arch: int = 90
    aligned: bool = True


@dataclass(frozen=True)
class Counted:
    """`loops`: instructions of each innermost loop, the longest first."""

    kernel: str
    what: str
    arch: str
    warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    instructions: int
    loops: list[int]
    ptx: list[str] = field(repr=False)  # of some instructions, those that are there


WATCHED = ("wgmma", "mma.sync", "fma.rn.f32", "div.rn.f32", ".ftz", ".f64")


def variants() -> Iterator[Variant]:
    """Those of Llama-3.1-8B's shapes, and the odd ones: other types, few columns, M = 3."""
    selecting = {
        "keep": "*u8", "bad": "*i32", "totals": "*i32", "last": "*i32",
        "scale": "*fp32", "column_sum": "*fp32", "row_sum": "*fp32", "quantile": "fp32",
    }  # fmt: skip

    def chosen(kernel: Any, dtype: str, warps: int, what: str, **fixed: Any) -> Variant:
        types = {**selecting, "weight": f"*{dtype}", "out": f"*{dtype}"}
        name = f"{FORMS[fixed['FORM']]} {dtype}{what}"
        return Variant(kernel, name, types, fixed, warps, aligned=fixed.get("M") != 3)

    for form, dtype, columns in (
        (scores.SCALED, "bf16", 4096), (scores.SCALED, "bf16", 14336), (scores.SIZE, "bf16", 4096),
        (scores.RELATIVE, "fp16", 14336), (scores.GIVEN, "fp32", 4096),
        (scores.SCALED, "bf16", 28672),
    ):  # fmt: skip
        block = scores.power_of_two(columns)
        grain = 16 if form == scores.SIZE else 0
        yield chosen(
            row_selection._drop_from_row, dtype, row_selection.warps(block), f", {columns} columns",
            FORM=form.value, GRAIN=grain, EVEN=block == columns, BLOCK=block, **BOTH,
        )  # fmt: skip
    for form, m in ((scores.SCALED, 4), (scores.RELATIVE, 3)):
        block = scores.power_of_two(m)
        groups = group_selection.PAIRS // block**2
        sizes = {"M": m, "FORM": form.value, "BLOCK": block, "GROUPS": groups}
        yield chosen(group_selection._drop_from_groups, "bf16", 4, f", n:{m}", **sizes, **BOTH)
    layer = {"FORM": scores.SCALED.value, "LOW": 0, "PASSES": 7, "BLOCK": 2048}
    yield chosen(layer_selection._histogram, "bf16", 4, "", PASS=6, **layer)
    yield chosen(layer_selection._drop_from_run, "bf16", 4, "", PROGRAMS=1024, **layer, **BOTH)

    tiles = (("bf16", head.HALF, 90), ("fp16", head.SMALL, 86), ("fp32", head.SINGLE, 90))
    for dtype, tile, arch in tiles:
        types = {"peak": "*fp32", "mass": "*fp32", "scale": "fp32"}
        types |= dict.fromkeys(("hidden", "weight", "bias"), f"*{dtype}")
        sizes = {"BIAS": True, "TOKENS": tile.tokens, "VOCAB": tile.vocab, "DEPTH": tile.depth}
        yield Variant(
            head._tile_sums, dtype, types, sizes, tile.num_warps, tile.num_stages, arch=arch
        )

    def solving(kernel: Any, what: str, warps: int, **fixed: Any) -> Variant:
        integers = {"rows", "columns"} | {n for n in kernel.arg_names if n.endswith("_stride")}
        types = {n: "i32" if n in integers else "*fp32" for n in kernel.arg_names}
        types |= {"keep": "*i1", "drop": "*i32", "bad": "*i32"}
        aligned = "columns" not in fixed
        return Variant(kernel, what, types, fixed, warps, fusion=True, aligned=aligned)

    for group, columns in ((0, 128), (4, 128), (8, 128), (0, 16), (4, 16), (8, 16)):
        sizes = {"GROUP": group, "ROWS": sparsegpt_sweep.ROWS, "COLUMNS": columns}
        what = f"n:{group}" if group else "given mask"
        yield solving(
            sparsegpt_sweep._sweep_rows,
            f"{what}, {columns} columns",
            sparsegpt_sweep.WARPS,
            **sizes,
        )
    ones = {"rows": 1, "columns": 1, "keep_stride": 1}  # triton compiles a variant for ones
    sizes = {"GROUP": 0, "ROWS": sparsegpt_sweep.ROWS, "COLUMNS": 16, **ones}
    yield solving(sparsegpt_sweep._sweep_rows, "one row and column", sparsegpt_sweep.WARPS, **sizes)
    for kernel in (refit_step._move, refit_step._turn):
        yield solving(kernel, "", refit_step.WARPS, COLUMNS=refit_step.COLUMNS)
        yield solving(kernel, "one column", refit_step.WARPS, COLUMNS=16, columns=1, keep_stride=1)


def counted(variant: Variant, disassembled: bool) -> Counted:
    fixed, kernel = dict(variant.fixed), variant.kernel
    types = {
        n: "constexpr" if n in fixed else variant.types.get(n, "i32") for n in kernel.arg_names
    }
    options = {
        "num_warps": variant.warps, "num_stages": variant.stages, "enable_fp_fusion": variant.fusion
    }  # fmt: skip
    target = GPUTarget("cuda", variant.arch, 32)
    numbers = [
        i
        for i, parameter in enumerate(kernel.params)
        if types[parameter.name][:1] in "*i" and not parameter.do_not_specialize
    ]
    attributes = {(i,): [["tt.divisibility", 16]] for i in numbers} if variant.aligned else {}
    source = ASTSource(kernel, types, fixed, attributes)
    built = triton.compile(source, target=target, options=options)
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        use = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name) if disassembled else ""
    registers, local = (_number_after(name, use) for name in ("REG", "LOCAL"))
    return Counted(
        kernel.__name__.strip("_"), variant.what, f"sm_{variant.arch}", variant.warps, registers,
        local, built.metadata.shared, len(re.findall(r"/\*[0-9a-f]{4,}\*/", code)), _loops(code),
        [word for word in WATCHED if word in built.asm["ptx"]],
    )  # fmt: skip


def _number_after(name: str, report: str) -> int:
    found = re.search(rf"{name}:(\d+)", report)
    assert found, report
    return int(found[1])


def _tool(name: str, *arguments: str) -> str:
    done = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def _loops(code: str) -> list[int]:
    """Instructions of the loops that have none inside, from the disassembler's text."""
    labels: dict[str, int] = {}
    spans, place = [], 0
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = place
        elif re.search(r"/\*[0-9a-f]{4,}\*/", line):
            place += 1
            jump = re.search(r"BRA .*?`\((\.L_x_\d+)\)", line)
            if jump and jump[1] in labels:
                spans.append((labels[jump[1]], place))
    loops = {(a, b) for a, b in spans if b - a > 1}  # a program ends with a branch to itself
    inner = [
        (a, b)
        for a, b in loops
        if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)
    ]
    return sorted((b - a for a, b in inner), reverse=True)


def steps_of(x: np.ndarray, share: float, grain: int, only_halving: bool = False) -> int:
    """Counts over a row of non-negative scores until its threshold is known: `_drop_from_row`'s."""

    def bits(t: float | np.floating[Any]) -> int:
        return int(np.float32(t).view(np.int32)) >> grain

    def value(at: int) -> np.float32:
        return np.int32(at << grain).view(np.float32)

    columns, count = len(x), int(len(x) * share)
    aim = min(count, columns - 1)
    low, high, below_low, below_high = 0, bits(x.max()) + 1, 0, columns
    steps, up, pull = 0, True, 1.0

    def narrow(t: float | np.floating[Any]) -> bool:
        nonlocal low, high, below_low, below_high, steps
        at = max(min(bits(t), high - 1), low + 1)
        below = int((x < value(at)).sum())
        steps += 1
        if below <= aim:
            low, below_low = at, below
        else:
            high, below_high = at, below
        return below <= aim

    if not only_halving:
        guess = x.mean() * row_selection._half_normal((count + 0.5) / columns)
        beyond = row_selection.BEYOND.value
        up = narrow(guess)
        up = narrow(guess * (1 + beyond if up else 1 - beyond))
    number = 0
    while below_low < aim and high > low + 1:
        number += 1
        between = value((low + high) // 2)
        if number & 7 and not only_halving:
            from_low = (aim - below_low + 0.5) * (1.0 if up else pull)
            from_high = (below_high - aim - 0.5) * (pull if up else 1.0)
            bottom, top = value(low), value(high)
            between = bottom + (top - bottom) * np.float32(from_low / (from_low + from_high))
        before, up = up, narrow(between)
        pull = pull / 2 if up == before else 1.0
    return steps


def searches(rows: int) -> Iterator[dict[str, Any]]:
    """Of |W| times lognormal norms in fp32, and of |W| in bf16, of which 16 bits are zero."""
    generator = np.random.default_rng(0)
    kinds = {
        "normal": generator.standard_normal,
        "student t, 5": partial(generator.standard_t, 5),
    }
    for columns, (kind, drawn) in product((4096, 14336), kinds.items()):
        size = np.abs(drawn(size=(rows, columns))).astype(np.float32)
        scaled = size * np.exp(generator.normal(size=columns)).astype(np.float32)
        halves = (size.view(np.int32) >> 16 << 16).view(np.float32)
        scored = (("wanda", scaled, 0), ("bf16 magnitude", halves, 16))
        for (name, x, grain), share in product(scored, (0.5, 0.7)):
            found = [steps_of(row, share, grain) for row in x]
            halving = [steps_of(row, share, grain, only_halving=True) for row in x]
            yield {
                "columns": columns,
                "weights": kind,
                "scores": name,
                "dropped": share,
                "steps_median": float(np.median(found)),
                "steps_most": max(found),
                "halving_median": float(np.median(halving)),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=int, default=32, help="of each kind to search through")
    parser.add_argument(
        "--few", action="store_true", help="disassemble one variant of each kernel alone"
    )
    arguments = parser.parse_args()
    every = list(variants())
    first = {variant.kernel: variant for variant in reversed(every)}
    kernels = [
        asdict(counted(variant, not arguments.few or variant is first[variant.kernel]))
        for variant in every
    ]
    searched = list(searches(arguments.rows))
    found = {"triton": version("triton"), "kernels": kernels, "searches": searched}
    if arguments.out is None:
        json.dump(found, sys.stdout)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "counts.json").write_text(json.dumps(found, indent=1) + "\n")
    table = pd.DataFrame(kernels).drop(columns="ptx")
    table["loops"] = [" ".join(map(str, loops)) for loops in table["loops"]]
    text = "\n\n".join(markdown(part) for part in (table, pd.DataFrame(searched)))
    (arguments.out / "counts.md").write_text(f"Triton {found['triton']}.\n\n{text}\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
