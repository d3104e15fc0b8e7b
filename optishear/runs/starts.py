"""Where a search starts: published methods, and what is solved for on a few tokens before it.

Curves of single layers, and slopes, are measured on the first of the search samples: a measure of
its own, with a journal of its own in the run's folder, for these are no candidates. What another
run under the same results has measured the same is not measured again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from optishear.config.sections import GRADIENT, KNAPSACK
from optishear.errors import ConfigError
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.profile import counts_within
from optishear.recipe.recipe import Recipe
from optishear.records.journal import Journal, Key, memo_of
from optishear.records.run_directory import RunDirectory
from optishear.runs.setup import Setup, Starts
from optishear.runs.watcher import Watcher
from optishear.search.curves import Curves, curves_of, fixed_drop, gene_curves
from optishear.search.driver import DriverSettings
from optishear.search.evaluator import Evaluator, Measuring
from optishear.search.gradient_driver import GradientDriver
from optishear.search.knapsack import solve
from optishear.search.loop import SlopesOf
from optishear.search.slopes import SlopesReader, slopes_identity
from optishear.search.space import SearchSpace


Genome = Float[np.ndarray, " genes"]

BUDGETS = 10  # of a space without one: so many points of its front are solved for


def starts_of(
    setup: Setup, solved: SolvedLayers | None, directory: RunDirectory, watcher: Watcher
) -> Starts:
    """What the experiment's search begins with, measured as far as no journal knows it."""
    experiment, space = setup.experiment, setup.space
    curves = None
    if experiment.needs_curves:
        curves = _curves(setup, solved, directory, watcher)
    found: list[Genome] = []
    if (around := setup.calibrated.around) is not None:
        found.append(_nearest(space, setup.base, around.recipe))
    if KNAPSACK in experiment.search.seeds and curves is not None:
        found += knapsack_genomes(space, curves, setup.base)
    if GRADIENT in experiment.search.seeds:
        found.append(_descended(setup, solved, directory, watcher, [*found, setup.base][0]))
    rows: dict[str, Genome] = {}
    for row in [*found, *setup.seeds]:
        rows.setdefault(space.decode(row).key, row)
    return Starts(np.array([*rows.values()]).reshape(len(rows), len(space.genes)), curves)


def knapsack_genomes(space: SearchSpace, curves: Curves, base: Genome) -> list[Genome]:
    """The cheapest genome within the budget, were layers' costs to add up; of a space without a
    budget the cheapest of `BUDGETS` between the least and the most that can go, the middle first.

    Over blocks or layers where the space has genes of these; where it has a curve over depth, over
    layers, and then the nearest curve. What says no sparsity is as in `base`.
    """
    has_genes = space.layers.by in ("block", "layer")
    by_layer = replace(space, layers=replace(space.layers, by="layer", options=None))
    solving = space if has_genes else by_layer
    places = [(i, curve) for i, curve in enumerate(gene_curves(solving, curves)) if curve]
    items = [curve for _, curve in places]
    if space.budget is not None:
        budgets = [space.budget - fixed_drop(space)]
    else:
        least, most = (sum(int(curve.amounts[end]) for curve in items) for end in (0, -1))
        spread = np.linspace(least, most, BUDGETS + 2)[1:-1].astype(int).tolist()
        budgets = sorted(spread, key=lambda budget: abs(2 * budget - least - most))
    found = []
    for choice in solve(items, budgets):
        if choice is None:
            continue
        row = base.copy() if has_genes else np.array([gene.low for gene in solving.genes])
        for (index, curve), option in zip(places, choice, strict=True):
            row[index] = curve.codes[option]
        found.append(row if has_genes else _nearest(space, base, solving.decode(row)))
    return found


def _nearest(space: SearchSpace, base: Genome, recipe: Recipe) -> Genome:
    """`base` with the sparsities that come nearest to this recipe's."""
    sizes = space.layers.layout.sizes
    targets = {name: recipe.drop[name] / size for name, size in sizes.items()}
    codes = space.layers.encode(targets) or {}
    return np.array([codes.get(gene.name, code) for gene, code in zip(space.genes, base)])


