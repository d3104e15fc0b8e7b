"""Apply a recipe block by block, with statistics of the model as it is pruned so far."""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Bool, Int
from torch import Tensor, nn

from optishear.calibration.collect import collecting
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import LayerStats, Need, unread
from optishear.models.blocks import BlockRunner
from optishear.models.weights import WorkingWeights
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.oneshot import PruneLayers, apply, prune
from optishear.pruning.result import LayerReport
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.solvers.methods import needs_of


def apply_sequentially(
    model: nn.Module,
    working: WorkingWeights,
    layout: ModelLayout,
    recipe: Recipe,
    batches: Sequence[Int[Tensor, "_ seq"]],
    *,
    gradients: Mapping[str, LayerGradients] | None = None,
    given: Mapping[str, Bool[Tensor, "out in"]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    prune_layers: PruneLayers = prune,
) -> list[LayerReport]:
    """Writes the recipe's weights into `model`, whose weights are `working`, as the papers do it.

    For each block: sum up what its layers read of the calibration tokens while the blocks before
    are pruned and it is dense; solve its layers from their dense weights, all with those sums; run
    it again, pruned, for what the next block reads. Where a recipe needs no statistics nothing is
    run at all. The working weights begin dense, whatever was in them.

    - `gradients`: of the dense model, for MOONSHOT; they are not made anew from block to block.
    - `progress`: told (blocks done, blocks).
    - `prune_layers`: solves and writes the layers of a block.

    Memory beside the model: the hidden states of all calibration tokens and one block's statistics.
    """
    recipe.check(layout)
    working.restore()
    runner = BlockRunner(model, batches) if needs_of(recipe) - {Need.GRADIENTS} else None
    reports = []
    for block in range(layout.blocks):
        layers = [layer for layer in layout.layers if layer.block == block]
        stats = statistics_of(runner, layers, recipe)
        data = CalibrationData(stats, gradients or {}, given or {})
        reports += apply(layers, working, data, recipe, prune_layers)
        del stats, data  # with its factors: gone before the next block's are collected
        if runner is not None and block < layout.blocks - 1:
            runner.advance()
        if progress is not None:
            progress(block + 1, layout.blocks)
    return reports


def statistics_of(
    runner: BlockRunner | None, layers: Sequence[Layer], recipe: Recipe
) -> dict[str, LayerStats]:
    """What the recipe asks of the inputs of these layers, all of the runner's next block; by site.

    No runner: the recipe asks for nothing.
    """
    if runner is None or not layers:
        return unread(layers)
    with collecting(runner.model, layers, needs_of(recipe) - {Need.GRADIENTS}) as collected:
        runner.observe()
    return collected.stats(sum(len(tokens) for tokens in runner.batches))
