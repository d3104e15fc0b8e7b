"""The run of an experiment: search, front, held-out comparison. The same call resumes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optishear.calibration.origin import ONE_SHOT, SEQUENTIAL, Origin
from optishear.config import Experiment
from optishear.errors import ConfigError
from optishear.objectives import make_objective
from optishear.pruning.oneshot import prune
from optishear.recipe.recipe import Recipe
from optishear.records.cache import code_of
from optishear.records.journal import Journal, memo_of, refuse_second_writer
from optishear.records.manifest import now, provenance
from optishear.records.output import file_for, folder_for
from optishear.records.run_directory import RunDirectory, write_json
from optishear.report.comparison import name_of
from optishear.report.figures import draw_figures
from optishear.runs.final_choice import final_choice
from optishear.runs.held_out import FOUND, baseline_recipes, compare
from optishear.runs.inputs import inputs_of, refuse_changed_inputs
from optishear.runs.levels import open_levels
from optishear.runs.prepare import Calibrated
from optishear.runs.results import Entry, Front, Run, finished, front_to_json
from optishear.runs.search_costs import search_tokens, seconds
from optishear.runs.setup import (
    Setup,
    directory_of,
    set_up,
    threads,
    workers_of,
)
from optishear.runs.starts import slopes_of_recipes, starts_of
from optishear.runs.watcher import Watcher
from optishear.search.driver import Driver
from optishear.search.evaluator import Evaluator, Outcome, minimised
from optishear.search.front import non_dominated
from optishear.search.loop import Found, SlopesOf, run
from optishear.workers.cluster import cluster
from optishear.workers.layers import pruning_on


if TYPE_CHECKING:
    from optishear.search.shared_study import SharedStudy


def search(experiment: Experiment, out: Path, watcher: Watcher, study: str = "") -> Run:
    """The finished run of this experiment under `out`; begun, resumed or found as it stands.

    `study`: a storage of Optuna's (a database's URL, or a file) through which several processes,
    each with an `out` of its own, search together; see `search.shared_study`.

    Raises `ConfigError` for what the user can put right before anything is lost, a finished run of
    other files than are there now among it; `StorageError` when the disk gives out. What was
    measured until then is in the journal.
    """
    directory = directory_of(experiment, out)
    manifest, damage = finished(directory)
    if manifest is not None:
        unknown = refuse_changed_inputs(directory, manifest, experiment)
        older = _older_code(manifest)
        watcher.stage(f"finished on {manifest['finished']}: nothing to do{unknown}{older}")
        return Run(directory)
    if damage:
        watcher.stage(f"{damage} It is written anew, from the journal where there is one")
    code = provenance()  # before anything that takes long
    shared = Path(study) if study and "://" not in study else None
    with folder_for(directory.path, "--out"), file_for(shared, "--study"):
        refuse_second_writer(directory.journal)
        workers = workers_of(experiment)
        with threads(workers.threads), cluster(workers, watcher.stage) as running:
            _run(set_up(experiment, watcher, running), directory, watcher, study, code)
    return Run(directory)


def _older_code(manifest: Mapping[str, Any]) -> str:
    """What to say of a finished run that other code made: it stays what it is, but is no news."""
    made, now = manifest["measure"].get("code", "of an older version"), code_of("measure")
    if made == now:
        return ""
    return f"; the code that measured it was {made} and is now {now}: another --out measures anew"


def _run(
    setup: Setup,
    directory: RunDirectory,
    watcher: Watcher,
    study: str,
    code: Mapping[str, Any],
) -> None:
    experiment, calibrated, space = setup.experiment, setup.calibrated, setup.space
    identity, layers = setup.identity, setup.layer_names
    shared = shared_study(study, experiment, identity) if study else None
    with Journal(directory.journal, identity, layers) as journal:
        manifest = {
            "status": "running",
            "experiment": experiment.model_dump(mode="json"),
            "hash": experiment.hash,
            "rungs": list(setup.ladder.rungs),
            "started": now(),
            "measure": identity,
            "inputs": inputs_of(experiment),
            "coverage": asdict(calibrated.coverage),
            **code,
        }
        write_json(directory.layout, calibrated.layout.to_json())
        write_json(directory.manifest, manifest)
        memo = memo_of(directory.siblings(), identity, layers)
        watcher.stage("measuring the dense model")
        solved = open_levels(experiment, calibrated, space, watcher, setup.cluster)
        told = shared.publishing if shared is not None else lambda measure: measure
        starts = starts_of(setup, solved, directory, watcher)
        with ExitStack() as open_now:
            measuring = open_now.enter_context(setup.measuring(solved, watcher.stage))
            measure = told(measuring)
            evaluator = Evaluator(measure, journal, memo if shared is None else shared)
            evaluators = [evaluator]
            with slopes_of_recipes(setup, measuring, directory) as slopes:
                found = _search(setup, setup.driver(starts), evaluator, slopes, watcher, shared)
            front = front_of(experiment, calibrated, found)
            if experiment.finalists:
                open_now.close()  # one measures at a time: all write into the model's weights
                evaluator.measure = _closed
                del measuring, measure, slopes  # and with them ranks, prefixes, dense answers
                front, by_block = final_choice(setup, front, found, directory, watcher)
                evaluators.append(by_block)
                measure = told(open_now.enter_context(setup.measuring(solved, watcher.stage)))
                evaluator.measure = measure
            picked = front.pick().recipe
            recipes = baseline_recipes(
                experiment.baselines, picked, space.layers.patterns, calibrated
            )
            recipes[FOUND] = picked
            watcher.stage("measuring the baselines")
            top = setup.ladder.rungs[-1]
            # What only block by block has a meaning is compared on held-out text alone.
            by_block, around = experiment.mode == SEQUENTIAL, calibrated.data.around
            asked = [
                recipe
                for recipe in recipes.values()
                if by_block or not recipe.only_by_block(around)
            ]
            measured = {e.recipe.key: e.values for e in evaluator(asked, top)}
            searched = {name: measured.get(recipe.key) for name, recipe in recipes.items()}
        units = {name: make_objective(name).unit for name in experiment.objectives}
        write_json(directory.front, front_to_json(front, units))
        rows = compare(
            calibrated,
            recipes,
            setup.held_out,
            experiment.batch_tokens,
            watcher,
            prune if setup.cluster is None else pruning_on(setup.cluster),
            (SEQUENTIAL,) if experiment.mode == SEQUENTIAL else (ONE_SHOT, SEQUENTIAL),
        )
        for row in rows:
            own = row["mode"] == experiment.mode
            row["search"] = searched.get(name_of(row)) if own else None
        write_json(directory.evaluation, {"picked": picked.key, "rows": rows})
        watcher.stage("drawing figures")
        draw_figures(directory)
        ending = _ending(found, evaluators, directory)
        write_json(directory.manifest, manifest | ending)


def shared_study(place: str, experiment: Experiment, measure: Mapping[str, Any]) -> "SharedStudy":
    """The study of this experiment in that storage, made if nobody has yet."""
    from optishear.report.optuna_mirror import open_storage
    from optishear.search.shared_study import SharedStudy

    if experiment.search.rungs:
        raise ConfigError(
            "--study: search.rungs are not climbed together, since nobody has all candidates. "
            "Leave the rungs out, or use --workers."
        )
    name = f"{experiment.name} {experiment.hash}"
    objectives, most = len(experiment.objectives), experiment.search.evaluations
    return SharedStudy(open_storage(place), name, objectives, measure, most)


def _closed(recipes: Sequence[Recipe], rung: int) -> Iterator[tuple[str, Outcome]]:
    """Stands where nothing is open, so that what has measured lets go of its memory."""
    raise AssertionError("Nothing is open that could measure.")


def _ending(
    found: Found, evaluators: Sequence[Evaluator], directory: RunDirectory
) -> dict[str, Any]:
    """What the manifest says of a finished run."""
    return {
        "status": "finished",
        "finished": now(),
        "ended": found.ended,
        "evaluations": found.asked,
        "failed": len(found.failed),
        "search_tokens": search_tokens(found, directory),
        "measured_now": sum(one.measured for one in evaluators),
        "seconds": seconds(evaluators, directory),
    }


def _search(
    setup: Setup,
    driver: Driver,
    evaluator: Evaluator,
    slopes: SlopesOf | None,
    watcher: Watcher,
    shared: "SharedStudy | None",
) -> Found:
    experiment = setup.experiment
    maximise = [make_objective(name).maximise for name in experiment.objectives]
    if shared is not None:
        shared.join(driver)
    watcher.stage("searching")
    most = experiment.search.evaluations
    found = run(
        setup.space,
        driver,
        evaluator,
        most,
        experiment.objectives,
        maximise,
        setup.ladder,
        lambda found, evaluation: watcher.evaluated(found, evaluation, most),
        slopes,
    )
    if shared is not None:
        [(rung, mine)] = found.rungs.items()
        others = [recipe for recipe in shared.recipes(rung) if recipe.key not in mine]
        mine.update((e.recipe.key, e) for e in evaluator(others, rung))
        found.ended = f"the shared study holds {len(shared)} recipes"
    return found


def front_of(experiment: Experiment, calibrated: Calibrated, found: Found) -> Front:
    """The non-dominated recipes of what was found, ordered by the first objective."""
    maximise = {name: make_objective(name).maximise for name in experiment.objectives}
    if not found.good:
        reason = next((e.reason for e in found.failed), "none was asked for")
        raise ConfigError(
            f"None of {found.asked} candidates was measured on all search tokens without failing, "
            f"so there is no front. The first failure: {reason}"
        )
    values = np.array(minimised(found.good, list(maximise), list(maximise.values())))
    chosen = [found.good[index] for index in non_dominated(values)]
    chosen.sort(key=lambda e: [(e.values or {})[name] for name in maximise])
    return Front(
        experiment.name,
        maximise,
        experiment.pick,
        calibrated.layout,
        # In the experiment's own order: a journal has another.
        tuple(
            Entry(e.recipe, {n: (e.values or {})[n] for n in experiment.quantities}) for e in chosen
        ),
        origin_of(experiment, calibrated),
        calibrated.loaded.storage(calibrated.layout),
    )


def origin_of(experiment: Experiment, calibrated: Calibrated) -> Origin:
    """On what a recipe was found: enough for `optishear prune` to make the same masks again."""
    samples = experiment.gradient_sequences if experiment.needs_gradients else None
    text = experiment.text_specs["calibration"]
    return replace(calibrated.origin(text, experiment.mode, samples), run=experiment.hash)
