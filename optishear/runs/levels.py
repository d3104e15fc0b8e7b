"""The level database of an experiment: what its solvers can be asked for, solved in advance."""

from optishear.calibration.origin import SEQUENTIAL
from optishear.config import Experiment
from optishear.models.weights import read
from optishear.pruning.levels import Level, build, level_by_level
from optishear.pruning.solved import SolvedLayers
from optishear.recipe.canonical import MASK
from optishear.records.cache import folder_of
from optishear.runs.keys import levels_key
from optishear.runs.prepare import Calibrated
from optishear.runs.watcher import Watcher
from optishear.search.levels import levels_of
from optishear.search.space import SearchSpace
from optishear.workers.cluster import Cluster
from optishear.workers.layers import DenseLayers, solving_on


def open_levels(
    experiment: Experiment,
    calibrated: Calibrated,
    space: SearchSpace,
    watcher: Watcher,
    cluster: Cluster | None = None,
) -> SolvedLayers | None:
    """Solved layers of this model and calibration, in the cache; None where they could be any.

    Where the space has a grid of levels (`sparsity.steps`) all of them are solved before the search
    begins, as far as the cache does not hold them yet; else they are kept as candidates come.
    """
    wanted = wanted_levels(experiment, space)
    if not wanted:
        return None
    store = level_store(experiment, calibrated)
    if space.layers.bounds.steps is None:
        return store
    watcher.stage("solving every layer at every level")
    dense = dense_layers(calibrated)
    solve = level_by_level(dense.solve) if cluster is None else solving_on(cluster, dense)
    failed = build(solve, store, wanted, watcher.levels)
    for reason in failed:
        watcher.stage(f"not solved: {reason}")
    return store


def wanted_levels(experiment: Experiment, space: SearchSpace) -> list[Level]:
    """The layers and levels that are worth keeping; none where they could be any, or where a layer
    depends on what became of those before it; and no masks, which are sooner made than read. A
    level's recipe is about its layer alone."""
    if experiment.mode == SEQUENTIAL:
        return []
    return [level for level in levels_of(space) or () if level[1].default.solver != MASK]


def level_store(experiment: Experiment, calibrated: Calibrated) -> SolvedLayers:
    """Where the cache keeps this model's and calibration's solved layers."""
    memory = experiment.memory
    sequences = experiment.gradient_sequences if experiment.needs_gradients else None
    return SolvedLayers(
        folder_of("levels"),
        levels_key(calibrated, sequences).text,
        memory.levels,
        memory.levels_on_disk,
    )


def dense_layers(calibrated: Calibrated) -> DenseLayers:
    """What solves layers on their own, from their dense weights and the model's statistics."""
    model, layers = calibrated.loaded.model, calibrated.layout.layers
    return DenseLayers({layer.name: read(model, layer) for layer in layers}, calibrated.data)
