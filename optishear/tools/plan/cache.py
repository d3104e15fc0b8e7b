"""The cache in a plan: what it holds of a search's preparations; what it lacks is made, timed."""

from collections.abc import Callable
from dataclasses import dataclass

from optishear.allocation import rules_for
from optishear.calibration.gradient_file import gradient_bytes
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import statistics_bytes, summed
from optishear.runs.keys import gradients_key, rule_key
from optishear.runs.prepare import Calibrated
from optishear.runs.setup import Setup, space_of
from optishear.search.space import SearchSpace
from optishear.tools.plan.footprint import bytes_at


THERE, MADE, NEVER = "was there", "made by this plan", "too large to keep: made for each search"


@dataclass(frozen=True)
class Cached:
    """One preparation: how large, its `state` when the plan came, and the seconds it took now,
    to read where it was there."""

    what: str
    bytes: int
    state: str
    seconds: float

    @property
    def paid(self) -> bool:
        """Whether the search will only have to read it."""
        return self.state == MADE


def calibrated_now(
    setup: Setup, notice: Callable[[str], None], clock: Callable[[], float]
) -> tuple[Calibrated, list[Cached]]:
    """The same setup's model with gradients and statistics, in the order of their size."""
    experiment, prepared, layout = setup.experiment, setup.calibrated, setup.calibrated.layout
    needs, samples = experiment.needs, experiment.gradient_sequences
    found = []
    if LayerGradients in needs:
        taken = min(samples, len(prepared.calibration))
        place = gradients_key(prepared, samples).path
        state = THERE if place.exists() else MADE
        start = clock()
        prepared.calibrate(frozenset({LayerGradients}), samples, notice)
        size = bytes_at(place) or gradient_bytes(layout, taken)
        found.append(Cached(f"gradients of {taken} sequences", size, state, clock() - start))
    kept = prepared.statistics_file(summed(needs))
    state = NEVER if kept is None else THERE if kept.exists() else MADE
    start = clock()
    calibrated = prepared.calibrate(needs, samples, notice)
    size = statistics_bytes(layout, needs) if kept is None else bytes_at(kept)
    return calibrated, [*found, Cached("calibration statistics", size, state, clock() - start)]


def spaced_now(
    setup: Setup, calibrated: Calibrated, clock: Callable[[], float]
) -> tuple[SearchSpace, Cached]:
    """The search space with the published rules' profiles."""
    places = [
        rule_key(calibrated, name).path for name in rules_for(setup.experiment.space.sparsity.by)
    ]
    state = THERE if all(place.exists() for place in places) else MADE
    start = clock()
    space = space_of(setup.experiment, calibrated)
    size = sum(map(bytes_at, places))
    return space, Cached("rules for layer sparsities", size, state, clock() - start)
