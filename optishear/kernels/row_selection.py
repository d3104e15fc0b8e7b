"""One program a row: score it, find its threshold with the row in registers, write it masked.

The threshold is where as many scores lie below as are to go. It is searched for by false position
(the Illinois variant, Dowell & Jarratt 1971) between floats that are known to lie too low and too
high, each step one count over the row; every eighth step halves the floats between them, so that
the search ends after 8 * 32 steps whatever the scores. The first guess is where a half-normal
distribution of the row's mean has that quantile. Where scores tie, the search ends at neighbouring
floats and a running count over the row decides by index.

How many steps that takes is counted by `experiments/benchmarks/kernel_counts.py`.
"""

from statistics import NormalDist
from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

from optishear.kernels.scores import GIVEN, Vectors, finite, float_at, ordinal, power_of_two, score


HALF_NORMAL_MEAN = 0.7978845608
BEYOND = tl.constexpr(0.2)  # of the first guess: so far from it the second one is


def drop_from_rows(
    weight: Tensor,
    vectors: Vectors,
    each: int,
    more: int,
    out: Tensor | None,
    keep: Tensor | None,
    bad: Tensor,
) -> None:
    """Drops the `each` lowest of every row, and one more of the first `more` rows.

    `weight` and `out` are [rows, columns] with columns side by side, `keep` uint8 and contiguous.
    Adds the number of scores that are not finite to `bad`; what is written is then of no use.
    """
    rows, columns = weight.shape
    block = max(16, power_of_two(columns))
    _drop_from_row[(rows,)](
        weight,
        weight if out is None else out,
        bad if keep is None else keep,
        vectors.scale,
        vectors.column_sum,
        vectors.row_sum,
        bad,
        columns,
        weight.stride(0),
        (weight if out is None else out).stride(0),
        each,
        more,
        _half_normal((each + 0.5) / columns),
        FORM=vectors.form,
        GRAIN=vectors.grain,
        WRITE=out is not None,
        KEEP=keep is not None,
        EVEN=columns == block,
        BLOCK=block,
        **{"num_warps": warps(block), "enable_fp_fusion": False},
    )


def warps(block: int) -> int:
    """32 scores a thread: what a step costs beside its count is the same for any number of them."""
    return min(32, max(1, block // 1024))


def _half_normal(share: float) -> float:
    """The quantile of a half-normal distribution whose mean is 1."""
    return NormalDist().inv_cdf(min(0.5 + share / 2, 1 - 1e-7)) / HALF_NORMAL_MEAN


@triton.jit(do_not_specialize=["each", "more"])
@no_type_check
def _drop_from_row(
    weight,
    out,
    keep,
    scale,
    column_sum,
    row_sum,
    bad,
    columns,
    weight_stride,
    out_stride,
    each,
    more,
    quantile,
    FORM: tl.constexpr,
    GRAIN: tl.constexpr,
    WRITE: tl.constexpr,
    KEEP: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = (column < columns) | EVEN
    w = tl.load(weight + row * weight_stride + column, inside, other=0.0)
    x = score(w, row, column, inside, scale, column_sum, row_sum, FORM)
    total = tl.sum(tl.where(inside, x, 0.0))
    if finite(total) == 0:  # or it is but the sum that is not
        wrong = tl.sum((inside & (finite(x) == 0)).to(tl.int32))
        tl.atomic_add(bad, wrong, mask=wrong > 0)

    count = each + (row < more).to(tl.int32)
    base = tl.min(tl.where(inside, x, float("inf"))) if FORM == GIVEN else 0.0
    guess = (total / columns - base) * quantile
    # Of the scores below `low` there are at most so many as go, of those below `high` more; a row
    # that loses everything loses its highest score as one that ties.
    aim = tl.minimum(count, columns - 1)
    low = ordinal(tl.full((), 0.0, tl.float32) + base) >> GRAIN
    high = (ordinal(tl.max(tl.where(inside, x, base))) >> GRAIN) + 1
    x = tl.where(inside, x, float("inf"))
    below_low = tl.full((), 0, tl.int32)
    below_high = tl.full((), 0, tl.int32) + columns
    up = below_low <= aim

    low, below_low, high, below_high, up = _narrow(
        x, base + guess, aim, low, below_low, high, below_high, GRAIN
    )
    beyond = guess * tl.where(up, 1.0 + BEYOND, 1.0 - BEYOND)
    low, below_low, high, below_high, up = _narrow(
        x, base + beyond, aim, low, below_low, high, below_high, GRAIN
    )
    step = tl.full((), 0, tl.int32)
    pull = tl.full((), 1.0, tl.float32)  # towards the side that has not moved for some steps
    while (below_low < aim) & (high > low + 1):
        from_low = (aim - below_low).to(tl.float32) + 0.5
        from_high = (below_high - aim).to(tl.float32) - 0.5
        from_low *= tl.where(up, 1.0, pull)
        from_high *= tl.where(up, pull, 1.0)
        bottom, top = float_at(low << GRAIN), float_at(high << GRAIN)
        between = bottom + (top - bottom) * (from_low / (from_low + from_high))
        middle = float_at(((low & high) + ((low ^ high) >> 1)) << GRAIN)
        step += 1
        between = tl.where((step & 7) == 0, middle, between)
        before = up
        low, below_low, high, below_high, up = _narrow(
            x, between, aim, low, below_low, high, below_high, GRAIN
        )
        pull = tl.where(up == before, pull * 0.5, 1.0)

    drop = x < float_at(low << GRAIN)
    ties = count - below_low  # so many go of the equal scores from `low` on
    if ties > 0:
        equal = (x < float_at(high << GRAIN)) & (drop == 0)
        drop = drop | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= ties))
    if WRITE:
        tl.store(out + row * out_stride + column, tl.where(drop, 0.0, w).to(w.dtype), inside)
    if KEEP:
        tl.store(keep + row * columns + column, (drop == 0).to(tl.uint8), inside)


@triton.jit
@no_type_check
def _narrow(x, t, aim, low, below_low, high, below_high, GRAIN: tl.constexpr):
    """Moves `low` or `high` to t, or next to where it was if t lies outside; and which it was."""
    at = tl.maximum(tl.minimum(ordinal(t) >> GRAIN, high - 1), low + 1)
    below = tl.sum((x < float_at(at << GRAIN)).to(tl.int32))
    up = below <= aim
    return (
        tl.where(up, at, low),
        tl.where(up, below, below_low),
        tl.where(up, high, at),
        tl.where(up, below_high, below),
        up,
    )
