"""The block loop: apply a recipe block by block, with statistics of the model as pruned so far.

Where the blocks are (all in memory, or one at a time, written when it is done) is a
`BlockSource`'s to know; what is done with a block, in which order, stands here alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from jaxtyping import Bool
from torch import Tensor, nn

from optishear.calibration.collect import collecting
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import LayerStats, summed, unread
from optishear.models.blocks import BlockRunner
from optishear.models.weights import WorkingWeights
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.oneshot import PruneLayers, apply, prune
from optishear.pruning.result import LayerReport
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.solvers.methods import needs_of
from optishear.tasks import Batch


Batches = Sequence[Batch]


class BlockSource(ABC):
    """The decoder blocks of a model, from the first that is not done to the last.

    - `layout`: all prunable layers of the model.
    - `blocks`: how many there are.
    - `first`: the first that is not done.
    """

    layout: ModelLayout
    blocks: int
    first: int = 0

    @abstractmethod
    def runner(self, batches: Batches) -> BlockRunner:
        """Takes these batches through the blocks, beginning with the first that is not done."""

    @abstractmethod
    def at_work(
        self, block: int, layers: Sequence[Layer]
    ) -> AbstractContextManager[WorkingWeights]:
        """The block with its weights, those of `layers` dense until they are written. Left without
        an error once it is pruned and every stream has gone through it."""

    @abstractmethod
    def done(self, block: int, reports: Sequence[LayerReport]) -> None:
        """All of this block is done, and its weights are given back."""


class InMemory(BlockSource):
    """Blocks of a model that is in memory as a whole, with working weights of all its layers.

    The working weights begin dense, whatever was in them, and end pruned.
    """

    def __init__(self, model: nn.Module, working: WorkingWeights, layout: ModelLayout) -> None:
        self.model, self.working, self.layout = model, working, layout
        self.blocks = layout.blocks
        working.restore()

    def runner(self, batches: Batches) -> BlockRunner:
        return BlockRunner(self.model, batches)

    def at_work(
        self, block: int, layers: Sequence[Layer]
    ) -> AbstractContextManager[WorkingWeights]:
        return nullcontext(self.working)

    def done(self, block: int, reports: Sequence[LayerReport]) -> None:
        """The working weights are where the block stays."""


def apply_by_block(
    source: BlockSource,
    recipe: Recipe,
    batches: Batches,
    *,
    sequential: bool = True,
    gradients: Mapping[str, LayerGradients] | None = None,
    given: Mapping[str, Bool[Tensor, "out in"]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    prune_layers: PruneLayers = prune,
) -> list[LayerReport]:
    """Writes the recipe's weights into the blocks of `source` that are not done; their reports.

    For each block: sum up what its layers read of the calibration tokens while the blocks before
    are pruned and it is dense; solve its layers from their dense weights, all with those sums; run
    it again, pruned, for what the next block reads. Where a recipe needs no statistics nothing is
    run at all.

    - `sequential`: as the papers do it. If not, what a block hands on is what it made while it was
      dense: one-shot pruning of a model that is not in memory as a whole.
    - `gradients`: of the dense model, for MOONSHOT; they are not made anew from block to block.
    - `progress`: told (blocks done, blocks).
    - `prune_layers`: solves and writes the layers of a block.

    Memory beside the model: the hidden states of all calibration tokens and one block's statistics.
    """
    layout = source.layout
    recipe.check(layout)
    runner = source.runner(batches) if summed(needs_of(recipe)) else None
    found = []
    for block in range(source.first, source.blocks):
        layers = [layer for layer in layout.layers if layer.block == block]
        goes_on = runner if block < source.blocks - 1 else None
        with source.at_work(block, layers) as working:
            stats = statistics_of(runner, layers, recipe)
            if goes_on is not None and not sequential:
                goes_on.advance()
            data = CalibrationData(stats, gradients or {}, given or {})
            reports = apply(layers, working, data, recipe, prune_layers)
            del stats, data  # with its factors: gone before the next block's are collected
            if goes_on is not None and sequential:
                goes_on.advance()
        source.done(block, reports)
        found += reports
        if progress is not None:
            progress(block + 1, source.blocks)
    return found


def statistics_of(
    runner: BlockRunner | None, layers: Sequence[Layer], recipe: Recipe
) -> dict[str, LayerStats]:
    """What the recipe asks of the inputs of these layers, all of the runner's next block; by site.

    No runner: the recipe asks for nothing.
    """
    if runner is None or not layers:
        return unread(layers)
    with collecting(runner.model, layers, summed(needs_of(recipe))) as collected:
        runner.observe()
    return collected.stats(sum(len(tokens) for tokens in runner.batches))
