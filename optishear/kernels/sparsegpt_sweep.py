"""SparseGPT's sweep over a block of columns in one launch, where torch makes five a column.

A program takes a few rows of the block into registers and goes through the columns from left to
right. Rows are independent of each other given the factor, so they may be those of several layers
or sparsity levels that share it, one below the other.

A column is read by a sum over the tile with everything else masked out, which is exact. The factor
is read line by line, and the line of the next column is the same for all programs, so that it comes
out of a cache.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor


WIDEST = 128  # columns in one launch; wider blocks take several, and a GEMM between them
ROWS = 4  # of a program, which is one warp: no barrier, and programs enough in 1,024 rows
WARPS = 1


def sweep_block(
    weight: Float[Tensor, "rows columns"],
    keep: Bool[Tensor, "rows columns"],
    upper: Float[Tensor, "columns columns"],
    passed: Float[Tensor, "rows columns"],
    group: int,
    drop: Int[Tensor, " rows"],
    bad: Int[Tensor, " rows"],
) -> None:
    """Prunes `weight` in place, and fills `passed` with the errors that later columns are owed.

    - `upper`: the block's corner of U; fp32, as are `weight` and `passed`.
    - `group` 0: `keep` says what goes. Otherwise `drop[r]` of every `group` columns of row r go, by
      the saliencies of the moment, `keep` is filled, and `bad[r]` grows by how many of these were
      not finite. `group` divides the columns and is at most `WIDEST`.
    """
    columns = weight.shape[1]
    size = WIDEST // group * group if group else WIDEST
    for start in range(0, columns, size):
        part = slice(start, min(start + size, columns))
        _launch(
            weight[:, part], keep[:, part], upper[part, part], passed[:, part], group, drop, bad
        )
        if part.stop < columns:
            weight[:, part.stop :].addmm_(passed[:, part], upper[part, part.stop :], alpha=-1)


def _launch(
    weight: Tensor,
    keep: Tensor,
    upper: Tensor,
    passed: Tensor,
    group: int,
    drop: Tensor,
    bad: Tensor,
) -> None:
    rows, columns = weight.shape
    if not rows:
        return
    if columns > 1 and not weight.stride(1) == keep.stride(1) == passed.stride(1) == 1:
        raise ValueError("Neighbours in a row must be neighbours in memory.")
    tile = max(16, triton.next_power_of_2(columns))
    shape = (rows, columns)
    strides = (weight.stride(0), keep.stride(0), passed.stride(0))
    upper = upper.contiguous()  # of few columns: a copy is nothing, and its lines are aligned
    sizes = {"GROUP": group, "ROWS": ROWS, "COLUMNS": tile, "num_warps": WARPS}
    grid = (triton.cdiv(rows, ROWS),)
    with torch.cuda.device_of(weight):
        _sweep_rows[grid](weight, keep, passed, upper, drop, bad, *shape, *strides, **sizes)


@triton.jit
@no_type_check  # or tests would wrap what triton reads the source of
def _sweep_rows(
    weight, keep, passed, upper, drop, bad,
    rows, columns, weight_stride, keep_stride, passed_stride,
    GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    inside = column < columns
    here = (row[:, None] < rows) & inside
    w = tl.load(weight + row[:, None] * weight_stride + column, mask=here, other=0.0)
    errors = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    # 1 where a weight goes, else 0: numbers, for a tile of truth values takes more instructions.
    gone = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    if GROUP > 0:
        diagonal = tl.load(upper + column * (columns + 1), mask=inside, other=1.0)
        diagonal = tl.broadcast_to(diagonal, (ROWS, COLUMNS))
        count = tl.load(drop + row, mask=row < rows, other=0)
        strange = tl.zeros([ROWS], dtype=tl.int32)
    else:
        kept = tl.load(keep + row[:, None] * keep_stride + column, mask=here, other=1)
        gone = tl.where(kept != 0, 0.0, 1.0)
    corner, line_at = upper, upper + column
    for j in range(columns):
        if GROUP > 0:  # noqa: SIM102 (settled when it is compiled; the next one is not)
            if j % GROUP == 0:
                saliency = tl.div_rn(w, diagonal)
                saliency = saliency * saliency
                lower = tl.zeros([ROWS, COLUMNS], dtype=tl.int32)  # saliencies, or as low and ahead
                for k in range(j, j + GROUP):
                    other = tl.sum(tl.where(column == k, saliency, 0.0), axis=1)
                    strange += tl.where(other < float("inf"), 0, 1)
                    ties = (other[:, None] == saliency) & (column > k)
                    lower += ((other[:, None] < saliency) | ties).to(tl.int32)
                group = (column >= j) & (column < j + GROUP)
                gone = tl.where(group & (lower < count[:, None]), 1.0, gone)
        own = tl.load(corner)
        line = tl.load(line_at, mask=inside, other=0.0)
        line = tl.where(column > j, line, 0.0)
        value = tl.sum(tl.where(column == j, w * gone, 0.0), axis=1)  # 0 where the weight is kept
        owns = tl.zeros([ROWS], dtype=tl.float32) + own
        # A dividend of 0 would take the slow way through a division, in every row that keeps it.
        error = tl.where(value != 0, tl.div_rn(tl.where(value != 0, value, owns), owns), 0.0)
        w = tl.fma(-error[:, None], line, w)
        errors = tl.where(column == j, error[:, None], errors)
        corner += columns + 1
        line_at += columns
    tl.store(weight + row[:, None] * weight_stride + column, tl.where(gone > 0, 0.0, w), mask=here)
    tl.store(passed + row[:, None] * passed_stride + column, errors, mask=here)
    if GROUP > 0:
        tl.store(keep + row[:, None] * keep_stride + column, gone == 0, mask=here)
        before = tl.load(bad + row, mask=row < rows, other=0)
        tl.store(bad + row, before + strange, mask=row < rows)
