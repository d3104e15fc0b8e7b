"""Drop exactly so many of the lowest scores, by kernels: the doors for solvers."""

from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.errors import NumericalError
from optishear.kernels.separable import Separable
from optishear.kernels.use import on_device_of, usable
from optishear.recipe.pattern import NofM, Pattern, Row, WholeLayer


LONGEST = 32_768  # columns: 32 fp32 scores for each of a block's 1,024 threads
WIDEST = 32  # M: 32 comparisons for each weight
MOST = 2**31 - 1  # weights of a layer, which are counted in int32
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fits(pattern: Pattern, *matrices: Tensor) -> bool:
    """Whether there is a kernel for matrices like these; the reference is for all others.

    Not for rows beyond 32,768 columns, M beyond 32, fp64, or columns that do not lie side by side.
    """
    weight = matrices[0]
    if not usable(*matrices) or not 0 < weight.numel() <= MOST:
        return False
    if any(m.dtype not in DTYPES or (m.stride(1) != 1 and m.shape[1] > 1) for m in matrices):
        return False
    match pattern:
        case Row():
            return weight.shape[1] <= LONGEST
        case NofM(m):
            return m <= WIDEST
        case WholeLayer():
            return True
    return False


def write_without_lowest(
    weight: Float[Tensor, "out in"],
    scores: Separable,
    drop: int,
    pattern: Pattern,
    out: Float[Tensor, "out in"],
    check: bool = True,
) -> Bool[Tensor, "out in"]:
    """Writes `weight` to `out` without the `drop` weights that score lowest; what is kept.

    `drop` must suit the pattern (`solvers.masks.cuts`). Of equal scores the lower index goes first.
    Raises `NumericalError` for scores that are not finite; without `check`, for scores known to be,
    nothing waits for the device.
    """
    if weight.dtype != out.dtype:
        raise ValueError(f"Cannot write {weight.dtype} into {out.dtype}: convert one first.")
    keep = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    device = weight.device
    bad = torch.zeros(1, dtype=torch.int32, device=device) if check else _nobody(device)
    _launch(weight, scores, drop, pattern, out, keep, bad)
    if check and (count := int(bad)):
        raise NumericalError(f"{count} of {weight.numel()} scores are nan or inf.")
    return keep.view(torch.bool)


def without_lowest(
    scores: Float[Tensor, "groups width"], count: int
) -> Bool[Tensor, "groups width"] | None:
    """All but the `count` lowest of each row of finite scores; None where no kernel fits."""
    groups, width = scores.shape
    if groups == 1:
        pattern, wide = WholeLayer(), 2048
        scores = scores.view(-1, wide) if width % wide == 0 and scores.is_contiguous() else scores
    else:
        pattern = NofM(width) if width <= WIDEST else Row()
    if not fits(pattern, scores):
        return None
    keep = torch.empty(scores.shape, dtype=torch.uint8, device=scores.device)
    _launch(scores, None, groups * count, pattern, None, keep, _nobody(scores.device))
    return keep.view(torch.bool).view(groups, width)


def _launch(
    weight: Tensor,
    scores: Separable | None,
    drop: int,
    pattern: Pattern,
    out: Tensor | None,
    keep: Tensor,
    bad: Tensor,
) -> None:
    from optishear.kernels.group_selection import drop_from_groups
    from optishear.kernels.layer_selection import drop_from_layer
    from optishear.kernels.row_selection import drop_from_rows
    from optishear.kernels.scores import vectors_of

    vectors = vectors_of(weight, scores)
    rows, columns = weight.shape
    with on_device_of(weight):
        match pattern:
            case Row():
                each, more = divmod(drop, rows)
                drop_from_rows(weight, vectors, each, more, out, keep, bad)
            case NofM(m):
                each = drop // (rows * columns // m)
                drop_from_groups(weight, vectors, m, each, out, keep, bad)
            case WholeLayer():
                drop_from_layer(weight, vectors, drop, out, keep, bad)
            case _:
                raise TypeError(f"No kernel for the pattern {pattern}.")


@cache
def _nobody(device: torch.device) -> Tensor:
    """Where scores that are not finite are counted for nobody: one launch less than a new zero."""
    return torch.zeros(1, dtype=torch.int32, device=device)
