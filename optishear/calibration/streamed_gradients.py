"""Per-sequence gradients of a model larger than memory: a backward pass one block at a time.

Forward, what goes into each block is kept on disk. At the top the loss of a sequence gives the
gradient of the last hidden states. From the last block to the first, a block is run again from what
went into it, this time recorded: its backward pass makes the gradients of its weights, and that of
its input, which is what the block before begins with. These are the operations of the whole model's
backward pass on the same numbers.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optishear.calibration.gradient_samples import loss_of, storing_gradients
from optishear.calibration.gradients import StoreSample
from optishear.calibration.token_weight_samples import squaring_outputs, summed_loss_of
from optishear.calibration.token_weights import StoreSquares
from optishear.errors import ConfigError
from optishear.models.blocks import BlockRunner, BlockStack
from optishear.models.hidden_files import HiddenFiles
from optishear.models.streamed import Streamed
from optishear.recipe.layout import Layer, ModelLayout
from optishear.tasks import Batch


Sequences = Sequence[Batch]  # of one sample each
Loss = Callable[[nn.Module, Batch], Float[Tensor, ""]]
Recording = Callable[[Sequence[Layer], int], AbstractContextManager[None]]
"""While it is open, a backward pass of a sample hands on what is wanted of these layers."""


@dataclass(frozen=True, eq=False)
class BlockByBlock:
    """Collects the gradients of a streamed model, which is read twice, however many sequences; by
    `squares` those in what layers put out, squared.

    - `stack`: its blocks, proved to hand each other nothing but hidden states.
    - `folder`: for hidden states and their gradients; removed when they are done.

    Memory: one block or the head, one gradient of a weight, and what a sequence leaves there for
    the backward pass.
    """

    streamed: Streamed
    stack: BlockStack
    layout: ModelLayout
    folder: Path

    def __call__(self, batch: Batch, store: StoreSample) -> None:
        model = self.streamed.loaded.model

        def record(layers: Sequence[Layer], number: int) -> AbstractContextManager[None]:
            return storing_gradients(model, layers, number, store)

        self._run(batch, loss_of, record)

    def squares(self, batch: Batch, groups: int, store: StoreSquares) -> None:
        """What `token_weight_samples.sample_by_sample` hands on of a model in memory."""
        model = self.streamed.loaded.model

        def record(layers: Sequence[Layer], number: int) -> AbstractContextManager[None]:
            return squaring_outputs(model, layers, groups, number, store)

        self._run(batch, summed_loss_of, record)

    def _run(self, batch: Batch, loss: Loss, record: Recording) -> None:
        if self.stack.shares:
            raise ConfigError(
                f"{type(self.streamed.loaded.model).__name__}: its blocks share more than hidden "
                f"states with each other (keys and values), so that gradients cannot be taken one "
                f"block at a time. Prune it without --stream."
            )
        sequences = batch.to(self.streamed.device).split(1)
        blocks = len(self.streamed.blocks)
        first = min(layer.block for layer in self.layout.layers)
        self._forward(sequences)
        gradients = HiddenFiles(self.folder / "gradients", blocks + 1, self._device, step=-1)
        self._top(sequences, gradients, loss)
        for block in range(blocks - 1, first - 1, -1):
            gradients.turn()
            gradients.tidy()
            self._backward(block, sequences, gradients, record)
        shutil.rmtree(self.folder)

    @property
    def _device(self) -> torch.device:
        return self.streamed.device

    def _states(self, block: int) -> HiddenFiles:
        """What goes into this block; of the one past the last, what the last one made."""
        return HiddenFiles(self.folder / "states", block, self._device)

    def _forward(self, sequences: Sequences) -> None:
        states = self._states(0)
        runner = BlockRunner(self.streamed.loaded.model, sequences, stack=self.stack, handed=states)
        for part in self.streamed.blocks:
            with self.streamed.resident(part):
                runner.advance()
            states.turn()

    def _top(self, sequences: Sequences, gradients: HiddenFiles, loss: Loss) -> None:
        """From the last hidden states to the loss and back."""
        model, blocks = self.streamed.loaded.model, len(self.streamed.blocks)
        states = self._states(blocks)
        with self.streamed.resident(self.streamed.head):
            for number, sequence in enumerate(sequences):
                last = _recorded(states, number)
                with self.stack.stood_in_for(blocks, last.clone), torch.enable_grad():
                    loss(model, sequence).backward()
                gradients[number] = _gradient_of(last)

    def _backward(
        self, block: int, sequences: Sequences, gradients: HiddenFiles, record: Recording
    ) -> None:
        """From the gradients of what this block made to those of its weights and its input."""
        states = self._states(block)
        layers = [layer for layer in self.layout.layers if layer.block == block]
        with self.streamed.resident(self.streamed.blocks[block]):
            for number, sequence in enumerate(sequences):
                handed = _recorded(states, number) if block else None
                with record(layers, number):
                    made = self.stack.recorded(block, sequence, handed)
                    made.backward(gradients[number])
                if handed is not None:
                    gradients[number] = _gradient_of(handed)


def _recorded(states: HiddenFiles, number: int) -> Tensor:
    state = states[number]
    assert state is not None
    return state.requires_grad_()


def _gradient_of(state: Tensor) -> Tensor:
    assert state.grad is not None
    return state.grad
