"""Candidates measured by replicas: all that measuring takes, so that any process can do it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from optishear.models.load import LoadedModel
from optishear.objectives import make_objective
from optishear.objectives.base import Summed
from optishear.objectives.own_data import OwnData
from optishear.objectives.slopes import slopes_of
from optishear.pipeline import Measure, MeasurementSettings, Memory, measure_on
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.search.evaluator import (
    Counts,
    Measuring,
    Outcome,
    one_by_one,
    outcome_of,
    tried,
)
from optishear.tasks import Batch, Samples
from optishear.workers.cluster import Cluster
from optishear.workers.pool import Call, Pool
from optishear.workers.replica import Payload, sent, travelling


@dataclass(frozen=True, eq=False)
class Job(Payload):
    """A dense model with its statistics and the search samples; the other fields are those of
    `pipeline.measure_on`."""

    loaded: LoadedModel
    layout: ModelLayout
    data: CalibrationData
    search: Samples
    by: MeasurementSettings
    memory: Memory = field(default_factory=Memory)
    solved: SolvedLayers | None = None
    own: Mapping[str, OwnData] = field(default_factory=dict)
    calibration: Sequence[Batch] = ()

    def measuring(self, notice: Callable[[str], None]) -> AbstractContextManager[Measure]:
        """What measures candidates in this process while it is open."""
        return measure_on(
            self.loaded,
            self.layout,
            self.data,
            self.search,
            self.by,
            self.memory,
            self.solved,
            notice,
            self.own,
            self.calibration,
        )

    def begin(self, stack: ExitStack, device: str, notice: Callable[[str], None]) -> "_Measurer":
        here = replace(self, loaded=sent(self.loaded, device), data=self.data.to(device))
        return _Measurer(stack.enter_context(here.measuring(notice)))


@dataclass(frozen=True)
class _Measurer:
    measure: Measure

    def outcome(self, recipe: Recipe, rung: int) -> Outcome:
        return outcome_of(self.measure, recipe, rung)

    def slope_parts(
        self, objective: str, recipe: Recipe, rung: int, counts: Counts, part: int, of: int
    ) -> Outcome:
        """A part of the batches, for `slope_outcome`."""

        def found() -> Outcome:
            return {"parts": self.measure.slope_parts(objective, recipe, rung, counts, part, of)}

        return tried(found)


def slope_outcome(objective: str, layers: Sequence[str], outcomes: Sequence[Outcome]) -> Outcome:
    """What parts come to: the objective's value, slopes in layout order; a failure if one is."""
    seconds = sum(outcome["seconds"] for outcome in outcomes)
    if reasons := [outcome["reason"] for outcome in outcomes if outcome["reason"]]:
        return {"values": None, "reason": reasons[0], "seconds": seconds}
    made, parts = make_objective(objective), [x for outcome in outcomes for x in outcome["parts"]]
    assert isinstance(made, Summed)

    def found() -> Outcome:
        value, slopes = slopes_of(made, parts, layers)
        return {"values": {objective: value}, "slopes": [slopes[name] for name in layers]}

    return {**tried(found), "seconds": round(seconds, 4)}


@dataclass(frozen=True)
class MeasuringHere(Measuring):
    """In this process, one after the other."""

    measure: Measure

    def __call__(self, recipes: Sequence[Recipe], rung: int) -> Iterator[tuple[str, Outcome]]:
        return one_by_one(self.measure)(recipes, rung)

    def slopes(
        self, objective: str, asked: Sequence[tuple[Recipe, Counts]], rung: int
    ) -> Iterator[tuple[str, Outcome]]:
        measurer = _Measurer(self.measure)
        for recipe, counts in asked:
            found = measurer.slope_parts(objective, recipe, rung, counts, 0, 1)
            yield recipe.key, slope_outcome(objective, list(recipe.drop), [found])


@dataclass(frozen=True)
class MeasuringThere(Measuring):
    """On a pool's replicas: a recipe each, and slopes of one recipe by batches, all of them."""

    pool: Pool

    def __call__(self, recipes: Sequence[Recipe], rung: int) -> Iterator[tuple[str, Outcome]]:
        yield from self.pool.run([_call(recipe, rung) for recipe in recipes])

    def slopes(
        self, objective: str, asked: Sequence[tuple[Recipe, Counts]], rung: int
    ) -> Iterator[tuple[str, Outcome]]:
        number = self.pool.number
        for recipe, counts in asked:
            calls = [
                Call(
                    str(part),
                    "slope_parts",
                    (objective, recipe, rung, counts, part, number),
                    f"slopes of recipe {recipe.key}",
                )
                for part in range(number)
            ]
            done = dict(self.pool.run(calls))
            found = [done[call.key] for call in calls]  # whichever was done first
            yield recipe.key, slope_outcome(objective, list(recipe.drop), found)


@contextmanager
def measuring_on(cluster: Cluster, job: Job) -> Iterator[Measuring]:
    """Measures candidates on the cluster's replicas while it is open."""
    with travelling(job.loaded) as loaded:
        payload = replace(job, loaded=loaded, data=job.data.to("cpu"))
        with cluster.pool(payload) as pool:
            yield MeasuringThere(pool)


def _call(recipe: Recipe, rung: int) -> Call:
    """Where it has been on a lower rung it has begun already."""
    return Call(recipe.key, "outcome", (recipe, rung), f"recipe {recipe.key}", home=recipe.key)