def curve_recipes(space: SearchSpace, base: Recipe, levels: int) -> list[Recipe]:
    """Recipes that drop weights of one layer alone: of each layer so many of its counts, evenly
    spread from its highest to its lowest, or to 0, which costs nothing and is not among them."""
    layers, found = space.layers, []
    dense = dict.fromkeys(layers.layout.sizes, 0)
    for layer in layers.layout.layers:
        counts = counts_within(layer, layers.patterns, layers.bounds)
        evenly = np.linspace(len(counts) - 1, 0, levels + (counts[0] == 0))[:levels]
        for count in sorted({counts[place] for place in evenly.round().astype(int)} - {0}):
            found.append(base.with_drop({**dense, layer.name: count}))
    return found


def _curves(
    setup: Setup, solved: SolvedLayers | None, directory: RunDirectory, watcher: Watcher
) -> Curves:
    objective, settings = setup.experiment.slope_objective, setup.experiment.search.curves
    space = setup.space
    recipes = curve_recipes(space, space.decode(setup.base), settings.levels)
    watcher.stage(f"measuring curves of single layers: {len(recipes)} recipes")
    aside = setup.aside(objective, settings.tokens)
    with (
        _recorded(aside, aside.identity, directory, directory.curves) as (journal, memo),
        aside.measuring(solved, watcher.stage) as measure,
    ):
        evaluator = Evaluator(measure, journal, memo)
        rung = aside.samples["search"].units
        told = [journal.entries[e.recipe.key, rung] for e in evaluator(recipes, rung)]
    curves = curves_of(told, setup.layer_names, objective)
    failed = {
        name: entry["reason"]
        for entry in told
        for name, count in zip(journal.layers, entry["drop"], strict=True)
        if count and entry["values"] is None
    }
    for name, reason in failed.items():
        if name not in curves.points:
            raise ConfigError(
                f"{name}: pruned alone it failed at every level of its curve ({reason}), so "
                f"nothing says what it costs. Change its metric, solver or bounds, or leave out "
                f"what goes by curves: seeds and driver knapsack, variation guided."
            )
        watcher.stage(f"the curve of {name} has a gap: {reason}")
    return curves


def _descended(
    setup: Setup,
    solved: SolvedLayers | None,
    directory: RunDirectory,
    watcher: Watcher,
    start: Genome,
) -> Genome:
    """Where a few steps down the slopes lead from `start`: of all on the way the one with the least
    of the objective."""
    objective, settings = setup.experiment.slope_objective, setup.experiment.search.descent
    space = setup.space
    watcher.stage(f"going down the slopes of {objective}: {settings.steps} steps")
    aside = setup.aside(objective, settings.tokens)
    driver = GradientDriver(
        DriverSettings(space.genes, 1, 1, initial=start[None], gene_sizes=space.gene_sizes)
    )
    best, least = start, np.inf
    identity = slopes_identity(aside.identity, space, objective)
    with (
        _recorded(aside, identity, directory, directory.descent) as (journal, memo),
        aside.measuring(solved, watcher.stage) as measure,
    ):
        reader = SlopesReader(measure, space, objective, journal, memo)
        rung = aside.samples["search"].units
        for _ in range(settings.steps + 1):
            rows = driver.ask()
            if not len(rows):
                break
            [(value, slopes)] = reader([space.decode(row) for row in rows], rung)
            if value is not None and value < least:
                best, least = rows[0], value
            driver.tell_slopes([slopes])
            driver.tell([None if value is None else (value,)])
    return best


@contextmanager
def slopes_of_recipes(
    setup: Setup, measuring: Measuring, directory: RunDirectory
) -> Iterator[SlopesOf | None]:
    """What tells the search's driver slopes, if it goes by them."""
    if not setup.experiment.driver.slopes:
        yield None
        return
    objective = setup.experiment.slope_objective
    identity = slopes_identity(setup.identity, setup.space, objective)
    with _recorded(setup, identity, directory, directory.slopes) as (journal, memo):
        reader = SlopesReader(measuring, setup.space, objective, journal, memo)
        yield lambda recipes, rung: [slopes for _, slopes in reader(recipes, rung)]


@contextmanager
def _recorded(
    setup: Setup, identity: Mapping[str, Any], directory: RunDirectory, path: Path
) -> Iterator[tuple[Journal, Mapping[Key, Mapping[str, Any]]]]:
    """A journal of the run's folder that is no candidates', and what other runs' ones of this name
    know of the same measure."""
    with Journal(path, identity, setup.layer_names) as journal:
        yield journal, memo_of(directory.siblings(path.name), identity, setup.layer_names)
