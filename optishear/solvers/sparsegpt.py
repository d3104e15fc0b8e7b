"""SparseGPT: choose and update together, column by column, one factor for all rows and levels.

Frantar & Alistarh 2023 (arXiv 2301.00774). With U upper triangular and H^-1 = U^T U, the inverse of
H without its first j columns is U[j:, j:]^T U[j:, j:]. So pruning w_j of a row costs
(w_j / U_jj)^2 / 2, and moves every later weight k by -(w_j / U_jj) U_jk.

Under MOONSHOT row r has H_r = H + S_r^T S_r, S_r of n rows, and no factor in common with the other
rows. But the inverse of what is left of H_r follows from the same U by Woodbury, and since U is
triangular the n-vectors p_i = column i of S_r U^T never change while columns go. With

    K_j = I + sum_{i >= j} p_i p_i^T,   q_j = K_j^-1 p_j,   a_j = 1 - p_j . q_j,

the first row of that inverse is U_jj (U_jk - sum_{j <= i <= k} (p_i . q_j) U_ik), its first entry
a_j U_jj^2. Both q and a are the same for every mask and level. Summed over the columns pruned so
far, e_j = w_j / (U_jj a_j) each, the moves need one running n-vector s = sum_j e_j q_j a row:
column i passes on e_i - p_i . s where plain SparseGPT passes on e_i. So exact row-wise OBS costs
n^2 + 4 n operations a weight more than SparseGPT, not the n d of Woodbury redone for each column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optishear.calibration.statistics import Gram, InputSq, Need
from optishear.errors import NumericalError
from optishear.kernels.use import usable
from optishear.recipe.pattern import Pattern
from optishear.recipe.solver_settings import SETTINGS
from optishear.solvers.base import LayerProblem, LayerSolution, Solver, solution
from optishear.solvers.block_choices import choices_by_block, choose
from optishear.solvers.elimination import Sweep, by_column, columns_first, sweeps_of


BLOCK = int(SETTINGS["sparsegpt"]["block"].usual)  # columns updated together, as published


@dataclass(frozen=True)
class SparseGPT(Solver):
    """OBS from left to right; chooses by its own saliency, 1/2 w_j^2 / [H^-1]_jj of what is left.

    Under `block:B` (published: 128) all weights of a block compete when its turn comes, under
    `n:M` those of a group. Where groups reach across blocks, as under `row` and `layer`, each
    block's count is settled beforehand by the saliencies of the target's weights, and which weights
    go by those of the moment; `block` says how many columns these blocks have.

    Departures from the authors' code: counts are exact where saliencies tie, and the damping's mean
    diagonal counts dead inputs as zero. Weights of dead inputs are set to zero first, as theirs.
    """

    block: int = BLOCK

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({InputSq, Gram})

    def solve(self, problem: LayerProblem) -> LayerSolution:
        weight = torch.where(problem.stats[InputSq].total == 0, 0.0, problem.weight.float())
        sweeps = sweeps_of(problem.quadratic, weight.shape[0])
        weight, keep = _sweep(sweeps, weight, problem.drop, problem.pattern, self.block)
        return solution(problem, weight.contiguous(), keep.contiguous())


def _sweep(
    sweeps: Sequence[Sweep],
    weight: Float[Tensor, "rows columns"],
    drop: int,
    pattern: Pattern,
    block: int,
) -> tuple[Float[Tensor, "rows columns"], Bool[Tensor, "rows columns"]]:
    """(weights, what is kept of them) of a layer once every column had its turn."""
    rows, width = weight.shape
    group = pattern.m_of(weight.shape) or 0
    size = group * max(1, BLOCK // group) if group else pattern.window or block

    def saliencies(now: Float[Tensor, "rows part"], columns: slice) -> Float[Tensor, "rows part"]:
        found = [sweep.saliencies(now[sweep.run], columns) for sweep in sweeps]
        return found[0] if len(found) == 1 else torch.cat(found)

    choices = None if group else choices_by_block(pattern, weight, drop, size, saliencies)
    vectors = sweeps[0].vectors
    moved = None if vectors is None else weight.new_zeros(vectors.p.shape[1], rows)
    each = drop // (rows * width // group) if group else 0
    kernel = moved is None and group <= BLOCK and usable(weight)
    weight = weight.contiguous() if kernel else columns_first(weight)
    keep = torch.ones_like(weight, dtype=torch.bool)
    bad = weight.new_zeros(rows, dtype=torch.int32)
    for start in range(0, width, size):
        here = slice(start, min(start + size, width))
        part, kept = weight[:, here], keep[:, here]
        passed = torch.empty_like(part)
        if choices is not None:
            now = part if moved is None else sweeps[0].current(part, here, moved)
            choose(saliencies(now, here), choices[start // size], kept)
        for sweep in sweeps:
            run = sweep.run
            if kernel:
                _by_kernel(sweep, part[run], kept[run], passed[run], start, group, each, bad[run])
            else:
                by_column(sweep, part[run], kept[run], passed[run], start, group, each, moved)
            ahead = sweep.upper[here, here.stop :]
            weight[run, here.stop :].addmm_(passed[run], ahead, alpha=-1)
    if kernel and group and (count := int(bad.sum())):
        raise NumericalError(f"{count} of {weight.numel()} scores are nan or inf.")
    return weight, keep


def _by_kernel(
    sweep: Sweep,
    part: Float[Tensor, "rows part"],
    kept: Bool[Tensor, "rows part"],
    passed: Float[Tensor, "rows part"],
    start: int,
    group: int,
    each: int,
    bad: Int[Tensor, " rows"],
) -> None:
    """The same without row terms, in one launch; `bad` counts scores that are not finite."""
    from optishear.kernels.sparsegpt_sweep import sweep_block  # triton comes with builds for GPUs

    block = slice(start, start + part.shape[1])
    drop = torch.full_like(bad, each)
    sweep_block(part, kept, sweep.upper[block, block], passed, group, drop, bad)
