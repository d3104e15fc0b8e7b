"""Local reconstruction inside the block loop: the windows of each block, and what goes into them.

While a block is dense it is asked for its targets; once its layers are solved its windows are
reconstructed, one after the other; and the dense stream goes on with the targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from optishear.errors import ConfigError
from optishear.models.blocks import BlockRunner, Handed
from optishear.models.norms import norms_of
from optishear.models.placement import refuse_offloaded
from optishear.models.stored import Dtypes, nearest
from optishear.models.weights import WorkingWeights
from optishear.pruning.movable import Movable
from optishear.pruning.reconstruction import WindowReport, reconstruct, split
from optishear.pruning.windows import Half, StackWindow, halves_of
from optishear.recipe.layout import Layer
from optishear.recipe.reconstruction import DENSE, HALF, ReconstructionSettings


@dataclass(frozen=True, eq=False)
class Looked:
    """What was seen of a block while it was dense.

    - `inputs`: what goes into its windows; `made`: what it makes of what the dense model hands it.
    - `halves`: where windows are halves; `between` is what the dense first one makes.
    """

    inputs: Handed
    made: Handed
    halves: tuple[Half, Half] | None
    between: Handed


class Reconstruction:
    """The windows of a model, block by block.

    - `pruned`, `dense`: the two streams, both at the block that comes next.
    - `states`: gives a place for hidden states, by name; what is in it is of one block.
    - `dtypes`: none where weights are written as they are computed.

    Memory beside what a window takes: the hidden states of all calibration tokens that the dense
    stream holds, what the dense block makes of them, and twice as much where windows are halves.
    """

    def __init__(
        self,
        settings: ReconstructionSettings,
        pruned: BlockRunner,
        dense: BlockRunner,
        states: Callable[[str], Handed],
        dtypes: Dtypes,
    ) -> None:
        self.settings, self.pruned, self.dense, self.dtypes = settings, pruned, dense, dtypes
        self._made, self._between, self._left = (states(name) for name in ("made", "mid", "left"))
        refuse_offloaded(dense.model, "Local reconstruction, which takes gradients,")
        sequences = sum(len(batch) for batch in pruned.batches)
        split(sequences, settings.held_back, settings.seed)  # refuses what leaves none

    def look(self, layers: Sequence[Layer]) -> Looked:
        """What the next block does while it is dense; `layers` are all of it."""
        dense, halves = self.dense, None
        handed = dense.handed
        if layers and self.settings.window == HALF:
            first = handed[0]
            part = None if first is None else first[:1]
            halves = halves_of(dense.stack, dense.block, layers, dense.batches[0][:1], part)
            with halves[0].silent():
                self._run_into(self._between, dense, handed)
        self._run_into(self._made, dense, handed)
        inputs = handed if self.settings.inputs == DENSE else self.pruned.handed
        return Looked(inputs, self._made, halves, self._between)

    def run(
        self, looked: Looked, layers: Sequence[Layer], working: WorkingWeights
    ) -> list[WindowReport]:
        """Moves what is kept of these layers, which are all of the block's."""
        if not layers:
            return []
        block, inputs = self.pruned.block, looked.inputs
        if looked.halves is None:
            window = self._window(f"block {block}", inputs, looked.made)
            return [self._moved(window, layers, working, 2 * block)]
        one, two = looked.halves
        first = self._window(f"block {block}, first half", inputs, looked.between, one)
        found = [self._moved(first, one.layers, working, 2 * block)]
        if self.settings.inputs == DENSE:
            inputs = looked.between
        else:
            with one.silent():
                self._run_into(self._left, self.pruned, inputs)
            inputs = self._left
        second = self._window(f"block {block}, second half", inputs, looked.made, two)
        return [*found, self._moved(second, two.layers, working, 2 * block + 1)]

    def follow(self, looked: Looked) -> None:
        """The dense stream goes on with what the dense block made."""
        for index in range(len(self.dense.batches)):
            made = looked.made[index]
            assert made is not None
            self.dense.hand_on(index, made)
        self.dense.turn()

    def _run_into(self, place: Handed, runner: BlockRunner, inputs: Handed) -> None:
        for index, batch in enumerate(runner.batches):
            place[index] = runner.stack.run(runner.block, batch, inputs[index])

    def _window(
        self, name: str, inputs: Handed, targets: Handed, half: Half | None = None
    ) -> StackWindow:
        silent, pruned = None if half is None else half.silent, self.pruned
        return StackWindow(
            name, pruned.stack, pruned.block, pruned.batches, inputs, targets, silent
        )

    def _moved(
        self, window: StackWindow, layers: Sequence[Layer], working: WorkingWeights, number: int
    ) -> WindowReport:
        weights = [self._movable(layer, working) for layer in layers]
        if self.settings.norms:
            names = norms_of(self.pruned.model, self.pruned.block)
            weights += [self._norm(name, working) for name in names]
        try:
            return reconstruct(window, weights, self.settings, number)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ConfigError(
                f"{window.name}: there is not enough memory for its reconstruction ({error}). "
                f"Reconstruct halves of a block (--reconstruct half), or give shorter sequences."
            ) from error

    def _movable(self, layer: Layer, working: WorkingWeights) -> Movable:
        place = working.place(layer.name)
        return Movable(layer.name, place.parameter, place.view, self._nearest(layer.name))

    def _norm(self, name: str, working: WorkingWeights) -> Movable:
        parameter = working.also(self.pruned.model, name)
        return Movable(name, parameter, lambda whole: whole, self._nearest(name), zeros_stay=False)

    def _nearest(self, name: str) -> Callable[[Tensor], Tensor]:
        return partial(nearest, dtypes=self.dtypes.get(name, ()))
