"""The level database of an experiment: what its solvers can be asked for, solved in advance."""

import torch

from optishear.assets.fetch import cache_dir
from optishear.config import Experiment
from optishear.experiment.prepare import Calibrated
from optishear.experiment.watcher import Watcher
from optishear.models.weights import read
from optishear.pruning.levels import build
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
    levels = levels_of(space)
    if levels is None:
        return None
    wanted = [(layer, recipe) for layer, recipe in levels if recipe.solver != MASK]
    if not wanted:
        return None
    memory = experiment.memory
    store = SolvedLayers(
        cache_dir() / "levels",
        identity_of_levels(experiment, calibrated),
        memory.levels,
        memory.levels_on_disk,
    )
    if space.layers.bounds.steps is None:
        return store
    watcher.stage("solving every layer at every level")
    evidence, model = calibrated.evidence, calibrated.loaded.model

    def solve(layer: Layer, recipe: Recipe) -> LayerSolution:
        problem = evidence.problem(layer, read(model, layer), recipe)
        return solve_layer(solver_of(recipe), layer, problem)

    failed = build(solve, store, wanted, watcher.levels)
    for reason in failed:
        watcher.stage(f"not solved: {reason}")
    return store


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
