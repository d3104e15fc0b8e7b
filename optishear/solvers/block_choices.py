"""Turns of a solver that goes through a layer by blocks of columns: what each block drops."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optishear.recipe.groups import Cut, Tiling
from optishear.recipe.pattern import Pattern
from optishear.solvers.masks import from_groups, in_groups, keep_counts, keep_highest


@dataclass(frozen=True, eq=False)
class Choice:
    """Of the groups of `cut`, as far as they lie in a block of columns, the i-th loses counts[i].

    `cut`: inside the block; its own count says nothing.
    """

    cut: Cut
    counts: Int[Tensor, " groups"]


def choices_by_block(
    pattern: Pattern,
    dense: Float[Tensor, "rows columns"],
    drop: int,
    size: int,
    score: Callable[[Float[Tensor, "rows columns"], slice], Float[Tensor, "rows columns"]],
) -> list[list[Choice]]:
    """For each block of `size` columns what its groups lose, `drop` in all, exactly.

    The pattern says it where groups lie in blocks of that size; where they reach across, the dense
    weights' scores do.
    """
    width = dense.shape[1]
    blocks = [range(start, min(start + size, width)) for start in range(0, width, size)]
    found: list[list[Choice]] = [[] for _ in blocks]
    if pattern.window == size:
        for cut in pattern.cuts(dense.shape, drop):
            index = cut.columns.start // size
            found[index].append(_known(cut, blocks[index], dense))
        return found
    gone = ~keep_highest(score(dense, slice(0, width)), drop, pattern)
    strips = [strip for part in pattern.groups(dense.shape).parts for strip in part.strips]
    for block, choices in zip(blocks, found):
        lost = gone[:, block.start : block.stop]
        choices.extend(choice for strip in strips for choice in _counted(strip, block, lost))
    return found


def choose(
    scores: Float[Tensor, "rows part"], choices: Sequence[Choice], kept: Bool[Tensor, "rows part"]
) -> None:
    """Writes to `kept` all but the lowest scores of each group; leaves what is in none."""
    for choice in choices:
        cut = choice.cut
        part = scores[cut.rows, cut.columns]
        keep = keep_counts(in_groups(part, cut), choice.counts)
        kept[cut.rows, cut.columns] = from_groups(keep, cut, part.shape)


def _known(cut: Cut, block: range, like: Float[Tensor, "rows columns"]) -> Choice:
    rows, columns = range(len(like))[cut.rows], range(like.shape[1])[cut.columns]
    groups = len(rows) * len(columns) // (cut.height * cut.width)
    counts = torch.full((groups,), cut.count, device=like.device)
    return Choice(_moved(rows, columns, cut.height, cut.width, block), counts)


def _counted(strip: Tiling, block: range, lost: Bool[Tensor, "rows part"]) -> Iterator[Choice]:
    """One where groups of the strip reach into the block, which has lost so much of them."""
    first, step = strip.columns.start, strip.columns.step
    begin, end = (max(0, -(-(column - first) // step)) for column in (block.start, block.stop))
    if columns := strip.columns[begin:end]:
        cut = _moved(strip.rows, columns, strip.height, len(columns), block)
        yield Choice(cut, in_groups(lost[cut.rows, cut.columns], cut).sum(1))


def _moved(rows: range, columns: range, height: int, width: int, block: range) -> Cut:
    """With columns counted from the block's first."""
    inside = slice(columns.start - block.start, columns.stop - block.start, columns.step)
    return Cut(slice(rows.start, rows.stop, rows.step), inside, height, width, 0)
