"""From scores to what is kept: exactly as many weights fewer as asked, under each pattern.

In every group the lowest scores go; of equal scores the one with the lower index goes first, as a
stable ascending sort would have it, in every dtype. (A threshold `scores <= t` drops more than
asked wherever scores repeat, and in bfloat16 they do.)
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optishear.errors import NumericalError
from optishear.recipe.pattern import Block, NofM, Pattern, Row, WholeLayer


def keep_highest(
    scores: Float[Tensor, "out in"], drop: int, pattern: Pattern
) -> Bool[Tensor, "out in"]:
    """True where a weight is kept: all but the `drop` lowest scores of the pattern's groups.

    Raises `NumericalError` for scores that are not finite, `ValueError` for an impossible count.
    """
    rows, columns = scores.shape
    if not 0 <= drop <= scores.numel():
        raise ValueError(f"Cannot drop {drop} of {scores.numel()} weights.")
    _refuse_not_finite(scores)
    match pattern:
        case Row():
            each, more = divmod(drop, rows)
            counts = torch.full((rows,), each, device=scores.device)
            counts[:more] += 1
            return keep_counts(scores, counts)
        case WholeLayer():
            counts = torch.tensor([drop], device=scores.device)
            return keep_counts(scores.reshape(1, -1), counts).view_as(scores)
        case Block(width):
            shares = pattern.shares(columns, drop)
            parts = zip(scores.split(width, dim=1), shares, strict=True)
            return torch.cat([keep_highest(p, share, WholeLayer()) for p, share in parts], dim=1)
        case NofM(m):
            groups = scores.reshape(-1, m)
            each, more = divmod(drop, len(groups))
            if columns % m or more:
                raise ValueError(f"{drop} of {rows}x{columns} weights do not fit groups of {m}.")
            order = groups.argsort(dim=1, stable=True)
            keep = torch.ones_like(groups, dtype=torch.bool)
            return keep.scatter_(1, order[:, :each], False).view_as(scores)
    raise TypeError(f"No rule for the pattern {pattern}.")


def _refuse_not_finite(scores: Float[Tensor, "rows columns"]) -> None:
    if not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).sum())
        raise NumericalError(f"{bad} of {scores.numel()} scores are nan or inf.")


def keep_counts(
    scores: Float[Tensor, "rows columns"], counts: Int[Tensor, " rows"]
) -> Bool[Tensor, "rows columns"]:
    """All but the counts[i] lowest of row i: a threshold a row, and where it is shared, ties.

    Raises `NumericalError` for scores that are not finite.
    """
    _refuse_not_finite(scores)
    keep = torch.ones_like(scores, dtype=torch.bool)
    for count in counts.unique().tolist():
        if count == 0:
            continue
        chosen = (counts == count).nonzero()[:, 0]
        part = scores[chosen]
        threshold = part.kthvalue(count, dim=1, keepdim=True).values
        above = part > threshold
        # Usually the threshold is one weight's alone, and what lies above it is the answer.
        tied = (above.sum(1) < part.shape[1] - count).nonzero()[:, 0]
        if len(tied):
            above[tied] = _break_ties(part[tied], threshold[tied], count)
        keep[chosen] = above
    return keep


def _break_ties(
    scores: Float[Tensor, "rows columns"], threshold: Float[Tensor, "rows 1"], count: int
) -> Bool[Tensor, "rows columns"]:
    """Of the scores that equal the threshold, the first go, as many as `count` still wants."""
    above, at = scores > threshold, scores == threshold
    wanted = count - (scores < threshold).sum(1, keepdim=True)
    return above | (at & (at.cumsum(1) > wanted))
