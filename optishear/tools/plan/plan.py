"""What a search will cost, and every reason why it would be refused, before hours are spent.

Nothing is written where runs are kept. The cache is filled with what the search will need, too.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from optishear.config import Experiment, load_experiment
from optishear.errors import ConfigErrors
from optishear.records.cache import cache_dir
from optishear.records.output import refuse_unwritable
from optishear.records.run_directory import RunDirectory
from optishear.runs.setup import Setup, directory_of, threads, workers_of
from optishear.runs.watcher import Watcher
from optishear.tools.plan.cache import Cached, calibrated_now, spaced_now
from optishear.tools.plan.checks import CheckResults, Findings, run_checks
from optishear.tools.plan.costs import Step
from optishear.tools.plan.facts import (
    ModelFacts,
    RunFacts,
    SpaceFacts,
    answered,
    counted,
    model_facts,
    run_facts,
    space_facts,
)
from optishear.tools.plan.footprint import (
    Held,
    Room,
    dense_bytes,
    disk_rooms,
    memory_advice,
    memory_of,
    memory_room,
    over_limit,
)
from optishear.tools.plan.levels import Levels, planned_levels
from optishear.tools.plan.time import Times, times_of


@dataclass(frozen=True)
class Plan:
    """All that is known of a search before it begins; None or empty is what could not be said."""

    experiment: str
    cache: str
    findings: Findings
    hash: str | None = None
    run: RunFacts | None = None
    model: ModelFacts | None = None
    space: SpaceFacts | None = None
    cached: tuple[Cached, ...] = ()
    levels: Levels | None = None
    memory: tuple[Held, ...] = ()
    rooms: tuple[Room, ...] = ()
    times: Times | None = None

    @property
    def finished(self) -> bool:
        return self.run is not None and self.run.status == "finished"

    def to_json(self) -> dict[str, Any]:
        space = self.space
        return {
            "experiment": self.experiment,
            "hash": self.hash,
            "cache": self.cache,
            "run": None if self.run is None else {**asdict(self.run), "known": self.run.known},
            "model": None if self.model is None else asdict(self.model),
            "space": None
            if space is None
            else {**asdict(space), "seeds": [recipe.to_json() for recipe in space.seeds]},
            "cached": [asdict(item) for item in self.cached],
            "levels": None if self.levels is None else self.levels.to_json(),
            "memory": [asdict(item) for item in self.memory],
            "rooms": [{**asdict(room), "fits": room.fits} for room in self.rooms],
            "time": None if self.times is None else self.times.to_json(),
            "findings": asdict(self.findings),
        }


def plan(
    name: str,
    settings: Sequence[str],
    out: Path,
    watcher: Watcher,
    clock: Callable[[], float] = time.monotonic,
    begun: float = 0.0,
) -> Plan:
    """Loads, checks and calibrates as a search of these arguments would, and measures a little.

    What a user can act on is not raised but stands in `findings`. `begun`: seconds since this
    process was started, as the search's will be; 0 is not counted.
    """
    found = Findings()
    known = Plan(name, str(cache_dir()), found)
    experiment = found.of(lambda: _read(name, settings, found))
    if experiment is None:
        return known
    directory = directory_of(experiment, out)
    run = found.of(lambda: run_facts(directory, experiment))
    known = replace(known, experiment=experiment.name, hash=experiment.hash, run=run)
    if known.finished:
        return known
    found.of(lambda: refuse_unwritable(directory.path, "--out"))
    with threads(workers_of(experiment).threads):
        python = psutil.Process().memory_info().rss
        looked = run_checks(experiment, directory, found, watcher.stage, clock)
        known, setup = _described(known, looked, directory, python)
        if setup is None:
            return known
        if found.refused:
            found.unchecked.append("what it would take: a search that is refused is not measured")
            return known
        seconds = {"starting Python": begun} if begun else {}
        return _measured(known, setup, seconds | looked.seconds, directory, watcher, clock)


def _read(name: str, settings: Sequence[str], found: Findings) -> Experiment:
    try:
        return load_experiment(name, settings)
    except ConfigErrors as error:
        found.unchecked.extend([*error.unchecked, "model, texts, search space and costs"])
        raise


def _described(
    known: Plan, results: CheckResults, directory: RunDirectory, python: int
) -> tuple[Plan, Setup | None]:
    """What follows from sizes alone. `python`: bytes that the process had before the model."""
    found, setup, run = known.findings, results.setup, known.run
    if results.prepared is not None:
        known = replace(known, model=model_facts(results.prepared))
        found.warn(results.prepared.coverage.warning)
    if setup is None:
        return known, None
    if run is not None:
        run = found.of(partial(counted, run, directory, setup))
    python = max(python, psutil.Process().memory_info().rss - dense_bytes(setup))
    held = tuple(memory_of(setup, python))
    room = memory_room(setup, held)
    found.warn(room.warning(memory_advice(held, setup.experiment.memory)))
    space = space_facts(setup, seeded=False)
    return replace(known, run=run, space=space, memory=held, rooms=(room,)), setup


def _measured(
    known: Plan,
    rough: Setup,
    seconds: Mapping[str, float],
    directory: RunDirectory,
    watcher: Watcher,
    clock: Callable[[], float],
) -> Plan:
    """With statistics, and a dry run. `seconds`: of the stages up to now."""
    found = known.findings

    with found.collecting():
        watcher.stage("collecting statistics")
        calibrated, cached = calibrated_now(rough, watcher.stage, clock)
        watcher.stage("preparing the search space")
        space, rules = spaced_now(rough, calibrated, clock)
        setup = replace(rough, calibrated=calibrated, space=space)
        known = replace(known, cached=(*cached, rules), space=space_facts(setup))
        run = known.run
        if run is not None:
            run = replace(run, answered=answered(directory, setup))
            known = replace(known, run=run)
        levels = planned_levels(setup)
        before = [Step(what, took, "measured now") for what, took in seconds.items()]
        before += [Step(c.what, c.seconds, c.state, done=c.paid) for c in known.cached]
        remembered = {} if run is None else run.known
        times = times_of(setup, levels, remembered, before, watcher.stage, found.warn, clock)
        disks = disk_rooms(setup, levels, times.run.line_bytes, directory)
        for room, advice in disks:
            found.warn(room.warning(advice))
        found.warn(over_limit(setup, levels))
        for why in times.failures:
            found.warn(f"A dry-run candidate failed: {why}")
        rooms = (*known.rooms, *(room for room, _ in disks))
        return replace(known, levels=levels, rooms=rooms, times=times)
    found.unchecked.append("what it would take: see the reason above")
    return known
