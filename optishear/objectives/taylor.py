"""The Taylor objective: the loss that pruning adds, to second order. No forward pass is needed."""

from optishear.objectives.base import SizeObjective
from optishear.pruning.result import PruneResult


class Taylor(SizeObjective):
    """1/2 sum over layers and rows of d_r ((1/n) G_r^T G_r) d_r^T, d_r the change of row r and G_r
    its gradients on n sequences: the empirical Fisher's block-diagonal Taylor term, without the
    first-order term. MOONSHOT's second objective (arXiv 2604.13287)."""

    unit = "nats², block-diagonal"
    description = "block-diagonal Fisher–Taylor loss of the change, additive over layers"

    def value(self, result: PruneResult) -> float:
        if result.taylor is None:
            raise ValueError("The pruning was not asked for its Taylor loss.")
        return result.taylor
