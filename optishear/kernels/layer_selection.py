"""One threshold for a whole layer: a few passes of histograms over the scores' ordered bits.

Each pass looks at the next DIGIT bits, from the highest on, of the scores that agree with the
threshold in all bits before; from its histogram everybody can tell the threshold's next digit.
A program works on the same run of rows in every pass, so the last pass, which keeps its histograms
apart, says how many scores that equal the threshold there are before each program's first; with a
running count that settles ties by index. Nothing waits for the host.
"""

from functools import cache
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from optishear.kernels.scores import GIVEN, Vectors, finite, ordinal, power_of_two, score


DIGIT = tl.constexpr(5)  # bits: 32 bins are one for each thread of a warp
BINS = tl.constexpr(32)
BLOCK = 2048  # columns at a time
PROGRAMS = 8  # for each multiprocessor


def drop_from_layer(
    weight: Tensor,
    vectors: Vectors,
    count: int,
    out: Tensor | None,
    keep: Tensor | None,
    bad: Tensor,
) -> None:
    """Drops the `count` lowest of the matrix; see `row_selection.drop_from_rows`."""
    rows, columns = weight.shape
    low, bits = significant(vectors)
    passes = -(-bits // DIGIT.value)
    each = -(-rows // min(rows, PROGRAMS * _multiprocessors(weight.device)))
    programs = -(-rows // each)
    totals = torch.zeros(passes, BINS.value, dtype=torch.int32, device=weight.device)
    last = torch.empty(programs, BINS.value, dtype=torch.int32, device=weight.device)
    block = min(BLOCK, max(16, power_of_two(columns)))
    shared = (vectors.scale, vectors.column_sum, vectors.row_sum)
    sizes = (rows, columns, weight.stride(0), each, count)
    fixed = {"FORM": vectors.form, "LOW": low, "PASSES": passes, "BLOCK": block}
    launch = {"num_warps": 4, "enable_fp_fusion": False}
    for number in range(passes):
        _histogram[(programs,)](
            weight, *shared, bad, totals, last, *sizes, PASS=number, **fixed, **launch
        )
    target = weight if out is None else out
    _drop_from_run[(programs,)](
        weight,
        target,
        bad if keep is None else keep,
        *shared,
        totals,
        last,
        *sizes,
        target.stride(0),
        programs,
        **fixed,
        WRITE=out is not None,
        KEEP=keep is not None,
        PROGRAMS=power_of_two(programs),
        **launch,
    )


def significant(vectors: Vectors) -> tuple[int, int]:
    """(bits at the end that are always zero, bits above them that differ between scores)."""
    sign = 1 if vectors.form == GIVEN.value else 0
    return vectors.grain, 31 + sign - vectors.grain


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
@no_type_check
def _key(x, FORM: tl.constexpr, LOW: tl.constexpr):
    """uint32 that orders as the scores do; with no negative ones the highest bit is 0."""
    at = ordinal(x)
    if FORM == GIVEN:
        at = at ^ (-2147483647 - 1)
    return at.to(tl.uint32, bitcast=True) >> LOW


@triton.jit
@no_type_check
def _threshold(totals, count, PASSES: tl.constexpr):
    """The threshold's first digits, and how many of the scores that have them are to go."""
    digits = tl.full((), 0, tl.uint32)
    left = count.to(tl.int32)
    place = tl.arange(0, BINS)
    for number in tl.static_range(PASSES):
        bins = tl.load(totals + number * BINS + place)
        digit = tl.sum((tl.cumsum(bins, 0) <= left).to(tl.int32))
        digit = tl.minimum(digit, BINS - 1)  # where all of them go
        left -= tl.sum(tl.where(place < digit, bins, 0))
        digits = (digits << DIGIT) | digit.to(tl.uint32)
    return digits, left


@triton.jit(do_not_specialize=["count", "each"])
@no_type_check
def _histogram(
    weight,
    scale,
    column_sum,
    row_sum,
    bad,
    totals,
    last,
    rows,
    columns,
    stride,
    each,
    count,
    PASS: tl.constexpr,
    FORM: tl.constexpr,
    LOW: tl.constexpr,
    PASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    digits, _ = _threshold(totals, count, PASS)
    shift: tl.constexpr = (PASSES - 1 - PASS) * DIGIT
    bins = tl.zeros((BINS,), tl.int32)
    wrong = tl.full((), 0, tl.int32)
    for row in range(program * each, tl.minimum(program * each + each, rows)):
        far = tl.full((), 0, tl.int64) + row
        for start in range(0, columns, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < columns
            w = tl.load(weight + far * stride + column, inside, other=0.0)
            x = score(w, row, column, inside, scale, column_sum, row_sum, FORM)
            if PASS == 0:
                wrong += tl.sum((inside & (finite(x) == 0)).to(tl.int32))
            key = _key(x, FORM, LOW) >> shift
            if PASS > 0:
                inside = inside & ((key >> DIGIT) == digits)
            bins += tl.histogram((key & (BINS - 1)).to(tl.int32), BINS, inside)
    place = tl.arange(0, BINS)
    tl.atomic_add(totals + PASS * BINS + place, bins, mask=bins > 0)
    if PASS == PASSES - 1:
        tl.store(last + program * BINS + place, bins)
    if PASS == 0:
        tl.atomic_add(bad, wrong, mask=wrong > 0)


@triton.jit(do_not_specialize=["count", "each", "programs"])
@no_type_check
def _drop_from_run(
    weight,
    out,
    keep,
    scale,
    column_sum,
    row_sum,
    totals,
    last,
    rows,
    columns,
    stride,
    each,
    count,
    out_stride,
    programs,
    FORM: tl.constexpr,
    LOW: tl.constexpr,
    PASSES: tl.constexpr,
    BLOCK: tl.constexpr,
    WRITE: tl.constexpr,
    KEEP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    program = tl.program_id(0)
    threshold, ties = _threshold(totals, count, PASSES)
    other = tl.arange(0, PROGRAMS)
    digit = (threshold & (BINS - 1)).to(tl.int32)
    earlier = tl.load(last + other * BINS + digit, other < tl.minimum(program, programs), other=0)
    seen = tl.sum(earlier)
    for row in range(program * each, tl.minimum(program * each + each, rows)):
        far = tl.full((), 0, tl.int64) + row
        for start in range(0, columns, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < columns
            w = tl.load(weight + far * stride + column, inside, other=0.0)
            x = score(w, row, column, inside, scale, column_sum, row_sum, FORM)
            key = _key(x, FORM, LOW)
            equal = ((key == threshold) & inside).to(tl.int32)
            place = seen + tl.cumsum(equal, 0)
            drop = (key < threshold) | ((key == threshold) & (place <= ties))
            seen += tl.sum(equal)
            if WRITE:
                to = out + far * out_stride + column
                tl.store(to, tl.where(drop, 0.0, w).to(w.dtype), inside)
            if KEEP:
                tl.store(keep + far * columns + column, (drop == 0).to(tl.uint8), inside)
