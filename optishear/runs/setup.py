"""The setup before the first candidate: model, texts, statistics, space. `search` and `plan`."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from optishear.allocation import rules_for
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.origin import SEQUENTIAL, Around
from optishear.config import Experiment
from optishear.models.load import LoadedModel
from optishear.objectives import make_objective
from optishear.objectives.own_data import OwnData, OwnDataObjective, Sources
from optishear.pipeline import MeasurementSettings, Memory, identity_of
from optishear.pruning.oneshot import prune
from optishear.pruning.solved import SolvedLayers
from optishear.records.run_directory import RunDirectory, run_at
from optishear.runs.preconditions import text_for
from optishear.runs.prepare import Calibrated, prepare, rule_of
from optishear.runs.watcher import Watcher
from optishear.search.curves import Curves, fixed_drop, gene_curves
from optishear.search.driver import Driver, DriverSettings
from optishear.search.drivers import check_genes, make_driver, make_ladder
from optishear.search.evaluator import Measuring
from optishear.search.genes import cleaned
from optishear.search.ladder import Ladder
from optishear.search.seeds import seed_genomes
from optishear.search.space import SearchSpace
from optishear.search.space_file import build_space
from optishear.solvers.methods import METHODS, needs_of
from optishear.solvers.ranks import rank_bytes
from optishear.tasks import Samples
from optishear.text.disjoint import refuse_shared_text
from optishear.text.questions import QuestionSet
from optishear.workers.calibration import collecting_on, gradients_on
from optishear.workers.candidates import Job, MeasuringHere, measuring_on
from optishear.workers.cluster import Cluster, Workers
from optishear.workers.layers import pruning_on


SEEDED = ("wanda", "ria", "magnitude")


@dataclass(frozen=True, eq=False)
class Starts:
    """What a search begins with.

    - `genomes`: of the first population, those that were solved for first.
    - `curves`: what each layer costs alone, where something asks for it.
    """

    genomes: Float[np.ndarray, "seeds genes"]
    curves: Curves | None = None


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

    def aside(self, quantity: str, tokens: int) -> "Setup":
        """The same with one quantity, on so many of the first search tokens (whole samples, one at
        least): a measure of its own, of what is no candidate."""
        search, experiment = self.samples["search"], self.experiment
        few = search.first(max(1, tokens // search.units_each))
        changes = {
            "objectives": (quantity,),
            "record": (),
            "search": experiment.search.model_copy(update={"rungs": ()}),
        }
        return replace(
            self,
            experiment=experiment.model_copy(update=changes),
            samples={**self.samples, "search": few},
            own={},
        )

    @property
    def by_block(self) -> "Setup":
        """The same with candidates pruned block by block, on all search samples and no fewer."""
        experiment = self.experiment
        changes = {
            "mode": SEQUENTIAL,
            "finalists": 0,
            "compile": False,
            "cuda_graphs": False,
            "search": experiment.search.model_copy(update={"rungs": ()}),
            "memory": experiment.memory.model_copy(update={"ranks": 0, "prefixes": 0}),
        }
        return replace(self, experiment=experiment.model_copy(update=changes))

    @property
    def identity(self) -> dict[str, Any]:
        """What the run's journal belongs to."""
        experiment, around = self.experiment, self.calibrated.around
        return identity_of(
            self.calibrated.loaded,
            self.calibrated.layout,
            self.calibrated.calibration,
            self.samples["search"],
            self.measurement_settings,
            experiment.gradient_sequences if experiment.needs_gradients else None,
            experiment.calibration_parts,
            self.own,
            "" if around is None or experiment.mode == SEQUENTIAL else around.text,
        )

    @property
    def seeds(self) -> Float[np.ndarray, "seeds genes"]:
        """The known methods that the first population opens with."""
        return self._known(self.experiment.search.seeds)

    @property
    def unsolved(self) -> Starts:
        """What the search would begin with if nothing were solved for, and every layer cost alone
        what it loses: enough to try a driver."""
        if not self.experiment.needs_curves:
            return Starts(self.seeds)
        points = {
            name: tuple((count, count / size) for count in {max(1, size // 2), size})
            for name, size in self.calibrated.layout.sizes.items()
        }
        return Starts(self.seeds, Curves({n: tuple(sorted(p)) for n, p in points.items()}))

    @property
    def base(self) -> Float[np.ndarray, " genes"]:
        """What solved seeds have beside their sparsities: the first known method, uniform, or the
        middle of a space that has none."""
        known = self._known(("methods",))
        if len(known):
            return known[0]
        middle = np.array([(gene.low + gene.high) / 2 for gene in self.space.genes])
        return cleaned(self.space.genes, middle)

    def _known(self, kinds: Collection[str]) -> Float[np.ndarray, "seeds genes"]:
        return seed_genomes(self.space, [METHODS[name].metric for name in SEEDED], kinds)

    def driver(self, starts: Starts) -> Driver:
        """The experiment's driver, about to ask for its first generation."""
        settings, space = self.experiment.search, self.space
        return make_driver(
            settings.driver,
            DriverSettings(
                space.genes,
                len(self.experiment.objectives),
                settings.population,
                settings.seed,
                starts.genomes,
                exchangeable=space.exchangeable,
                gene_blocks=space.gene_blocks,
                gene_sizes=space.gene_sizes,
                variation=settings.variation,
                curves=None if starts.curves is None else gene_curves(space, starts.curves),
                budget=None if space.budget is None else space.budget - fixed_drop(space),
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
    ) -> Iterator[Measuring]:
        """What measures candidates while it is open: this process, or the experiment's workers."""
        job, limit = self.job(solved), self.experiment.memory.ranks
        if (least := rank_bytes(job.layout.layers, self.space.layers.patterns)) > limit > 0:
            notice(
                f"the ranks of one metric take {least / 1e6:,.0f} MB and memory.ranks is "
                f"{limit / 1e6:,.0f} MB: some layers find their thresholds anew each time"
            )
        if self.cluster is None:
            with job.measuring(notice) as measure:
                yield MeasuringHere(measure)
        else:
            with measuring_on(self.cluster, job) as measuring:
                yield measuring


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
        around=around_of(experiment),
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
        prune_layers=prune if cluster is None else pruning_on(cluster),
    )
    watcher.stage("preparing the search space")
    space = space_of(experiment, calibrated)
    return Setup(experiment, calibrated, samples, ladder, space, cluster, own)


def around_of(experiment: Experiment) -> Around | None:
    """What the experiment searches around, if it does."""
    if (recipe := experiment.around_recipe) is None:
        return None
    reads = LayerGradients in needs_of(recipe)
    return Around(recipe, experiment.gradient_sequences if reads else None)


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
