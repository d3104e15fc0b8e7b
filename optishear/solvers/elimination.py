"""Elimination of columns from left to right: what SparseGPT's sweep reads, and its steps in torch.

The mathematics stands in `sparsegpt`. Weights come as [rows, columns] and lie columns first in
memory, so that all rows' weights of one column are neighbours: a step reads and writes whole lines.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.recipe.pattern import NofM
from optishear.solvers.cpu_selection import SHORT, Places
from optishear.solvers.hessian import Hessian
from optishear.solvers.masks import keep_highest, refuse_not_finite
from optishear.solvers.quadratic import Quadratic


RUN = 32  # columns that are brought up to date by one product, before the steps among themselves


class RowVectors(NamedTuple):
    """MOONSHOT's p, q and a of every column; `columns` first, so that each is contiguous, and
    `rows` last, since n is small: steps then run along lines that are long."""

    p: Float[Tensor, "columns n rows"]
    q: Float[Tensor, "columns n rows"]
    a: Float[Tensor, "columns rows"]


class Sweep:
    """What elimination from left to right reads of rows with one Hessian, whatever the mask.

    - `run`: these rows.
    """

    def __init__(self, run: slice, hessian: Hessian, quadratic: Quadratic):
        self.run = run
        self.upper = hessian.inverse_upper
        self.diagonal: Float[Tensor, " columns"] = self.upper.diagonal()
        self.vectors = None
        if quadratic.row_term is not None:
            self.vectors = _row_vectors(quadratic, run.stop)  # then all rows have one Hessian

    def saliencies(
        self, weight: Float[Tensor, "rows part"], columns: slice
    ) -> Float[Tensor, "rows part"]:
        """w^2 / [H^-1]_jj, each column as if it were the next to go."""
        scores = (weight / self.diagonal[columns]).square()
        return scores if self.vectors is None else scores / self.vectors.a[columns].T

    def current(
        self,
        weight: Float[Tensor, "rows part"],
        columns: slice,
        moved: Float[Tensor, "n rows"] | None,
    ) -> Float[Tensor, "rows part"]:
        """These columns as they stand now: what went through columns not yet reached is added."""
        if self.vectors is None or moved is None:
            return weight
        ahead = (self.vectors.p[columns] * moved).sum(1).T
        return weight + ahead @ self.upper[columns, columns]


def sweeps_of(quadratic: Quadratic, rows: int) -> list[Sweep]:
    """One for each group of rows that has a Hessian of its own."""
    return [Sweep(run, hessian, quadratic) for run, hessian in quadratic.groups(rows)]


def _row_vectors(quadratic: Quadratic, rows: int) -> RowVectors:
    upper = quadratic.shared.inverse_upper
    parts = [part.term @ upper.T for part in quadratic.chunks(rows) if part.term is not None]
    p = torch.cat(parts).permute(2, 1, 0).contiguous()
    q, a = torch.empty_like(p), torch.empty_like(p[:, 0])
    n = p.shape[1]
    inverse = torch.eye(n, device=p.device)[:, :, None].repeat(1, 1, rows)  # of K, from the far end
    for j in range(len(p) - 1, -1, -1):
        solved = (inverse * p[j]).sum(1)
        grown = 1 + (p[j] * solved).sum(0)
        torch.div(solved, grown, out=q[j])
        torch.reciprocal(grown, out=a[j])
        inverse.addcmul_(solved[:, None], q[j], value=-1)
    return RowVectors(p, q, a)


def columns_first(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """The same numbers, those of a column side by side in memory."""
    return matrix.T.contiguous().T


def by_column(
    sweep: Sweep,
    part: Float[Tensor, "rows part"],
    kept: Bool[Tensor, "rows part"],
    passed: Float[Tensor, "rows part"],
    start: int,
    group: int,
    each: int,
    moved: Float[Tensor, "n rows"] | None,
) -> None:
    """Prunes the block `part`, from column `start` on, and fills `passed` with the errors that the
    columns after it are owed. With a `group`, `each` of so many go, and `kept` is filled as well.

    Raises `NumericalError` for scores of groups that are not finite.
    """
    # A column fetches what it is owed when its turn comes, so it is written twice and not each
    # time that another goes; most of what it fetches comes for a run of columns in one product.
    weights, errors, width = part.T, passed.T, part.shape[1]
    block = slice(start, start + width)
    owed_by = sweep.upper[block, block].T.contiguous()
    strike_by = sweep.diagonal[block, None]  # w times this, inverted, is the error of striking w
    if sweep.vectors is not None:
        strike_by = strike_by * sweep.vectors.a[block]
    strikes = torch.empty_like(weights) if group else ~kept.T / strike_by
    scores = torch.empty_like(weights) if group else weights[:0]
    lowest = _lowest(len(part), group, each, weights.device)
    run = max(group, RUN // group * group) if group else RUN
    lines = list(zip(weights.unbind(), strikes.unbind(), errors.unbind()))  # a view each time: 1 us
    for first in range(0, width, run):
        ahead = slice(first, min(first + run, width))
        if first:
            weights[ahead].addmm_(owed_by[ahead, :first], errors[:first], alpha=-1)
        for j in range(ahead.start, ahead.stop):
            if group and j % group == 0:
                inside, columns = slice(j, j + group), slice(start + j, start + j + group)
                if j > first:
                    owed = owed_by[inside, first:j]
                    weights[inside].addmm_(owed, errors[first:j], alpha=-1)
                now = sweep.current(part[:, inside], columns, moved)
                gone = lowest(scores[inside].copy_(sweep.saliencies(now, columns).T))
                torch.logical_not(gone, out=kept.T[inside])
                torch.div(gone, strike_by[inside], out=strikes[inside])
            since = j - j % group if group else first
            if j > since:
                lines[j][0].addmv_(errors[since:j].T, owed_by[j, since:j], alpha=-1)
            _strike(sweep, *lines[j], start + j, moved)
    refuse_not_finite(scores)
    part.mul_(kept)


def _strike(
    sweep: Sweep,
    weight: Float[Tensor, " rows"],
    strike: Float[Tensor, " rows"],
    error: Float[Tensor, " rows"],
    column: int,
    moved: Float[Tensor, "n rows"] | None,
) -> None:
    """Fills the `error` of a column whose weights stand as they are, and moves `moved` by it."""
    vectors = sweep.vectors
    if vectors is None or moved is None:
        torch.mul(weight, strike, out=error)
        return
    p = vectors.p[column]
    weight.addcmul_(sweep.diagonal[column], torch.linalg.vecdot(p, moved, dim=0))
    torch.mul(weight, strike, out=error)
    moved.addcmul_(error, vectors.q[column])
    error.sub_(torch.linalg.vecdot(p, moved, dim=0))


Lowest = Callable[[Float[Tensor, "m rows"]], Bool[Tensor, "m rows"]]


def _lowest(rows: int, group: int, each: int, device: torch.device) -> Lowest:
    """Which `each` of a group's m scores are the lowest in every row, ties as everywhere.

    For scores that are not finite it says nothing of use.
    """
    if device.type == "cpu" and group < SHORT:
        places = Places(group, rows)
        return lambda scores: torch.from_numpy(places(scores.numpy()) < each)
    pattern = NofM(group)
    return lambda scores: ~keep_highest(scores.T.contiguous(), rows * each, pattern).T
