"""A solver takes one layer and a count, and returns new weights. It knows no model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from optishear.calibration.statistics import LayerStats, Need
from optishear.metrics import Metric
from optishear.recipe.pattern import Pattern
from optishear.solvers.masks import keep_highest


@dataclass(frozen=True)
class LayerSolution:
    """`weight` is exactly zero wherever `keep` is False."""

    weight: Float[Tensor, "out in"]
    keep: Bool[Tensor, "out in"]


class Solver(ABC):
    """One layer at a time: no model, no hooks, no files."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """The statistics that `solve` reads."""

    @abstractmethod
    def solve(
        self, weight: Float[Tensor, "out in"], drop: int, pattern: Pattern, stats: LayerStats
    ) -> LayerSolution:
        """`drop` weights fewer, exactly, at the least cost that this solver can find.

        Never writes to `weight`. Raises `NumericalError` where the layer cannot be solved.
        """


@dataclass(frozen=True)
class Mask(Solver):
    """Choose what to keep by a metric; the kept weights stay as they are."""

    metric: Metric

    @property
    def needs(self) -> frozenset[Need]:
        return self.metric.needs

    def solve(
        self, weight: Float[Tensor, "out in"], drop: int, pattern: Pattern, stats: LayerStats
    ) -> LayerSolution:
        keep = keep_highest(self.metric.score(weight, stats), drop, pattern)
        return LayerSolution(weight.masked_fill(~keep, 0), keep)
