"""What a step of the refit does besides its two products, in one launch after each of them.

A product stands between the two halves, so they are two kernels. A program takes one row, in two
runs over its columns: the first for the row's dot product, the second, whose reads the caches still
hold, for what depends on it. Both write into what they were given.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor


COLUMNS = 1024  # at a time
WARPS = 4


def move_rows(
    weight: Float[Tensor, "rows in"],
    residual: Float[Tensor, "rows in"],
    direction: Float[Tensor, "rows in"],
    product: Float[Tensor, "rows in"],
    keep: Bool[Tensor, "rows in"],
    slope: Float[Tensor, " rows"],
) -> tuple[Float[Tensor, "rows in"], Float[Tensor, "rows in"], Float[Tensor, " rows"]]:
    """As `solvers.refit.move_rows`, but weight and residual are those given, changed."""
    step = torch.empty_like(slope)
    rows = weight, residual, direction, product, keep
    _launch(_move, rows, slope, step)
    return weight, residual, step


def turn_rows(
    residual: Float[Tensor, "rows in"],
    ahead: Float[Tensor, "rows in"],
    direction: Float[Tensor, "rows in"],
    keep: Bool[Tensor, "rows in"],
    before: Float[Tensor, " rows"],
) -> tuple[Float[Tensor, "rows in"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """As `solvers.refit.turn_rows`, but `ahead` need not be masked, and the direction is the one
    given, changed."""
    slope, turn = torch.empty_like(before), torch.empty_like(before)
    _launch(_turn, (residual, ahead, direction, keep), before, slope, turn)
    return direction, slope, turn


def _launch(kernel, matrices: tuple[Tensor, ...], *by_row: Tensor) -> None:
    rows, columns = matrices[0].shape
    if columns > 1 and any(matrix.stride(1) != 1 for matrix in matrices):
        raise ValueError("Neighbours in a row must be neighbours in memory.")
    strides = [matrix.stride(0) for matrix in matrices]
    tile = min(COLUMNS, max(16, triton.next_power_of_2(columns)))
    if rows:
        with torch.cuda.device_of(matrices[0]):
            kernel[(rows,)](*matrices, *by_row, columns, *strides, COLUMNS=tile, num_warps=WARPS)


@triton.jit
@no_type_check  # or tests would wrap what triton reads the source of
def _move(
    weight, residual, direction, product, keep, slope, step, columns,
    weight_stride, residual_stride, direction_stride, product_stride, keep_stride,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    direction += row * direction_stride
    product += row * product_stride
    keep += row * keep_stride
    dots = tl.zeros([COLUMNS], dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        at = start + column
        here = at < columns
        p = tl.load(direction + at, mask=here, other=0.0)
        hp = tl.load(product + at, mask=here, other=0.0)
        kept = tl.load(keep + at, mask=here, other=0)
        dots += p * tl.where(kept != 0, hp, 0.0)
    curved = tl.sum(dots, axis=0)
    goes = curved > 0
    length = tl.where(goes, tl.div_rn(tl.load(slope + row), tl.where(goes, curved, 1.0)), 0.0)
    tl.store(step + row, length)
    weight += row * weight_stride
    residual += row * residual_stride
    for start in range(0, columns, COLUMNS):
        at = start + column
        here = at < columns
        p = tl.load(direction + at, mask=here, other=0.0)
        hp = tl.load(product + at, mask=here, other=0.0)
        kept = tl.load(keep + at, mask=here, other=0)
        w = tl.load(weight + at, mask=here, other=0.0)
        r = tl.load(residual + at, mask=here, other=0.0)
        tl.store(weight + at, w + length * p, mask=here)
        tl.store(residual + at, r - length * tl.where(kept != 0, hp, 0.0), mask=here)


@triton.jit
@no_type_check
def _turn(
    residual, ahead, direction, keep, before, slope, turn, columns,
    residual_stride, ahead_stride, direction_stride, keep_stride,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    ahead += row * ahead_stride
    residual += row * residual_stride
    keep += row * keep_stride
    dots = tl.zeros([COLUMNS], dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        at = start + column
        here = at < columns
        r = tl.load(residual + at, mask=here, other=0.0)
        z = tl.load(ahead + at, mask=here, other=0.0)
        kept = tl.load(keep + at, mask=here, other=0)
        dots += r * tl.where(kept != 0, z, 0.0)
    now = tl.sum(dots, axis=0)
    last = tl.load(before + row)
    goes = last > 0
    share = tl.where(goes, tl.div_rn(now, tl.where(goes, last, 1.0)), 0.0)
    tl.store(slope + row, now)
    tl.store(turn + row, share)
    direction += row * direction_stride
    for start in range(0, columns, COLUMNS):
        at = start + column
        here = at < columns
        z = tl.load(ahead + at, mask=here, other=0.0)
        kept = tl.load(keep + at, mask=here, other=0)
        p = tl.load(direction + at, mask=here, other=0.0)
        tl.store(direction + at, tl.where(kept != 0, z, 0.0) + share * p, mask=here)
