"""Compiles every kernel of the solvers for a GPU that need not be there; one line of JSON each.

The interpreter runs what no GPU would: operations without a layout, memory that is not there,
numbers of 64 bits that slipped in.
"""

import json
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from optishear.kernels import refit_step, sparsegpt_sweep


TRUTHS, WHOLE = {"keep"}, {"drop", "bad"}
NUMBERS = {"rows", "columns"}


def kind(name):
    if name in NUMBERS or name.endswith("_stride"):
        return "i32"
    return "*i1" if name in TRUTHS else "*i32" if name in WHOLE else "*fp32"


def compiled(kernel, warps, sizes, ones=()):
    """`ones`: numbers that are 1, which triton compiles a variant for."""
    fixed = sizes | dict.fromkeys(ones, 1)
    signature = {n: "constexpr" if n in fixed else kind(n) for n in kernel.arg_names}
    source = ASTSource(kernel, signature=signature, constexprs=fixed)
    found = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    return {
        "kernel": kernel.__name__,
        "sizes": fixed,
        "shared": found.metadata.shared,
        "double": bool(re.search(r"\.f64", found.asm["ptx"])),
        "binary": len(found.asm["cubin"]),
    }


def main():
    rows, warps = sparsegpt_sweep.ROWS, sparsegpt_sweep.WARPS
    for group in (0, 4, 8):
        for columns in (16, 128):
            sizes = {"GROUP": group, "ROWS": rows, "COLUMNS": columns}
            yield compiled(sparsegpt_sweep._sweep_rows, warps, sizes)
    sizes = {"GROUP": 0, "ROWS": rows, "COLUMNS": 16}
    yield compiled(sparsegpt_sweep._sweep_rows, warps, sizes, ("rows", "columns", "keep_stride"))
    for kernel in (refit_step._move, refit_step._turn):
        sizes = {"COLUMNS": refit_step.COLUMNS}
        yield compiled(kernel, refit_step.WARPS, sizes)
        yield compiled(kernel, refit_step.WARPS, {"COLUMNS": 16}, ("columns", "keep_stride"))


if __name__ == "__main__":
    for line in main():
        sys.stdout.write(json.dumps(line) + "\n")
