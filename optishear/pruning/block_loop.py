"""The block loop: apply a recipe block by block, with statistics of the model as pruned so far.

Where the blocks are (all in memory, or one at a time, written when it is done) is a
`BlockSource`'s to know; what is done with a block, in which order, stands here alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from jaxtyping import Bool
from torch import Tensor, nn

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.held_back import cut
from optishear.calibration.statistics import Kinds, LayerStats, summed
from optishear.calibration.token_weights import UNGUIDED, Guide
from optishear.errors import ConfigError
from optishear.models.blocks import BlockRunner, BlockStack, Handed
from optishear.models.stored import STORED_AS_THEY_ARE, Dtypes
from optishear.models.weights import WorkingWeights
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.data_flow import Steps, flow_of
from optishear.pruning.oneshot import PruneLayers, apply, prune, refuse_one_shot
from optishear.pruning.reconstructing import Reconstruction
from optishear.pruning.reconstruction import WindowReport
from optishear.pruning.result import LayerReport
from optishear.pruning.streams import Streams, both_streams
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import BY_BLOCK, Recipe
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
    def runner(self, batches: Batches, stream: str) -> BlockRunner:
        """Takes these batches through the blocks, beginning with the first that is not done. Each
        `stream` has hidden states of its own."""

    @abstractmethod
    def at_work(
        self, block: int, layers: Sequence[Layer]
    ) -> AbstractContextManager[WorkingWeights]:
        """The block with its weights, those of `layers` dense until they are written. Left without
        an error once it is pruned and every stream has gone through it."""

    @abstractmethod
    def done(
        self, block: int, reports: Sequence[LayerReport], windows: Sequence[WindowReport]
    ) -> None:
        """All of this block is done, and its weights are given back."""

    @abstractmethod
    def states(self, name: str) -> Handed:
        """A place for hidden states that are of one block at a time."""


class InMemory(BlockSource):
    """Blocks of a model that is in memory as a whole, with working weights of all its layers.

    The working weights begin dense, whatever was in them, and end pruned.

    - `windows`: what reconstructions gained so far.
    """

    def __init__(self, model: nn.Module, working: WorkingWeights, layout: ModelLayout) -> None:
        self.model, self.working, self.layout = model, working, layout
        self.blocks = layout.blocks
        self.windows: list[WindowReport] = []
        self._stack: BlockStack | None = None
        self.begin()

    def begin(self) -> None:
        """All dense again, and nothing gained yet: for the first recipe, and each one after it."""
        self.working.restore()
        self.windows.clear()

    def runner(self, batches: Batches, stream: str) -> BlockRunner:
        runner = BlockRunner(self.model, batches, stack=self._stack)
        self._stack = runner.stack  # proved once
        return runner

    def at_work(
        self, block: int, layers: Sequence[Layer]
    ) -> AbstractContextManager[WorkingWeights]:
        return nullcontext(self.working)

    def done(
        self, block: int, reports: Sequence[LayerReport], windows: Sequence[WindowReport]
    ) -> None:
        """The working weights are where the block stays."""
        self.windows += windows

    def states(self, name: str) -> Handed:
        return {}


def apply_by_block(
    source: BlockSource,
    recipe: Recipe,
    batches: Batches,
    *,
    sequential: bool = True,
    gradients: Mapping[str, LayerGradients] | None = None,
    given: Mapping[str, Bool[Tensor, "out in"]] | None = None,
    guide: Guide = UNGUIDED,
    progress: Callable[[int, int], None] | None = None,
    prune_layers: PruneLayers = prune,
    dtypes: Dtypes = STORED_AS_THEY_ARE,
    also: Kinds = frozenset(),
    collected: Callable[[Mapping[str, LayerStats]], None] = lambda stats: None,
) -> list[LayerReport]:
    """Writes the recipe's weights into the blocks of `source` that are not done; their reports.

    For each block: sum up what its layers read of the calibration tokens while the blocks before
    are pruned and it is dense; solve its layers from their dense weights, all with those sums; run
    it again, pruned, for what the next block reads. Where the recipe's order is by site, the layers
    of a block are summed up and solved in steps, as data flow, and read what those before them make
    when pruned. Where a recipe needs no statistics nothing is run at all; where one of them reads
    the dense model's inputs too, the dense hidden states go through each block beside the others.
    So they do where the recipe has a local reconstruction, which moves what is kept of a block when
    its layers are solved.

    - `sequential`: as the papers do it. If not, what a block hands on is what it made while it was
      dense: one-shot pruning of a model that is not in memory as a whole.
    - `gradients`: of the dense model, for MOONSHOT; they are not made anew from block to block.
    - `guide`: token weights of the dense model, for guided layers; likewise.
    - `progress`: told (blocks done, blocks).
    - `prune_layers`: solves and writes the layers of a block.
    - `dtypes`: by name, the types in which reconstructed weights, and biases, are written; left out
      that in which they are.
    - `also`: statistics that are summed up beside those that the recipe reads.
    - `collected`: shown all of them, by input site, as they are collected.

    Memory beside the model: the hidden states of all calibration tokens (twice with two streams)
    and one block's statistics.
    """
    layout = source.layout
    recipe.check(layout)
    if not sequential:
        refuse_one_shot(recipe)
    flows = _Flows(recipe.order)
    kinds = summed(needs_of(recipe)) | also
    streams = _streams(source, batches, recipe, kinds, sequential, guide)
    moving = _reconstruction(source, streams, recipe, dtypes)
    places = {layer.name: place for place, layer in enumerate(layout.layers)}
    found = []
    for block in range(source.first, source.blocks):
        layers = [layer for layer in layout.layers if layer.block == block]
        last = block == source.blocks - 1
        with source.at_work(block, layers) as working:
            looked = None if moving is None else moving.look(layers)
            steps = flows.of(layers, working, streams.pruned)
            reports: list[LayerReport] = []
            done: list[str] = []  # of this block
            for step in steps:
                stats = streams.statistics(
                    step,
                    leave=not last and step is steps[-1],
                    dense_again=partial(working.dense_again, tuple(done)),
                )
                collected(stats)
                if not last and not sequential:
                    streams.advance()
                data = CalibrationData(stats, gradients or {}, given or {}, biased=working.biased)
                reports += apply(step, working, data, recipe, prune_layers, dtypes)
                del stats, data  # with its factors: gone before the next ones are collected
                done += [layer.name for layer in step]
            windows: list[WindowReport] = []
            if moving is not None and looked is not None:
                windows = moving.run(looked, layers, working)
                if not last and not streams.moves_dense:
                    moving.follow(looked)
            if not last and sequential:
                streams.advance()
        reports.sort(key=lambda report: places[report.name])
        source.done(block, reports, windows)
        found += reports
        if progress is not None:
            progress(block + 1, source.blocks)
    return found


class _Flows:
    """The steps in which the layers of a block are solved; found once for blocks that are alike."""

    def __init__(self, order: str) -> None:
        self.order = order
        self._found: dict[tuple[type[nn.Module], tuple[str, ...]], tuple[frozenset[str], ...]] = {}

    def of(
        self, layers: Sequence[Layer], working: WorkingWeights, runner: BlockRunner | None
    ) -> Steps:
        """Of the runner's next block, which has to be dense."""
        if self.order == BY_BLOCK or runner is None or not layers:
            return (tuple(layers),)
        kind = type(runner.stack.blocks[runner.block]), tuple(x.role for x in layers)
        if kind not in self._found:
            steps = flow_of(layers, working, runner)
            self._found[kind] = tuple(frozenset(x.role for x in step) for step in steps)
        roles = self._found[kind]
        return tuple(tuple(x for x in layers if x.role in step) for step in roles)


def _streams(
    source: BlockSource,
    batches: Batches,
    recipe: Recipe,
    kinds: Kinds,
    sequential: bool,
    guide: Guide,
) -> Streams:
    if not kinds and recipe.reconstruct is None:
        return Streams(kinds, None)
    before, held_back = cut(batches, kinds)
    batches = [*before, *held_back]
    pruned = source.runner(batches, "hidden")
    beside = both_streams(kinds, sequential) or recipe.reconstruct is not None
    dense = source.runner(batches, "dense") if beside else None
    return Streams(kinds, pruned, dense, guide, len(held_back))


def _reconstruction(
    source: BlockSource, streams: Streams, recipe: Recipe, dtypes: Dtypes
) -> Reconstruction | None:
    settings, pruned, dense = recipe.reconstruct, streams.pruned, streams.dense
    if settings is None or pruned is None or dense is None:
        return None
    if pruned.stack.shares:
        raise ConfigError(
            f"{type(pruned.model).__name__}: its blocks share more than hidden states with each "
            f"other (keys and values), so that one cannot be reconstructed by itself. Leave "
            f"--reconstruct out."
        )
    return Reconstruction(settings, pruned, dense, source.states, dtypes)
