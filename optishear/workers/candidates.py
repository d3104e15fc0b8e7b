"""Candidates measured by replicas: all that measuring takes, so that any process can do it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from optishear.models.load import LoadedModel
from optishear.objectives.own_data import OwnData
from optishear.pipeline import MeasureFunction, MeasurementSettings, Memory, measure_on
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.layout import ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.search.evaluator import MeasureAll, Outcome, outcome_of
from optishear.tasks import Batch, Samples
from optishear.workers.cluster import Cluster
from optishear.workers.pool import Call
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

    def measuring(self, notice: Callable[[str], None]) -> AbstractContextManager[MeasureFunction]:
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
    measure: MeasureFunction

    def outcome(self, recipe: Recipe, rung: int) -> Outcome:
        return outcome_of(self.measure, recipe, rung)


@contextmanager
def measuring_on(cluster: Cluster, job: Job) -> Iterator[MeasureAll]:
    """Measures candidates on the cluster's replicas while it is open."""
    with travelling(job.loaded) as loaded:
        payload = replace(job, loaded=loaded, data=job.data.to("cpu"))
        with cluster.pool(payload) as pool:

            def measure_all(recipes: Sequence[Recipe], rung: int) -> Iterator[tuple[str, Outcome]]:
                yield from pool.run([_call(recipe, rung) for recipe in recipes])

            yield measure_all


def _call(recipe: Recipe, rung: int) -> Call:
    """Where it has been on a lower rung it has begun already."""
    return Call(recipe.key, "outcome", (recipe, rung), f"recipe {recipe.key}", home=recipe.key)
