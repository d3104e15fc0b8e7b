"""Streams of hidden states: the calibration text on its way through a model that is being pruned.

The pruned stream goes through the blocks as they are pruned so far: statistics are sums of what
layers read of it. The dense stream beside it goes through the same blocks as they were. It is there
only where a statistic asks for it, which then gets both rows of each token at one input site.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from optishear.calibration.collect import check, collecting
from optishear.calibration.held_back import at_once, joined
from optishear.calibration.statistics import Kinds, LayerStats, reads_dense, unread
from optishear.calibration.token_weights import UNGUIDED, Guide
from optishear.models.blocks import BlockRunner
from optishear.recipe.layout import Layer


class Streams:
    """One or two streams, or none where nobody asks for them; each stands at one block.

    - `kinds`: the statistics that are asked for. Where none of them reads the dense stream, that is
      left for others to move.
    - `pruned`, `dense`: of the same model and batches; `dense` None makes do with one.
    - `guide`: the token weights of guided layers.
    - `held_back`: so many of the batches, the last ones, are held back (`held_back.cut`).
    """

    def __init__(
        self,
        kinds: Kinds,
        pruned: BlockRunner | None,
        dense: BlockRunner | None = None,
        guide: Guide = UNGUIDED,
        held_back: int = 0,
    ) -> None:
        self.kinds, self.pruned, self.dense = kinds, pruned, dense
        self.guide, self.held_back = guide, held_back
        # Whether layers of these roles, in a block of this class, read once in a pass.
        self._read_once: dict[tuple[type[nn.Module], tuple[str, ...]], bool] = {}

    def statistics(
        self,
        layers: Sequence[Layer],
        *,
        leave: bool = True,
        dense_again: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> dict[str, LayerStats]:
        """What these layers, all of the next block, read; by input site.

        - `leave`: with that the dense stream has gone through the block, and stands at the one
          after it.
        - `dense_again`: makes the block dense for the dense stream, where layers of it are pruned.
        """
        runner, dense = self.pruned, self.dense if self.moves_dense else None
        if runner is None or not layers or not self.kinds:
            found = unread(layers)
            if dense is not None and leave:
                with dense_again():
                    dense.advance()
            return found
        last = len(runner.batches) - self.held_back
        found = self._sums(runner, layers, range(last), leave, dense_again)
        if self.held_back:
            held_back = range(last, len(runner.batches))
            apart = self._sums(runner, layers, held_back, leave, dense_again)
            found = {site: joined(found[site], apart[site], self.kinds) for site in found}
        check(found)
        if dense is not None and leave:
            dense.turn()
        return found

    def _sums(
        self,
        runner: BlockRunner,
        layers: Sequence[Layer],
        batches: range,
        leave: bool,
        dense_again: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, LayerStats]:
        """Of some batches, by input site."""
        counts = [len(batch) for batch in runner.batches]
        before, sequences = sum(counts[: batches.start]), sum(counts[i] for i in batches)
        kinds, guide = at_once(self.kinds), self.guide.part(before, sequences)
        dense = self.dense if self.moves_dense else None
        alike = type(runner.stack.blocks[runner.block]), tuple(layer.role for layer in layers)
        with collecting(runner.model, layers, kinds, guide) as collected:
            for index in batches:
                stop = self._read_once.get(alike, False)
                if dense is not None:
                    with collected.dense_stream(), dense_again():
                        if leave:
                            dense.hand_on(index, dense.run(index))
                        else:
                            with collected.one_pass(stop=stop):
                                dense.run(index)
                with collected.one_pass(stop=stop):
                    runner.run(index)
                self._read_once.setdefault(alike, collected.each_read_once)
        return collected.of_part(sequences)

    @property
    def moves_dense(self) -> bool:
        """Whether statistics take the dense stream along."""
        return self.dense is not None and reads_dense(self.kinds)

    def advance(self) -> None:
        """The pruned stream goes through the block as it is now."""
        if self.pruned is not None:
            self.pruned.advance()


def both_streams(kinds: Kinds, sequential: bool) -> bool:
    """Whether the dense stream is carried along: where all statistics are of the dense model
    anyway, the one stream is both."""
    return sequential and reads_dense(kinds)
