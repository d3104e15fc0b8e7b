"""The level database of an experiment: what its solvers can be asked for, solved in advance."""

from collections.abc import Callable

import torch

from optishear.assets.fetch import cache_dir
from optishear.config import Experiment
from optishear.experiment.prepare import Calibrated
from optishear.experiment.watcher import Watcher
from optishear.models.weights import read
from optishear.pruning.levels import Level, build
from optishear.pruning.oneshot import solve_layer
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.canonical import MASK
from optishear.recipe.layout import Layer
from optishear.recipe.recipe import Recipe
from optishear.search.levels import levels_of
from optishear.search.space import SearchSpace
from optishear.solvers.base import LayerSolution
from optishear.solvers.methods import solver_of


def open_levels(
    experiment: Experiment, calibrated: Calibrated, space: SearchSpace, watcher: Watcher
) -> SolvedLayers | None:
    """Solved layers of this model and calibration, in the cache; None where they could be any.

    Where the space has a grid of levels (`sparsity.steps`) all of them are solved before the search
    begins, as far as the cache does not hold them yet; else they are kept as candidates come.
    """
    wanted = wanted_levels(space)
    if not wanted:
        return None
    store = level_store(experiment, calibrated)
    if space.layers.bounds.steps is None:
        return store
    watcher.stage("solving every layer at every level")
    failed = build(solving(calibrated), store, wanted, watcher.levels)
    for reason in failed:
        watcher.stage(f"not solved: {reason}")
    return store


def wanted_levels(space: SearchSpace) -> list[Level]:
    """The layers and levels that are worth keeping; none where they could be any, and no masks,
    which are sooner made than read."""
    return [level for level in levels_of(space) or () if level[1].solver != MASK]


def level_store(experiment: Experiment, calibrated: Calibrated) -> SolvedLayers:
    """Where the cache keeps this model's and calibration's solved layers."""
    memory = experiment.memory
    return SolvedLayers(
        cache_dir() / "levels",
        identity_of_levels(experiment, calibrated),
        memory.levels,
        memory.levels_on_disk,
    )


def solving(calibrated: Calibrated) -> Callable[[Layer, Recipe], LayerSolution]:
    """Solves a layer as a recipe says, from its dense weight and the model's statistics."""
    evidence, model = calibrated.evidence, calibrated.loaded.model

    def solve(layer: Layer, recipe: Recipe) -> LayerSolution:
        problem = evidence.problem(layer, read(model, layer), recipe)
        return solve_layer(solver_of(recipe), layer, problem)

    return solve


def identity_of_levels(experiment: Experiment, calibrated: Calibrated) -> str:
    """All that a layer's solution depends on beside what the recipe says of it."""
    parts = [
        calibrated.identity,
        f"batches of {calibrated.batch_tokens}",
        f"{torch.get_num_threads()} threads",
    ]
    if experiment.needs_gradients:
        parts.append(f"{experiment.gradient_sequences} gradient sequences")
    return ", ".join(parts)
