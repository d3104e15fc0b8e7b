"""Every kernel goes through Triton's compiler and ptxas for a real GPU, which needs none."""

import os
import subprocess
import sys


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from optishear.kernels import group_selection, head, layer_selection, row_selection

KINDS = {"keep": "*u8", "bad": "*i32", "totals": "*i32", "last": "*i32", "peak": "*fp32",
         "mass": "*fp32", "scale": "*fp32", "column_sum": "*fp32", "row_sum": "*fp32",
         "quantile": "fp32"}
POINTERS = ("weight", "out", "hidden", "bias")

def check(
    kernel, dtype, num_warps, scale=None, num_stages=3, wants="", arch=90, **fixed
):
    kinds = {**KINDS, **dict.fromkeys(POINTERS, "*" + dtype)}
    if scale:
        kinds["scale"] = scale
    signature = {
        name: "constexpr" if name in fixed else kinds.get(name, "i32") for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, fixed)
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": False}
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    assert built.asm["cubin"]
    assert wants in built.asm["ptx"], wants
    if "FORM" in fixed:  # scores must be the reference's, bit by bit
        assert ".ftz" not in built.asm["ptx"]
    print(kernel.fn.__name__, dtype, fixed)

BOTH = {"WRITE": True, "KEEP": True}
for form, grain, dtype, columns in (
    (0, 0, "fp32", 4096), (2, 0, "bf16", 28672), (3, 0, "fp16", 14336)
):
    block = 1 << (columns - 1).bit_length()
    check(row_selection._drop_from_row, dtype, row_selection.warps(block), FORM=form, GRAIN=grain,
          EVEN=block == columns, BLOCK=block, wants="div.rn.f32" if form == 3 else "", **BOTH)
for m in (3,):
    block = 1 << (m - 1).bit_length()
    check(group_selection._drop_from_groups, "bf16", 4, M=m, FORM=3, BLOCK=block,
          GROUPS=group_selection.PAIRS // block**2, **BOTH)
for number in (6,):
    check(layer_selection._histogram, "bf16", 4, PASS=number, FORM=2, LOW=0, PASSES=7, BLOCK=2048)
check(layer_selection._drop_from_run, "bf16", 4, FORM=2, LOW=0, PASSES=7, BLOCK=2048,
      PROGRAMS=1024, **BOTH)
for dtype, tile, wants, arch in (
    ("bf16", head.HALF, "wgmma", 90),
    ("fp16", head.SMALL, "mma.sync", 86), ("fp32", head.SINGLE, "fma.rn.f32", 90),
):
    check(head._tile_sums, dtype, tile.num_warps, scale="fp32", num_stages=tile.num_stages,
          wants=wants, arch=arch, BIAS=True, TOKENS=tile.tokens, VOCAB=tile.vocab, DEPTH=tile.depth)
"""


def test_every_kernel_compiles(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert len(run.stdout.splitlines()) == 9
