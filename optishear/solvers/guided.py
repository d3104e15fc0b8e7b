"""The guided quadratic: a change of what a layer puts out counts where the loss hears it.

    cost(D) = 1/2 sum over row groups g, rows r of g, of  d_r H_g d_r^T
    H_g = (1 / tokens) sum_t s_tg x_t x_t^T,   s as in `calibration.token_weights`

With s = 1 it is plain reconstruction. GuidedQuant (ICML 2025) quantises by it, each group of rows
by itself. Ours: pruning by it; that the groups keep their scale to each other, so that weights of
all rows compete under patterns where they do; its damping, relative to the mean diagonal of H_g.
"""

import torch

from optishear.calibration.statistics import Gram, InputSq, LayerStats
from optishear.calibration.token_weights import even_runs
from optishear.solvers.hessian import DAMPING, Hessian
from optishear.solvers.quadratic import Quadratic


def guided(groups: tuple[LayerStats, ...], rows: int, damping: float = DAMPING) -> Quadratic:
    """Of a layer with so many rows, from the weighted sums for each of its row groups."""
    first, *others = [Hessian(group.per_token(Gram), damping) for group in groups]
    starts = [run.start for run in even_runs(rows, len(groups))[1:]]
    return Quadratic(first, beyond=tuple(zip(starts, others, strict=True)))


def guided_stats(stats: LayerStats, groups: tuple[LayerStats, ...], rows: int) -> LayerStats:
    """What a metric reads: input_sq becomes the diagonal of each row's Hessian (undamped, times
    tokens), so that Wanda scores |W_ij| sqrt(H_g,jj). One group's is that of all rows."""
    if len(groups) == 1:
        return stats.having(groups[0][InputSq])
    runs = even_runs(rows, len(groups))
    each = [
        group[InputSq].total.expand(run.stop - run.start, -1) for run, group in zip(runs, groups)
    ]
    return stats.having(InputSq(torch.cat(each)))
