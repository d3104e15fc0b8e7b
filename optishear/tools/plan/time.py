"""Time of a search: each of its stages measured on a small part of itself."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from optishear.calibration.origin import SEQUENTIAL
from optishear.calibration.statistics import reads_dense, statistics_bytes
from optishear.errors import NumericalError
from optishear.evaluation.perplexity import held_out
from optishear.models.head import find_head, hidden_states
from optishear.models.placement import input_device
from optishear.recipe.layer_keys import layer_key
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe
from optishear.runs.held_out import baseline_recipes
from optishear.runs.levels import dense_layers, level_store
from optishear.runs.setup import Setup
from optishear.solvers.base import LayerSolution
from optishear.solvers.methods import needs_of
from optishear.tasks import Samples
from optishear.tools.plan.costs import Price, RungCost, Step, price_of, rung_costs, visits
from optishear.tools.plan.dry_run import DryRun, Sample, dry_run, sample_of
from optishear.tools.plan.layer_times import LayerTimes
from optishear.tools.plan.levels import Levels
from optishear.tools.plan.solving import slope_steps, solving_steps


FIGURES = 4.0  # seconds, whatever the run: matplotlib is imported and draws three of them


@dataclass(frozen=True)
class Times:
    """All steps in their order; `rungs` and `price` are what the candidates' steps come from."""

    steps: tuple[Step, ...]
    rungs: tuple[RungCost, ...]
    price: Price
    run: DryRun
    failures: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Still to come."""
        return sum(step.seconds for step in self.steps if not step.done)

    def to_json(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps],
            "rungs": [{**asdict(cost), "seconds": cost.seconds} for cost in self.rungs],
            "candidate": asdict(self.price),
            "measured": [asdict(one) for one in (*self.run.lowest, *self.run.higher)],
        }


def times_of(
    setup: Setup,
    levels: Levels | None,
    known: Mapping[int, int],
    before: Sequence[Step],
    stage: Callable[[str], None],
    notice: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Times:
    """Measures a little of everything. `before`: the stages up to the first candidate, measured as
    they were gone through; `known`: evaluations by rung that need not be measured."""
    failures: list[str] = []
    settings, workers = setup.experiment.search, setup.experiment.workers
    times = LayerTimes(_tried(dense_layers(setup.calibrated).solve, failures), clock)
    stage("dry run: drawing recipes")
    sample = sample_of(setup, clock, copied=levels is not None)
    steps = list(before)
    if levels is not None:
        stage("dry run: solving one layer of each shape")
        steps.append(_level_step(setup, levels, sample, failures, clock))
    stage("dry run: measuring candidates")
    start = clock()
    with setup.job(None).measuring(notice) as measure:
        steps.append(Step("dense model on the search tokens", clock() - start, "measured now"))
        tried = dry_run(setup, measure, sample, clock)
    own, units = _own_seconds(setup, clock), sum(data.units for data in setup.own.values())
    price = price_of(tried.lowest, tried.higher, sample.shares, own)
    recipes = min(settings.evaluations, setup.space.size or settings.evaluations)
    wanted = visits(setup.ladder, recipes, settings.population)
    rungs = rung_costs(price.line, wanted, known)
    steps += solving_steps(setup, price)
    share = setup.ladder.rungs[-1] / setup.ladder.rungs[0]
    once = "the first candidates, beyond a steady one"
    steps.append(Step("first use of everything", price.once * share, once))
    for cost in rungs:
        what = f"{cost.candidates - cost.known:,} candidates on {cost.rung:,} tokens"
        if units and cost.rung == rungs[0].rung:
            what += f" and {units:,} of their objectives' own"
        shared = f", {workers} at a time" if workers > 1 else ""
        steps.append(Step(what, cost.seconds / workers, f"{cost.each:.3g} s each{shared}"))
    steps += slope_steps(setup, price, recipes)
    steps.append(
        Step("decoding genomes", sample.decoding * recipes, f"{sample.decoding * 1e3:.2g} ms each")
    )
    stage("dry run: held-out text")
    if setup.experiment.mode == SEQUENTIAL:
        steps += _ending_by_block(setup, price, clock)
    else:
        steps += _ending(setup, sample, times, price, clock)
    steps.append(Step("figures", FIGURES, "a rule"))
    failed = tuple(dict.fromkeys([*failures, *tried.failures]))
    return Times(tuple(steps), tuple(rungs), price, tried, failed)


@torch.no_grad()
def _own_seconds(setup: Setup, clock: Callable[[], float]) -> float:
    """One model on all data that objectives bring with them."""
    if not setup.own:
        return 0.0
    model, start = setup.calibrated.loaded.model, clock()
    for data in setup.own.values():
        for batch in data.batches:
            hidden_states(model, batch)
    return clock() - start


def _tried(
    solve: Callable[[Layer, Recipe], LayerSolution], failures: list[str]
) -> Callable[[Layer, Recipe], LayerSolution | None]:
    """A layer that cannot be solved takes its time, too, and is no reason to end a plan."""

    def tried(layer: Layer, recipe: Recipe) -> LayerSolution | None:
        try:
            return solve(layer, recipe)
        except NumericalError as error:
            failures.append(str(error))
            return None

    return tried


def _level_step(
    setup: Setup,
    levels: Levels,
    sample: Sample,
    failures: list[str],
    clock: Callable[[], float],
) -> Step:
    """Solves some layers for their times, and stores them, as the search itself would."""
    store, solve = (
        level_store(setup.experiment, setup.calibrated),
        dense_layers(setup.calibrated).solve,
    )

    def solve_and_store(layer: Layer, recipe: Recipe) -> LayerSolution:
        solution = solve(layer, recipe)
        store.put(layer_key(recipe, layer), solution)
        return solution

    times = LayerTimes(_tried(solve_and_store, failures), clock)
    seconds = times.all_of(levels.lacking)
    count = f"{len(levels.lacking):,} layers at levels"
    told = f"one of each of {len(times.found)} shapes and solvers"
    if levels.grid:
        return Step(f"level database: {count}", seconds, told)
    by_name = setup.calibrated.layout.by_name
    each = sum(share * times.of_recipe(r, by_name, True) for share, r in sample.real)
    most = each * setup.experiment.search.evaluations
    return Step(f"solving as they come, at most {count}", min(seconds, most), told)


def _ending(
    setup: Setup, sample: Sample, times: LayerTimes, price: Price, clock: Callable[[], float]
) -> list[Step]:
    """Baselines on the search text, and the comparison on held-out text."""
    experiment, c = setup.experiment, setup.calibrated
    by_name = c.layout.by_name
    picked = sample.real[0][1]
    recipes = baseline_recipes(experiment.baselines, picked, setup.space.layers.patterns, c)
    around = c.data.around
    alike = [r for r in recipes.values() if not r.only_by_block(around)]
    solved = sum(times.of_recipe(r, by_name, True) for r in alike)
    found = sum(share * times.of_recipe(r, by_name, True) for share, r in sample.real)
    alone = sum(share * times.of_recipe(r, by_name, False) for share, r in sample.real)
    top = setup.ladder.rungs[-1]
    again = [r for r in recipes.values() if needs_of(r)]  # the rest is the same block by block
    solvable = [r for r in again if not r.only_by_block(around)]
    anew = alone + sum(times.of_recipe(r, by_name, False) for r in solvable)
    rests_on = "one layer of each shape, one calibration batch"
    if apart := [name for name, recipe in recipes.items() if recipe.only_by_block(around)]:
        rests_on += f", but no layer of {' and '.join(apart)}, for which nothing is summed up ahead"
    rows = len(alike) + len(again) + 3  # and dense, found, found block by block
    calibrating = _calibration_seconds(setup, clock)
    each = price.line.per_token * top + price.line.own
    return [
        *_finalists_steps(setup, calibrating + alone + each),
        Step(
            f"{len(alike)} baselines on {top:,} tokens",
            solved + len(alike) * each,
            "one layer of each shape, and a candidate's tokens",
        ),
        Step("pruning them for held-out text", solved + found, "one layer of each shape"),
        Step(
            "pruning block by block",
            anew + (1 + len(again)) * calibrating,
            rests_on,
        ),
        _held_out_step(setup, rows, clock),
    ]


def _finalists_steps(setup: Setup, each: float) -> list[Step]:
    """What the final choice takes, where the experiment has one; workers share it."""
    experiment = setup.experiment
    if not (number := experiment.finalists):
        return []
    shared = -(-number // experiment.workers)  # so many one after the other
    told = "one layer of each shape, one calibration batch, and a candidate's tokens"
    return [Step(f"{number} finalists block by block", shared * each, told)]


def _ending_by_block(setup: Setup, price: Price, clock: Callable[[], float]) -> list[Step]:
    """The same where candidates are pruned block by block: what is compared is pruned likewise, and
    nothing was summed up of which a layer could be solved on its own."""
    experiment, top = setup.experiment, setup.ladder.rungs[-1]
    each, baselines = price.line.seconds(top), len(experiment.baselines)
    told = "as long as a candidate takes"
    return [
        Step(f"{baselines} baselines on {top:,} tokens", baselines * each, told),
        Step("pruning them block by block for held-out text", (baselines + 1) * each, told),
        _held_out_step(setup, baselines + 2, clock),  # dense and found
    ]


def _held_out_step(setup: Setup, rows: int, clock: Callable[[], float]) -> Step:
    texts = [_text_seconds(setup, text, clock) for text in setup.held_out]
    sequences = sum(len(text) for text in setup.held_out)
    what = f"held-out: {rows} models, {sequences:,} sequences each"
    return Step(what, rows * sum(texts), "one batch of each text")


def _text_seconds(setup: Setup, text: Samples, clock: Callable[[], float]) -> float:
    """One model on all of a text: finding the head, and a batch as often as there are some."""
    model, batch_tokens = setup.calibrated.loaded.model, setup.experiment.batch_tokens
    part = text.first(max(1, batch_tokens // text.units_each))
    held_out(model, part, batch_tokens)  # the first time is dearer
    start = clock()
    find_head(model, text.batch[:1])
    head = clock() - start
    start = clock()
    held_out(model, part, batch_tokens)
    each = max(0.0, clock() - start - head) / len(part)
    return head + each * len(text)


@torch.no_grad()
def _calibration_seconds(setup: Setup, clock: Callable[[], float]) -> float:
    """Each block run twice on the calibration text, as pruning block by block does; and the
    statistics' own products, each entry of a sum as long as a weight takes."""
    c = setup.calibrated
    batches = c.batches
    batch = batches[0].to(input_device(c.loaded.model))
    hidden_states(c.loaded.model, batch)
    start = clock()
    hidden_states(c.loaded.model, batch)
    forward = (clock() - start) * c.calibration.units / (c.calibration.units_each * len(batch))
    sums = statistics_bytes(c.layout, setup.experiment.needs) / 4 / c.layout.total
    return forward * (2 + reads_dense(setup.experiment.needs) + sums)
