"""Objectives of size, by what the recipe leaves of the model: no forward pass is needed."""

from optishear.objectives.base import Number, SizeObjective
from optishear.pruning.result import PruneResult


class Sparsity(SizeObjective):
    """Fraction of the prunable decoder weights that are zero."""

    maximise = True
    unit = "fraction of prunable weights"
    description = "sparsity reached, of prunable decoder weights only (maximised)"

    def value(self, result: PruneResult) -> float:
        return result.sparsity


class Bytes(SizeObjective):
    """Size of the checkpoint with pruned layers as non-zeros plus a bit mask."""

    unit = "bytes"
    description = "checkpoint size with pruned layers stored as non-zeros plus one bit a weight"

    def value(self, result: PruneResult) -> float:
        return float(result.storage.bitmask(result.layout, result.kept))


class SparsityGap(SizeObjective):
    """|sparsity reached - target|: the second objective of OptiShear's own layer-ratio search."""

    unit = "fraction of prunable weights"
    description = "|sparsity reached − target|, written sparsity_gap@0.5 (arXiv 2502.10735)"
    number = Number(float, "a target", "0.5", 0, 1.0)

    def __init__(self, target: float):
        self.target = target

    def value(self, result: PruneResult) -> float:
        return abs(result.sparsity - self.target)
