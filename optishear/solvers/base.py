"""A solver takes one layer and a count, and returns new weights. It knows no model."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.calibration.statistics import LayerStats, Need
from optishear.metrics import Metric
from optishear.recipe.pattern import Pattern
from optishear.solvers.masks import keep_highest
from optishear.solvers.quadratic import Quadratic
from optishear.solvers.ranks import RankCache, write_kept


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """One layer, and everything that may be asked about it.

    - `drop`: exactly as many weights go, where the pattern says.
    - `make_stats`: what metrics read; called when one first does. Under MOONSHOT its `input_sq` has
      a row for each output.
    - `make_quadratic`: what a change costs; called when a solver first asks.
    - `given`: a mask from elsewhere, which then takes the place of the metric's choice.
    - `name`: of weight and statistics, under which `ranks` remembers how metrics rank them.
    - `buffer`: where a solver may make the new weight, in the dense one's dtype.
    """

    weight: Float[Tensor, "out in"]
    drop: int
    pattern: Pattern
    make_stats: Callable[[], LayerStats]
    make_quadratic: Callable[[], Quadratic]
    given: Bool[Tensor, "out in"] | None = None
    name: str = ""
    ranks: RankCache | None = None
    buffer: Float[Tensor, "out in"] | None = None

    @cached_property
    def stats(self) -> LayerStats:
        return self.make_stats()

    @cached_property
    def quadratic(self) -> Quadratic:
        return self.make_quadratic()

    def choose(self, metric: Metric) -> Bool[Tensor, "out in"]:
        """The given mask, or all but the `drop` weights that this metric scores lowest."""
        if self.given is not None:
            return self.given
        if self.ranks is None:
            return keep_highest(self._scores(metric), self.drop, self.pattern)
        key = f"{self.name} {metric!r}"
        return self.ranks.keep(key, self.drop, self.pattern, partial(self._scores, metric))

    def _scores(self, metric: Metric) -> Float[Tensor, "out in"]:
        return metric.score(self.weight, self.stats)


@dataclass(frozen=True)
class LayerSolution:
    """`weight` is exactly zero wherever `keep` is False.

    - `cost`: of the change under the layer's quadratic; None where the solver never needed one.
    - `damping`: the relative damping that was used, None without a quadratic.
    - `notes`: what the user should know, for instance why damping was raised.
    """

    weight: Float[Tensor, "out in"]
    keep: Bool[Tensor, "out in"]
    cost: float | None = None
    damping: float | None = None
    notes: tuple[str, ...] = ()

    def with_notes(self, notes: tuple[str, ...]) -> "LayerSolution":
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))


class Solver(ABC):
    """One layer at a time: no model, no hooks, no files."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """The statistics that `solve` reads."""

    @abstractmethod
    def solve(self, problem: LayerProblem) -> LayerSolution:
        """`problem.drop` weights fewer, exactly, at the least cost that this solver can find.

        Never writes to the dense weight. Raises `NumericalError` where the layer cannot be solved.
        """


@dataclass(frozen=True)
class Mask(Solver):
    """Choose what to keep by a metric; the kept weights stay as they are."""

    metric: Metric

    @property
    def needs(self) -> frozenset[Need]:
        return self.metric.needs

    def solve(self, problem: LayerProblem) -> LayerSolution:
        keep, out = problem.choose(self.metric), problem.buffer
        if out is None:
            out = torch.empty_like(problem.weight)
        write_kept(problem.weight, keep, out)
        return LayerSolution(out, keep)


def solution(
    problem: LayerProblem, weight: Float[Tensor, "out in"], keep: Bool[Tensor, "out in"]
) -> LayerSolution:
    """A solver's answer in the dense weight's dtype, zeros made exact, its cost counted."""
    quadratic = problem.quadratic
    weight = weight.to(problem.weight.dtype).masked_fill(~keep, 0)
    cost = quadratic.cost(weight.float() - problem.weight.float())
    return LayerSolution(weight, keep, cost, quadratic.shared.damping, quadratic.shared.notes)
