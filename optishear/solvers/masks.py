"""Masks from scores: exactly as many weights fewer as asked, under each pattern.

In every group the lowest scores go; of equal scores the one with the lower index goes first, as a
stable ascending sort would have it, in every dtype. (A threshold `scores <= t` drops more than
asked wherever scores repeat, and in bfloat16 they do.)
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from optishear.errors import NumericalError
from optishear.kernels import selection as kernels
from optishear.recipe.groups import Cut
from optishear.recipe.pattern import Pattern
from optishear.solvers.cpu_selection import as_array, without_counts, without_lowest


LONG = 256  # in rows so long a GPU selects, with a block of threads a row; shorter ones it sorts


def in_groups(part: Shaped[Tensor, "rows columns"], cut: Cut) -> Shaped[Tensor, "groups size"]:
    """A cut's weights, a group a row, in the order of their indices."""
    rows, columns = part.shape
    tiles = part.reshape(rows // cut.height, cut.height, columns // cut.width, cut.width)
    return tiles.transpose(1, 2).reshape(-1, cut.height * cut.width)


def from_groups(
    groups: Shaped[Tensor, "groups size"], cut: Cut, shape: torch.Size
) -> Shaped[Tensor, "rows columns"]:
    """`in_groups` undone."""
    rows, columns = shape
    tiles = groups.reshape(rows // cut.height, columns // cut.width, cut.height, cut.width)
    return tiles.transpose(1, 2).reshape(shape)


def everything_kept(shape: torch.Size, pattern: Pattern, device: torch.device) -> Tensor:
    """True for the weights that are in no group of the pattern; the others are to be written."""
    make = torch.empty if pattern.covers(shape) else torch.ones
    return make(shape, dtype=torch.bool, device=device)


def keep_highest(
    scores: Float[Tensor, "out in"], drop: int, pattern: Pattern
) -> Bool[Tensor, "out in"]:
    """True where a weight is kept: all but the `drop` lowest scores of the pattern's groups.

    Raises `NumericalError` for scores that are not finite, `ValueError` for an impossible count.
    """
    cuts = pattern.cuts(scores.shape, drop)
    refuse_not_finite(scores)
    keep = everything_kept(scores.shape, pattern, scores.device)
    for cut in cuts:
        part = scores[cut.rows, cut.columns]
        kept = _without_lowest(in_groups(part, cut), cut.count)
        keep[cut.rows, cut.columns] = from_groups(kept, cut, part.shape)
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
