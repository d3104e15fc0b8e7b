"""The blocks of a model that is streamed: one in memory at a time, written once it is pruned."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor

from optishear.export.checkpoint import logits_of
from optishear.export.half_done import HalfDone
from optishear.models.blocks import BlockRunner, BlockStack, Handed
from optishear.models.hidden_files import HiddenFiles, SharedFiles, StateFiles
from optishear.models.streamed import Streamed
from optishear.models.weights import WorkingWeights, working_weights
from optishear.pruning.block_loop import Batches, BlockSource
from optishear.pruning.reconstruction import WindowReport
from optishear.pruning.result import LayerReport
from optishear.recipe.layout import Layer, ModelLayout
from optishear.tasks import Batch


class StreamedBlocks(BlockSource):
    """Those that a half-done checkpoint lacks; hidden states between blocks are files beside it.

    - `stack`: the blocks, proved to hand each other nothing but hidden states and what they share.
    - `probe`: tokens that follow the calibration text through the pruned blocks, for `logits`.
    """

    def __init__(
        self,
        streamed: Streamed,
        stack: BlockStack,
        layout: ModelLayout,
        half: HalfDone,
        probe: Batch,
    ) -> None:
        self.streamed, self.stack, self.layout, self.half = streamed, stack, layout, half
        self.blocks, self.first = len(streamed.blocks), half.block
        self.probe = probe
        self._files: list[StateFiles] = []
        self._probed = self._hidden("probe")
        self._follows = self._runner([probe], "probe", self._probed)

    def runner(self, batches: Batches, stream: str) -> BlockRunner:
        return self._runner(batches, stream, self._hidden(stream))

    def _hidden(self, stream: str) -> HiddenFiles:
        return HiddenFiles(self.half.state_folder / stream, self.first, self.streamed.device)

    def _runner(self, batches: Batches, stream: str, hidden: HiddenFiles) -> BlockRunner:
        folder = self.half.state_folder / f"{stream}_shared"
        shared = SharedFiles(folder, self.first, self.streamed.device)
        self._files += [hidden, shared]
        model, stack = self.streamed.loaded.model, self.stack
        return BlockRunner(
            model, batches, stack=stack, handed=hidden, shared=shared, block=self.first
        )

    @contextmanager
    def at_work(self, block: int, layers: Sequence[Layer]) -> Iterator[WorkingWeights]:
        model, part = self.streamed.loaded.model, self.streamed.blocks[block]
        own = ModelLayout(tuple(layers))
        with self.streamed.resident(part), working_weights(model, own) as working:
            yield working
            self._follows.advance()
            self.half.write(part)

    def states(self, name: str) -> Handed:
        return HiddenFiles(self.half.state_folder / name, 1, self.streamed.device, step=0)

    def done(
        self, block: int, reports: Sequence[LayerReport], windows: Sequence[WindowReport]
    ) -> None:
        self.half.done(block + 1, reports, windows)
        for files in self._files:
            files.turn()
            files.tidy()

    def logits(self) -> Float[Tensor, "1 seq vocabulary"]:
        """What the pruned model makes of the probe, once all blocks are done."""
        final = self._probed[0]
        assert final is not None
        with self.stack.stood_in_for(self.blocks, final.clone):
            return logits_of(self.streamed.loaded.model, self.probe)
