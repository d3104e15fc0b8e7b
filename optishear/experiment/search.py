"""Run an experiment: search, keep the front, compare on held-out text. The same call resumes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optishear.allocation import RULES
from optishear.config import Experiment
from optishear.errors import ConfigError
from optishear.experiment.held_out import FOUND, baseline_recipes, compare
from optishear.experiment.levels import open_levels
from optishear.experiment.prepare import Calibrated, prepare, rules_of
from optishear.experiment.results import Entry, Front, Run, front_to_json
from optishear.experiment.watcher import Watcher
from optishear.objectives import make_objective
from optishear.pipeline import Memory, identity_of, measure_on
from optishear.records.journal import Journal, memo_of, refuse_second_writer
from optishear.records.manifest import now, provenance
from optishear.records.run_directory import RunDirectory, read_json, write_json
from optishear.report.figures import draw_figures
from optishear.search.driver import DriverSettings
from optishear.search.drivers import DRIVERS, check_genes, make_driver
from optishear.search.evaluator import Evaluator, minimised
from optishear.search.front import non_dominated
from optishear.search.ladder import Ladder
from optishear.search.loop import Found, run
from optishear.search.seeds import seed_genomes
from optishear.search.space import SearchSpace
from optishear.search.space_file import build_space
from optishear.solvers.methods import METHODS
from optishear.text.disjoint import refuse_shared_text
from optishear.text.tokens import TokenBatches, token_batches


SEEDED = ("wanda", "ria", "magnitude")


def search(experiment: Experiment, out: Path, watcher: Watcher) -> Run:
    """The finished run of this experiment under `out`; begun, resumed or found as it stands.

    Raises `ConfigError` for what the user can put right before anything is lost, `StorageError`
    when the disk gives out; what was measured until then is in the journal.
    """
    directory = RunDirectory(out / experiment.name / experiment.hash)
    if (manifest := _manifest(directory)).get("status") == "finished":
        watcher.stage(f"finished on {manifest['finished']}: nothing to do")
        return Run(directory)
    directory.create()
    refuse_second_writer(directory.journal)
    with _threads(experiment.threads):
        watcher.stage(f"loading {experiment.model}")
        texts = experiment.text_specs
        prepared = prepare(
            experiment.model,
            experiment.dtype,
            experiment.device,
            texts["calibration"],
            experiment.batch_tokens,
        )
        tokens = {
            purpose: token_batches(spec, prepared.loaded.tokenizer)
            for purpose, spec in texts.items()
            if purpose != "calibration"
        }
        refuse_shared_text({"calibration": prepared.calibration, **tokens})
        ladder = ladder_of(experiment, tokens["search"])
        watcher.stage("collecting statistics")
        calibrated = prepared.calibrate(
            experiment.needs, experiment.gradient_sequences, watcher.stage
        )
        watcher.stage("preparing the search space")
        space = build_space(experiment.space, calibrated.layout, rules_of(calibrated, RULES))
        check_genes(space.genes)
        _run(experiment, directory, calibrated, tokens, space, ladder, watcher)
    return Run(directory)


def _run(
    experiment: Experiment,
    directory: RunDirectory,
    calibrated: Calibrated,
    tokens: Mapping[str, TokenBatches],
    space: SearchSpace,
    ladder: Ladder,
    watcher: Watcher,
) -> None:
    identity = identity_of(
        calibrated.loaded,
        calibrated.layout,
        calibrated.calibration,
        tokens["search"],
        experiment.quantities,
        experiment.batch_tokens,
        experiment.gradient_sequences if experiment.needs_gradients else None,
        experiment.search.rungs,
        experiment.compile,
    )
    layers = list(calibrated.layout.sizes)
    with Journal(directory.journal, identity, layers) as journal:
        manifest = {
            "status": "running",
            "experiment": experiment.model_dump(mode="json"),
            "hash": experiment.hash,
            "started": now(),
            "measure": identity,
            **provenance(),
        }
        write_json(directory.layout, calibrated.layout.to_json())
        write_json(directory.manifest, manifest)
        memo = memo_of(directory.siblings(), identity, layers)
        watcher.stage("measuring the dense model")
        with measure_on(
            calibrated.loaded,
            calibrated.layout,
            calibrated.evidence,
            tokens["search"],
            experiment.quantities,
            experiment.batch_tokens,
            experiment.search.rungs,
            Memory(experiment.memory.ranks, experiment.memory.prefixes),
            open_levels(experiment, calibrated, space, watcher),
            watcher.stage,
            experiment.compile,
        ) as measure:
            evaluator = Evaluator(measure, journal, memo)
            found = _search(experiment, space, ladder, evaluator, watcher)
            front = front_of(experiment, calibrated, found)
            picked = front.pick().recipe
            recipes = baseline_recipes(
                experiment.baselines, picked, space.layers.pattern, calibrated
            )
            recipes[FOUND] = picked
            watcher.stage("measuring the baselines")
            top = ladder.rungs[-1]
            searched = {name: evaluator(recipe, top).values for name, recipe in recipes.items()}
        units = {name: make_objective(name).unit for name in experiment.objectives}
        write_json(directory.front, front_to_json(front, units))
        held = [text for purpose, text in tokens.items() if purpose.startswith("evaluation")]
        rows = compare(calibrated, recipes, held, experiment.batch_tokens, watcher)
        for row in rows:
            row["search"] = searched.get(row["name"])
        write_json(directory.evaluation, {"picked": picked.key, "rows": rows})
        watcher.stage("drawing figures")
        draw_figures(directory)
        write_json(directory.manifest, manifest | _ending(found, evaluator))


def _ending(found: Found, evaluator: Evaluator) -> dict[str, Any]:
    """What the manifest says of a finished run."""
    entries = evaluator.journal.entries.values()
    return {
        "status": "finished",
        "finished": now(),
        "ended": found.ended,
        "evaluations": found.asked,
        "failed": len(found.failed),
        "measured_now": evaluator.measured,
        "seconds": round(sum(entry["seconds"] for entry in entries), 1),
    }


def ladder_of(experiment: Experiment, search: TokenBatches) -> Ladder:
    """The experiment's rungs below all search tokens, climbed as its driver is made for."""
    settings = experiment.search
    rungs = (*settings.rungs, search.tokens.numel())
    if DRIVERS[settings.driver].staged:
        return Ladder(rungs, settings.keep, by_generation=True)
    return Ladder(rungs, settings.keep, least=settings.population)


