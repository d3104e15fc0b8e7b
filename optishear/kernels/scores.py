"""Scores that need no matrix of their own: a kernel makes them of a weight and a few vectors.

They equal the reference's fp32 numbers bit for bit: one IEEE operation here for one operation there
(division is `div_rn`, for `/` is approximate on a GPU; no product is fused into a sum). So equal
scores are equal in both, and with the same rule for ties masks are the same.
"""

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from optishear.kernels.separable import Separable


GIVEN = tl.constexpr(0)  # the "weight" is a matrix of scores
SIZE = tl.constexpr(1)  # |w|
SCALED = tl.constexpr(2)  # |w| * scale
RELATIVE = tl.constexpr(3)  # (|w| / column sum + |w| / row sum) * scale


@dataclass(frozen=True, eq=False)
class Vectors:
    """What the kernels are handed beside the weight; where a form reads none, any tensor does.

    - `form`: one of the above.
    - `grain`: of a score's bits this many, the last ones, are always zero.
    """

    form: int
    grain: int
    scale: Tensor
    column_sum: Tensor
    row_sum: Tensor


def vectors_of(weight: Tensor, scores: Separable | None) -> Vectors:
    """None: `weight` holds the scores themselves."""
    if scores is None:
        return Vectors(GIVEN.value, 0, weight, weight, weight)
    scale, column, row = (
        None if vector is None else vector.float().contiguous()
        for vector in (scores.scale, scores.column_sum, scores.row_sum)
    )
    if scale is None:
        grain = {torch.bfloat16: 16, torch.float16: 13}.get(weight.dtype, 0)
        return Vectors(SIZE.value, grain, weight, weight, weight)
    if column is None or row is None:
        return Vectors(SCALED.value, 0, scale, weight, weight)
    return Vectors(RELATIVE.value, 0, scale, column, row)


def power_of_two(least: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (least - 1).bit_length()


@triton.jit
@no_type_check
def score(w, row, column, inside, scale, column_sum, row_sum, FORM: tl.constexpr):
    """fp32 scores of loaded weights at [row, column], both of which broadcast to w's shape."""
    if w.dtype == tl.bfloat16:  # bit by bit, since the interpreter's conversion knows no denormals
        x = (w.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        x = w.to(tl.float32)
    if FORM != GIVEN:
        x = tl.abs(x)
    if FORM == RELATIVE:
        of_column = tl.load(column_sum + column, inside, other=1.0)
        of_row = tl.load(row_sum + row)
        x = tl.div_rn(x, of_column) + tl.div_rn(x, of_row)
    if FORM >= SCALED:
        x = x * tl.load(scale + column, inside, other=0.0)
    return x


@triton.jit
@no_type_check
def finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
@no_type_check
def ordinal(x):
    """int32 that orders as the floats do, with 0.0 and -0.0 as one."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
@no_type_check
def float_at(ordinal):
    bits = ordinal ^ ((ordinal >> 31) & 0x7FFFFFFF)
    return bits.to(tl.float32, bitcast=True)
