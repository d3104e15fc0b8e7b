"""Checks before a search's first candidate, all at once, in the search's own words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import TypeVar

from optishear.allocation import rules_for
from optishear.calibration.statistics import unread
from optishear.config import Experiment
from optishear.errors import StorageError, collect_errors
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.pipeline import cut
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.layout import ModelLayout
from optishear.recipe.profile import Rule
from optishear.records.journal import refuse_second_writer
from optishear.records.manifest import provenance
from optishear.records.run_directory import RunDirectory
from optishear.runs.held_out import baseline_recipes
from optishear.runs.preconditions import OF_A_TEXT, beyond_context, without_bos
from optishear.runs.prepare import Calibrated, Prepared
from optishear.runs.setup import Setup, around_of, ladder_of, own_data_of
from optishear.search.drivers import check_genes
from optishear.search.ladder import Ladder
from optishear.search.space import SearchSpace
from optishear.search.space_file import build_space
from optishear.tasks import Samples
from optishear.text.disjoint import refuse_shared_text
from optishear.text.questions import QuestionSet
from optishear.text.tokens import TokenBatches, token_batches


T = TypeVar("T")


@dataclass(frozen=True)
class Findings:
    """What is wrong, in the order in which it was found.

    - `mistakes`: the search would be refused, with this sentence.
    - `failures`: it would fail, for want of a disk.
    - `warnings`: it would run, but perhaps not to its end, or not as meant.
    - `unchecked`: what could not be looked at, and why.
    """

    mistakes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return bool(self.mistakes or self.failures)

    def warn(self, text: str | None) -> None:
        """None is nothing to warn of."""
        if text is not None:
            self.warnings.append(text)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Errors that a user can act on are written down, and the next thing is looked at."""
        try:
            with collect_errors(self.mistakes):
                yield
        except StorageError as error:
            self.failures.append(str(error))

    def of(self, make: Callable[[], T]) -> T | None:
        """What it makes, or None where that is an error that was written down."""
        with self.collecting():
            return make()
        return None


@dataclass(frozen=True, eq=False)
class CheckResults:
    """How far an experiment came. `setup` has no statistics yet, and so the published rules for
    layer sparsities stand in for each other in it; None where something is wrong."""

    prepared: Prepared | None = None
    setup: Setup | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def run_checks(
    experiment: Experiment,
    directory: RunDirectory,
    found: Findings,
    stage: Callable[[str], None],
    clock: Callable[[], float],
) -> CheckResults:
    """Goes through what a search does before it calibrates; each thing is looked at if what it
    needs is sound. `seconds` are those of its stages."""
    found.of(provenance)
    questions = {
        name: found.of(partial(QuestionSet.read, spec))
        for name, spec in experiment.question_specs.items()
    }
    if directory.journal.with_suffix(".lock").exists():  # asking would make it, and its folder
        found.of(lambda: refuse_second_writer(directory.journal))
    stage(f"loading {experiment.model}")
    start = clock()
    loaded = found.of(
        lambda: load(
            experiment.model,
            dtype=experiment.dtype,
            device=experiment.device,
            device_map=experiment.device_map,
        )
    )
    if loaded is None:
        found.unchecked.append("texts, search space and costs, without a model")
        return CheckResults()
    layout = found.of(lambda: layout_of(loaded.model))
    loading, start = clock() - start, clock()
    stage("reading texts")
    samples: dict[str, TokenBatches] = {}
    for purpose, spec in experiment.text_specs.items():
        with found.collecting():
            text, before = token_batches(spec, loaded.tokenizer), len(found.mistakes)
            found.warn(beyond_context(loaded, text))
            found.warn(without_bos(loaded, spec))
            for holds in OF_A_TEXT:
                with found.collecting():
                    holds(loaded, text)
            if len(found.mistakes) == before:
                samples[purpose] = text
    for pair in combinations(samples.items(), 2):
        with found.collecting():
            refuse_shared_text(dict(pair))
    seconds = {"loading the model": loading, "reading texts": clock() - start}
    search, calibration = samples.get("search"), samples.pop("calibration", None)
    ladder = None if search is None else found.of(lambda: _ladder(experiment, search))
    if layout is None:
        found.unchecked.append("search space and costs, without prunable layers")
        return CheckResults(seconds=seconds)
    space = found.of(lambda: _space(experiment, layout))
    prepared, around = None, around_of(experiment)
    if around is not None:
        with found.collecting():
            around.check(layout)
    if calibration is not None:
        parts = experiment.calibration_parts
        prepared = Prepared(
            loaded, layout, calibration, experiment.batch_tokens, parts, around=around
        )
    if prepared is None or ladder is None or space is None:
        missing = {"calibration text": prepared, "rungs": ladder, "search space": space}
        wrong = ", ".join(name for name, part in missing.items() if part is None)
        found.unchecked.append(f"seeds, driver and costs, without {wrong}")
        return CheckResults(prepared, seconds=seconds)
    calibrated = Calibrated(
        loaded,
        layout,
        prepared.calibration,
        prepared.batch_tokens,
        prepared.parts,
        around=around,
        data=CalibrationData(unread(layout.layers), around=around is not None),
    )
    asked = {name: each for name, each in questions.items() if each is not None}
    own = None
    if len(asked) == len(questions):
        own = found.of(lambda: own_data_of(experiment, loaded, asked))
    if own is None:
        found.unchecked.append("driver and costs, without the questions")
        return CheckResults(prepared, seconds=seconds)
    setup = Setup(experiment, calibrated, samples, ladder, space, own=own)
    start = clock()
    found.of(lambda: _first_questions(setup))
    seconds["making the driver"] = clock() - start
    return CheckResults(prepared, setup, seconds)


def _ladder(experiment: Experiment, search: Samples) -> Ladder:
    """With the batches that its rungs make of the search samples."""
    ladder = ladder_of(experiment, search)
    cut(search, experiment.search.rungs, experiment.batch_tokens)
    return ladder


def _space(experiment: Experiment, layout: ModelLayout) -> SearchSpace:
    """The space, the profiles of all rules uniform: what a rule says needs statistics."""
    flat = Rule(dict.fromkeys(layout.sizes, 1.0), dict.fromkeys(layout.sizes, 0.0))
    space = build_space(
        experiment.space, layout, dict.fromkeys(rules_for(experiment.space.sparsity.by), flat)
    )
    check_genes(space.genes)
    return space


def _first_questions(setup: Setup) -> None:
    """The driver is made and asked, and a candidate decoded as it would be picked."""
    first = setup.space.decode(setup.driver(setup.unsolved).ask()[0])
    patterns = setup.space.layers.patterns
    # Nothing is calibrated yet, and all rules meet the same budget on the same pattern.
    methods = [name.partition("@")[0] for name in setup.experiment.baselines]
    baseline_recipes(methods, first, patterns, setup.calibrated)
