"""The setup before the first candidate: model, texts, statistics, space. `search` and `plan`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from optishear.allocation import rules_for
from optishear.calibration.origin import SEQUENTIAL
from optishear.config import Experiment
from optishear.models.load import LoadedModel
from optishear.objectives import make_objective
from optishear.objectives.own_data import OwnData, OwnDataObjective, Sources
from optishear.pipeline import MeasurementSettings, Memory, identity_of
from optishear.pruning.solved import SolvedLayers
from optishear.records.run_directory import RunDirectory, run_at
from optishear.runs.preconditions import text_for
from optishear.runs.prepare import Calibrated, prepare, rule_of
from optishear.runs.watcher import Watcher
from optishear.search.driver import Driver, DriverSettings
from optishear.search.drivers import check_genes, make_driver, make_ladder
from optishear.search.evaluator import MeasureAll, one_by_one
from optishear.search.ladder import Ladder
from optishear.search.seeds import seed_genomes
from optishear.search.space import SearchSpace
from optishear.search.space_file import build_space
from optishear.solvers.methods import METHODS
from optishear.solvers.ranks import rank_bytes
from optishear.tasks import Samples
from optishear.text.disjoint import refuse_shared_text
from optishear.text.questions import QuestionSet
from optishear.workers.calibration import collecting_on, gradients_on
from optishear.workers.candidates import Job, measuring_on
from optishear.workers.cluster import Cluster, Workers


SEEDED = ("wanda", "ria", "magnitude")


@dataclass(frozen=True, eq=False)
class Setup:
    """An experiment that was read, loaded and calibrated.

    - `samples`: by purpose, calibration's not among them.
    - `own`: data that quantities bring with them, by the quantity.
    - `cluster`: the workers that do what they can; None is this process alone.
    """

    experiment: Experiment
    calibrated: Calibrated
    samples: Mapping[str, Samples]
    ladder: Ladder
    space: SearchSpace
    cluster: Cluster | None = None
    own: Mapping[str, OwnData] = field(default_factory=dict)

    @property
    def held_out(self) -> list[Samples]:
        return [text for name, text in self.samples.items() if name.startswith("evaluation")]

    @property
    def layer_names(self) -> list[str]:
        return list(self.calibrated.layout.sizes)

    @property
    def measurement_settings(self) -> MeasurementSettings:
        return MeasurementSettings(
            self.experiment.quantities,
            self.experiment.batch_tokens,
            self.experiment.search.rungs,
            self.experiment.compile,
            self.experiment.cuda_graphs,
            self.experiment.mode,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What the run's journal belongs to."""
        experiment = self.experiment
        return identity_of(
            self.calibrated.loaded,
            self.calibrated.layout,
            self.calibrated.calibration,
            self.samples["search"],
            self.measurement_settings,
            experiment.gradient_sequences if experiment.needs_gradients else None,
            experiment.calibration_parts,
            self.own,
        )

    @property
    def seeds(self) -> Float[np.ndarray, "seeds genes"]:
        """The known methods that the first population opens with."""
        return seed_genomes(self.space, [METHODS[name].metric for name in SEEDED])

    def driver(self) -> Driver:
        """The experiment's driver, about to ask for its first generation."""
        settings, space = self.experiment.search, self.space
        return make_driver(
            settings.driver,
            DriverSettings(
                space.genes,
                len(self.experiment.objectives),
                settings.population,
                settings.seed,
                self.seeds,
                exchangeable=space.exchangeable,
                gene_blocks=space.gene_blocks,
                gene_sizes=space.gene_sizes,
                variation=settings.variation,
            ),
        )

    def job(self, solved: SolvedLayers | None) -> Job:
        """What measuring candidates needs; `solved` is the level database, if there is one."""
        memory, calibrated = self.experiment.memory, self.calibrated
        return Job(
            calibrated.loaded,
            calibrated.layout,
            calibrated.data,
            self.samples["search"],
            self.measurement_settings,
            Memory(memory.ranks, memory.prefixes, memory.factors),
            solved,
            self.own,
            calibrated.batches if self.experiment.mode == SEQUENTIAL else (),
        )

    @contextmanager
    def measuring(
        self, solved: SolvedLayers | None, notice: Callable[[str], None]
    ) -> Iterator[MeasureAll]:
        """What measures candidates while it is open: this process, or the experiment's workers."""
        job, limit = self.job(solved), self.experiment.memory.ranks
        if (least := rank_bytes(job.layout.layers, self.space.layers.patterns)) > limit > 0:
            notice(
                f"the ranks of one metric take {least / 1e6:,.0f} MB and memory.ranks is "
                f"{limit / 1e6:,.0f} MB: some layers find their thresholds anew each time"
            )
        if self.cluster is None:
            with job.measuring(notice) as measure:
                yield one_by_one(measure)
        else:
            with measuring_on(self.cluster, job) as measure_all:
                yield measure_all


