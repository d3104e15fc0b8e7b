"""A solver takes one layer and a count, and returns new weights. It knows no model."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optishear.calibration.statistics import LayerStats, Need
from optishear.kernels.selection import fits, write_without_lowest
from optishear.metrics import Metric
from optishear.recipe.pattern import Pattern
from optishear.solvers.masks import keep_highest
from optishear.solvers.quadratic import HeldBackError, Quadratic
from optishear.solvers.ranks import RankCache, write_kept


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """One layer, and everything that may be asked about it.

    - `weight`: what it should be if nothing were dropped: its dense weight, or the shifted target.
      Metrics score it, a mask keeps of it, and a change is a change of it.
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
        key = self._key(metric)
        return self.ranks.keep(key, self.drop, self.pattern, partial(self._scores, metric))

    def write_chosen(self, metric: Metric, out: Float[Tensor, "out in"]) -> Bool[Tensor, "out in"]:
        """What `choose` keeps; written to `out`, with +0.0 for the rest.

        One kernel scores, selects and writes where there is one for this device, metric and
        pattern. It reads the weight and no ranks; scores are checked the first time they come.
        """
        if self.given is None and fits(self.pattern, self.weight, out):
            scores = metric.separable(self.weight, self.stats)
            if scores is not None:
                self.pattern.cuts(self.weight.shape, self.drop)  # refuses an impossible count
                ranks, key = self.ranks, self._key(metric)
                check = ranks is None or not ranks.is_finite(key)
                keep = write_without_lowest(
                    self.weight, scores, self.drop, self.pattern, out, check
                )
                if ranks is not None:
                    ranks.note_finite(key)
                return keep
        keep = self.choose(metric)
        write_kept(self.weight, keep, out)
        return keep

    def _key(self, metric: Metric) -> str:
        return f"{self.name} {metric!r}"

    def _scores(self, metric: Metric) -> Float[Tensor, "out in"]:
        return metric.score(self.weight, self.stats)


@dataclass(frozen=True)
class LayerSolution:
    """`weight` is exactly zero wherever `keep` is False.

    - `cost`: of the change under the layer's quadratic; None where the solver
      never needed one.
    - `damping`: the relative damping that was used, None without a quadratic.
    - `tried`: by what it was chosen, if it was.
    - `notes`: what the user should know, for instance why damping was raised.
    """

    weight: Float[Tensor, "out in"]
    keep: Bool[Tensor, "out in"]
    cost: float | None = None
    damping: float | None = None
    notes: tuple[str, ...] = ()
    tried: tuple[HeldBackError, ...] = ()

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
        out = problem.buffer
        if out is None:
            out = torch.empty_like(problem.weight)
        return LayerSolution(out, problem.write_chosen(self.metric, out))


def solution(
    problem: LayerProblem, weight: Float[Tensor, "out in"], keep: Bool[Tensor, "out in"]
) -> LayerSolution:
    """A solver's answer in the problem's dtype, zeros made exact, its cost counted."""
    quadratic = problem.quadratic
    weight = weight.to(problem.weight.dtype).masked_fill(~keep, 0)
    cost = quadratic.cost(weight.float() - problem.weight.float())
    damping, notes = quadratic.damping, quadratic.notes
    return LayerSolution(weight, keep, cost, damping, notes, quadratic.tried)