def _search(
    experiment: Experiment,
    space: SearchSpace,
    ladder: Ladder,
    evaluator: Evaluator,
    watcher: Watcher,
) -> Found:
    settings = experiment.search
    maximise = [make_objective(name).maximise for name in experiment.objectives]
    driver = make_driver(
        settings.driver,
        DriverSettings(
            space.genes,
            len(experiment.objectives),
            settings.population,
            settings.seed,
            seed_genomes(space, [METHODS[name].metric for name in SEEDED]),
            exchangeable=space.exchangeable,
            gene_blocks=space.gene_blocks,
            gene_sizes=space.gene_sizes,
            variation=settings.variation,
        ),
    )
    watcher.stage("searching")
    return run(
        space,
        driver,
        evaluator,
        settings.evaluations,
        experiment.objectives,
        maximise,
        ladder,
        lambda found, evaluation: watcher.evaluated(found, evaluation, settings.evaluations),
    )


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
        # In the experiment's own order: a journal that was read back has another.
        tuple(
            Entry(e.recipe, {n: (e.values or {})[n] for n in experiment.quantities}) for e in chosen
        ),
        made_with(experiment, calibrated),
        calibrated.loaded.storage(calibrated.layout),
    )


def made_with(experiment: Experiment, calibrated: Calibrated) -> dict[str, Any]:
    """On what a recipe was found: enough for `optishear prune` to make the same masks again."""
    return {
        "model": experiment.model,
        "model_hash": calibrated.loaded.hash,
        "dtype": experiment.dtype,
        "calibration": {
            **experiment.text.calibration.model_dump(mode="json"),
            "seed": experiment.search.seed,
        },
        "calibration_hash": calibrated.calibration.hash,
        "run": experiment.hash,
    }


def _manifest(directory: RunDirectory) -> dict[str, Any]:
    return read_json(directory.manifest) if directory.manifest.exists() else {}


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