def set_up(experiment: Experiment, watcher: Watcher, cluster: Cluster | None = None) -> Setup:
    """Loads, reads, checks and calibrates; the first mistake is a `ConfigError`."""
    questions = {name: QuestionSet.read(spec) for name, spec in experiment.question_specs.items()}
    watcher.stage(f"loading {experiment.model}")
    texts = experiment.text_specs
    prepared = prepare(
        experiment.model,
        experiment.dtype,
        experiment.device,
        texts["calibration"],
        experiment.batch_tokens,
        experiment.calibration_parts,
        experiment.device_map,
    )
    samples = {
        purpose: text_for(prepared.loaded, spec)
        for purpose, spec in texts.items()
        if purpose != "calibration"
    }
    refuse_shared_text({"calibration": prepared.calibration, **samples})
    ladder = ladder_of(experiment, samples["search"])
    own = own_data_of(experiment, prepared.loaded, questions)
    watcher.stage("collecting statistics")
    calibrated = prepared.calibrate(
        experiment.needs,
        experiment.gradient_sequences,
        watcher.stage,
        None if cluster is None else collecting_on(cluster, prepared.loaded, prepared.layout),
        None if cluster is None else gradients_on(cluster, prepared.loaded, prepared.layout),
    )
    watcher.stage("preparing the search space")
    space = space_of(experiment, calibrated)
    return Setup(experiment, calibrated, samples, ladder, space, cluster, own)


def own_data_of(
    experiment: Experiment, loaded: LoadedModel, questions: Mapping[str, QuestionSet]
) -> dict[str, OwnData]:
    """The data of each quantity that brings its own."""
    sources = Sources(questions, experiment.batch_tokens)
    made = {name: make_objective(name) for name in experiment.quantities}
    return {
        name: objective.load(loaded, sources)
        for name, objective in made.items()
        if isinstance(objective, OwnDataObjective)
    }


def ladder_of(experiment: Experiment, search: Samples) -> Ladder:
    """The experiment's rungs below all search samples, climbed as its driver is made for."""
    settings = experiment.search
    rungs = (*settings.rungs, search.units)
    return make_ladder(settings.driver, rungs, settings.keep, settings.population)


def space_of(experiment: Experiment, calibrated: Calibrated) -> SearchSpace:
    """The experiment's space on this model, its genes checked."""
    rules = {name: rule_of(calibrated, name) for name in rules_for(experiment.space.sparsity.by)}
    space = build_space(experiment.space, calibrated.layout, rules)
    check_genes(space.genes)
    return space


def directory_of(experiment: Experiment, out: Path) -> RunDirectory:
    """Where the experiment's run lies, packed or not, or would lie."""
    return run_at(out / experiment.name / experiment.hash)


def workers_of(experiment: Experiment) -> Workers:
    """How many there are, and how many threads each has."""
    e = experiment
    return Workers.of(e.workers, e.threads, e.device, e.ray_address)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """So many of torch's threads while it is open; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
