"""N of every M consecutive inputs of a row: each score's place in its group, by comparing pairs."""

from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

from optishear.kernels.scores import Vectors, finite, power_of_two, score


PAIRS = 8192  # that a program compares: 64 for each of its threads


def drop_from_groups(
    weight: Tensor,
    vectors: Vectors,
    m: int,
    each: int,
    out: Tensor | None,
    keep: Tensor | None,
    bad: Tensor,
) -> None:
    """Drops the `each` lowest of every m consecutive columns; else as `drop_from_rows`."""
    rows, columns = weight.shape
    block = power_of_two(m)
    groups = max(1, PAIRS // block**2)
    _drop_from_groups[(-(-rows * columns // m // groups),)](
        weight,
        weight if out is None else out,
        bad if keep is None else keep,
        vectors.scale,
        vectors.column_sum,
        vectors.row_sum,
        bad,
        rows,
        columns,
        weight.stride(0),
        (weight if out is None else out).stride(0),
        each,
        M=m,
        FORM=vectors.form,
        WRITE=out is not None,
        KEEP=keep is not None,
        GROUPS=groups,
        BLOCK=block,
        **{"num_warps": 4, "enable_fp_fusion": False},
    )


@triton.jit(do_not_specialize=["each"])
@no_type_check
def _drop_from_groups(
    weight,
    out,
    keep,
    scale,
    column_sum,
    row_sum,
    bad,
    rows,
    columns,
    weight_stride,
    out_stride,
    each,
    M: tl.constexpr,
    FORM: tl.constexpr,
    WRITE: tl.constexpr,
    KEEP: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)[:, None]
    in_row = columns // M
    row, place = group // in_row, tl.arange(0, BLOCK)[None, :]
    column = (group % in_row) * M + place
    inside = (row < rows) & (place < M)
    far = row.to(tl.int64)
    w = tl.load(weight + far * weight_stride + column, inside, other=0.0)
    x = score(w, tl.minimum(row, rows - 1), column, inside, scale, column_sum, row_sum, FORM)
    wrong = tl.sum((inside & (finite(x) == 0)).to(tl.int32))
    tl.atomic_add(bad, wrong, mask=wrong > 0)
    x = tl.where(inside, x, float("inf"))
    mine, other = x[:, :, None], x[:, None, :]
    earlier = tl.arange(0, BLOCK)[None, None, :] < tl.arange(0, BLOCK)[None, :, None]
    before = tl.sum(((other < mine) | ((other == mine) & earlier)).to(tl.int32), 2)
    drop = before < each
    if WRITE:
        tl.store(out + far * out_stride + column, tl.where(drop, 0.0, w).to(w.dtype), inside)
    if KEEP:
        tl.store(keep + far * columns + column, (drop == 0).to(tl.uint8), inside)
