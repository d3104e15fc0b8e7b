"""Drop exactly so many of the lowest scores, by kernels: the doors for solvers."""

from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.errors import NumericalError
from optishear.kernels.separable import Separable
from optishear.kernels.use import on_device_of, usable
from optishear.recipe.pattern import Pattern


LONGEST = 32_768  # columns: 32 fp32 scores for each of a block's 1,024 threads
WIDEST = 32  # M: 32 comparisons for each weight
MOST = 2**31 - 1  # weights of a layer, which are counted in int32
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Groups = tuple[int, int]  # height and width of the tiles that a matrix is made of


def fits(pattern: Pattern, *matrices: Tensor) -> bool:
    """Whether there is a kernel for matrices like these; the reference is for all others.

    Only for groups that are whole rows (of 32,768 columns at most), runs of a row that lose equally
    many (M up to 32), or the whole layer; not for fp64, or columns that do not lie side by side.
    """
    groups = pattern.whole(matrices[0].shape)
    return groups is not None and _fits(groups, pattern.levels is not None, *matrices)


def _fits(groups: Groups, alike: bool, *matrices: Tensor) -> bool:
    """`alike`: whether all groups lose equally many."""
    weight = matrices[0]
    if not usable(*matrices) or not 0 < weight.numel() <= MOST:
        return False
    if any(m.dtype not in DTYPES or (m.stride(1) != 1 and m.shape[1] > 1) for m in matrices):
        return False
    rows, columns = weight.shape
    height, width = groups
    if groups == (rows, columns):
        return True
    if height != 1 or columns % width:
        return False
    return width <= LONGEST if width == columns else alike and width <= WIDEST


def write_without_lowest(
    weight: Float[Tensor, "out in"],
    scores: Separable,
    drop: int,
    pattern: Pattern,
    out: Float[Tensor, "out in"],
    check: bool = True,
) -> Bool[Tensor, "out in"]:
    """Writes `weight` to `out` without the `drop` weights that score lowest; what is kept.

    `drop` must suit the pattern (`Pattern.cuts`). Of equal scores the lower index goes first.
    Raises `NumericalError` for scores that are not finite; without `check`, for scores known to be,
    nothing waits for the device.
    """
    if weight.dtype != out.dtype:
        raise ValueError(f"Cannot write {weight.dtype} into {out.dtype}: convert one first.")
    groups = pattern.whole(weight.shape)
    if groups is None:
        raise TypeError(f"No kernel for the pattern {pattern}.")
    keep = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    device = weight.device
    bad = torch.zeros(1, dtype=torch.int32, device=device) if check else _nobody(device)
    _launch(weight, scores, drop, groups, out, keep, bad)
    if check and (count := int(bad)):
        raise NumericalError(f"{count} of {weight.numel()} scores are nan or inf.")
    return keep.view(torch.bool)


def without_lowest(
    scores: Float[Tensor, "groups width"], count: int
) -> Bool[Tensor, "groups width"] | None:
    """All but the `count` lowest of each row of finite scores; None where no kernel fits."""
    groups, width = scores.shape
    tile = (1, width)
    if groups == 1:
        wide = 2048
        scores = scores.view(-1, wide) if width % wide == 0 and scores.is_contiguous() else scores
        tile = (scores.shape[0], scores.shape[1])
    if not _fits(tile, True, scores):
        return None
    keep = torch.empty(scores.shape, dtype=torch.uint8, device=scores.device)
    _launch(scores, None, groups * count, tile, None, keep, _nobody(scores.device))
    return keep.view(torch.bool).view(groups, width)


def _launch(
    weight: Tensor,
    scores: Separable | None,
    drop: int,
    groups: Groups,
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
        if groups == (rows, columns):
            drop_from_layer(weight, vectors, drop, out, keep, bad)
            return
        width = groups[1]
        each, more = divmod(drop, rows * columns // width)
        if width <= WIDEST and not more:
            drop_from_groups(weight, vectors, width, each, out, keep, bad)
        else:  # whole rows, as `_fits` has it
            drop_from_rows(weight, vectors, each, more, out, keep, bad)


@cache
def _nobody(device: torch.device) -> Tensor:
    """Where scores that are not finite are counted for nobody: one launch less than a new zero."""
    return torch.zeros(1, dtype=torch.int32, device=device)
