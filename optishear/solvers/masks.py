"""From scores to what is kept: exactly as many weights fewer as asked, under each pattern.

In every group the lowest scores go; of equal scores the one with the lower index goes first, as a
stable ascending sort would have it, in every dtype. (A threshold `scores <= t` drops more than
asked wherever scores repeat, and in bfloat16 they do.)
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optishear.errors import NumericalError
from optishear.kernels import selection as kernels
from optishear.recipe.pattern import Block, NofM, Pattern, Row, WholeLayer
from optishear.solvers.cpu_selection import as_array, without_counts, without_lowest


LONG = 256  # in rows so long a GPU selects, with a block of threads a row; shorter ones it sorts


class Cut(NamedTuple):
    """Each of the groups inside scores[rows, columns] loses `count` weights."""

    rows: slice
    columns: slice
    count: int


def cuts(shape: tuple[int, ...], drop: int, pattern: Pattern) -> list[Cut]:
    """The parts of an [out, in] matrix whose groups are alike, and what each of those loses.

    Raises `ValueError` for an impossible count.
    """
    rows, columns = shape
    if not 0 <= drop <= rows * columns:
        raise ValueError(f"Cannot drop {drop} of {rows * columns} weights.")
    everything = slice(None)
    match pattern:
        case Row():
            each, more = divmod(drop, rows)
            parts = [
                Cut(slice(more), everything, each + 1),
                Cut(slice(more, None), everything, each),
            ]
            return parts if more else parts[1:]
        case WholeLayer():
            return [Cut(everything, everything, drop)]
        case Block(width):
            starts = range(0, columns, width)
            shares = pattern.shares(columns, drop)
            return [Cut(everything, slice(i, i + width), n) for i, n in zip(starts, shares)]
        case NofM(m):
            each, more = divmod(drop, rows * columns // m) if columns % m == 0 else (0, drop)
            if columns % m or more:
                raise ValueError(f"{drop} of {rows}x{columns} weights do not fit groups of {m}.")
            return [Cut(everything, everything, each)]
    raise TypeError(f"No rule for the pattern {pattern}.")


def in_groups(part: Tensor, pattern: Pattern) -> Tensor:
    """A cut's [rows, columns] as [groups, weights of a group], in the order of their indices."""
    match pattern:
        case Row():
            return part
        case NofM(m):
            return part.reshape(-1, m)
    return part.reshape(1, -1)


def keep_highest(
    scores: Float[Tensor, "out in"], drop: int, pattern: Pattern
) -> Bool[Tensor, "out in"]:
    """True where a weight is kept: all but the `drop` lowest scores of the pattern's groups.

    Raises `NumericalError` for scores that are not finite, `ValueError` for an impossible count.
    """
    parts = cuts(scores.shape, drop, pattern)
    refuse_not_finite(scores)
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    for rows, columns, count in parts:
        part = scores[rows, columns]
        kept = _without_lowest(in_groups(part, pattern), count)
        keep[rows, columns] = kept.view(part.shape)
    return keep


def refuse_not_finite(scores: Float[Tensor, "rows columns"]) -> None:
    """Raises `NumericalError` that counts what is nan or inf."""
    # The extremes tell, in one pass and without a temporary: a nan anywhere makes both of them nan.
    if scores.numel() and not bool(torch.isfinite(torch.stack(scores.aminmax())).all()):
        bad = int((~torch.isfinite(scores)).sum())
        raise NumericalError(f"{bad} of {scores.numel()} scores are nan or inf.")


def keep_counts(
    scores: Float[Tensor, "rows columns"], counts: Int[Tensor, " rows"]
) -> Bool[Tensor, "rows columns"]:
    """All but the counts[i] lowest of row i.

    Raises `NumericalError` for scores that are not finite, `ValueError` for an impossible count.
    """
    refuse_not_finite(scores)
    rows, width = scores.shape
    if rows and not bool(((counts >= 0) & (counts <= width)).all()):
        raise ValueError(f"Cannot drop {int(counts.min())} to {int(counts.max())} of {width}.")
    if rows == 1:
        return _without_lowest(scores, int(counts))
    if scores.device.type != "cpu":
        return _by_order(scores, counts[:, None])
    keep = torch.empty(scores.shape, dtype=torch.bool)
    without_counts(as_array(scores), counts.numpy(), keep.numpy())
    return keep


def _without_lowest(
    groups: Float[Tensor, "groups width"], count: int
) -> Bool[Tensor, "groups width"]:
    """All but the `count` lowest of each group."""
    width = groups.shape[1]
    if count in (0, width):
        return torch.full(groups.shape, count == 0, dtype=torch.bool, device=groups.device)
    if (by_kernel := kernels.without_lowest(groups, count)) is not None:
        return by_kernel
    if groups.device.type != "cpu":
        # One row alone would keep but one of a GPU's multiprocessors busy.
        selects = width >= LONG and len(groups) > 1
        return (_by_threshold if selects else _by_order)(groups, count)
    keep = torch.empty(groups.shape, dtype=torch.bool)
    without_lowest(as_array(groups), count, keep.numpy())
    return keep


# --- on other devices, without waiting for them -------------------------------------------------


def _by_threshold(
    scores: Float[Tensor, "rows columns"], count: int
) -> Bool[Tensor, "rows columns"]:
    """All but the `count` lowest of each row; 0 < count. Ties are looked at in any case."""
    threshold = scores.kthvalue(count, dim=1, keepdim=True).values
    equal = scores == threshold
    wanted = count - (scores < threshold).sum(1, keepdim=True, dtype=torch.int32)
    return (scores > threshold) | (equal & (equal.cumsum(1, dtype=torch.int32) > wanted))


def _by_order(
    scores: Float[Tensor, "rows columns"], counts: int | Int[Tensor, "rows 1"]
) -> Bool[Tensor, "rows columns"]:
    """All but the `counts` lowest of each row, one count for all or one a row."""
    order = stable_order(scores)
    stays = torch.arange(scores.shape[1], device=scores.device) >= counts
    return torch.empty_like(order, dtype=torch.bool).scatter_(1, order, stays.expand(order.shape))


def stable_order(scores: Float[Tensor, "rows columns"]) -> Int[Tensor, "rows columns"]:
    """Each row's indices from the lowest score to the highest, those of equal ones as they come."""
    # Adding 0 turns -0.0 into the 0.0 that it equals, as a sort by bits would not have it.
    return (scores + 0.0).argsort(dim=1, stable=True)
