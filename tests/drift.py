"""A made-up metric that reads both streams: what it keeps depends on how far the inputs moved."""

from dataclasses import dataclass

from optishear.calibration.statistics import Cross, InputSq, Mean
from optishear.metrics import Metric


@dataclass(frozen=True)
class Drift(Metric):
    """S_ij = |W_ij| (||x_j|| + |mean x_j| + 30 ||cross_j||)."""

    needs = frozenset({InputSq, Mean, Cross})
    paper = "made up"

    def score(self, weight, stats):
        moved = stats.per_token(Cross).norm(dim=0)
        loud = stats.input_norm + stats.per_token(Mean).abs() + 30 * moved
        return weight.abs().float() * loud
