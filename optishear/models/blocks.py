"""Running of some decoder blocks of a model, the ones before them stood in for.

A block's arguments (masks, positions, caches) are never made here: the model's own forward makes
them. The blocks before the one that matters cost nothing and hand on what was stored. Whether a
model bears that is proved on it. `BlockRunner` runs one block after the other, for statistics of a
half-pruned model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from optishear.errors import ConfigError
from optishear.models.block_calls import (
    Entangled,
    Hidden,
    answering,
    as_forward,
    form_of,
    given,
    hidden_of,
)
from optishear.models.discover import decoder_blocks
from optishear.models.finite import refuse_overflow
from optishear.models.head import hidden_states
from optishear.models.shared_state import NOTHING, Shared, SharedStates, sharing
from optishear.tasks import Batch, task_of


# What Python raises where a block looks for something that an earlier one should have left it.
MISSED = (LookupError, TypeError, AttributeError, ValueError)


class _Stop(Exception):
    """Ends a forward pass after a block. Private, so nobody else's error is swallowed."""


class BlockStack:
    """The decoder blocks of one model, the first of which can be stood in for.

    - `path`: where in the model they are.
    - `shared`: what each block and those before it had left on the sample, beside hidden states, in
      mappings that all of them are given.
    - `shares`: whether blocks are run with it; only where it has been seen that they need it.

    `states` comes first: it finds out how each block returns its hidden states, and what it shares.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.path, self.blocks = decoder_blocks(model)
        self._forms: list[Callable[[Hidden], Any]] = []
        self.shared: list[Shared] = []
        self.shares = False

    @torch.no_grad()
    def states(self, sample: Batch) -> list[Hidden]:
        """What each block makes in one forward of the whole model; notes what kind it returns."""
        called: list[int] = []
        made: list[Hidden] = []
        forms: list[Callable[[Hidden], Any]] = []

        def note(index: int) -> Callable[..., None]:
            def listen(_module: nn.Module, _args: Any, returned: Any) -> None:
                called.append(index)
                made.append(hidden_of(returned).clone())
                forms.append(form_of(returned))

            return listen

        with ExitStack() as stack:
            left = [stack.enter_context(sharing(block, NOTHING)) for block in self.blocks]
            for index, block in enumerate(self.blocks):
                stack.callback(block.register_forward_hook(note(index)).remove)
            hidden_states(self.model, sample)
        if called != list(range(len(self.blocks))):
            raise Entangled(f"its {len(self.blocks)} blocks are called in the order {called}")
        self._forms = forms
        self.shared = list(accumulate(left, lambda before, own: {**before, **own}))
        return made

    @contextmanager
    def stood_in_for(self, count: int, give: Callable[[], Hidden]) -> Iterator[None]:
        """The first `count` blocks cost nothing and return what `give` gives, a copy each time:
        some models work in place."""
        with ExitStack() as stack:
            for block, form in zip(self.blocks[:count], self._forms):
                stack.enter_context(answering(block, as_forward(form, give)))
            yield

    @torch.no_grad()
    def run(self, block: int, batch: Batch, handed: Hidden | None) -> Hidden:
        """What `block` makes of one batch. `handed` is what goes into it: what the block before it
        made. For the first, None is what the model itself hands it."""
        return self._made(block, batch, handed, NOTHING)[0]

    @torch.no_grad()
    def run_sharing(
        self, block: int, batch: Batch, handed: Hidden | None, shared: Shared
    ) -> tuple[Hidden, Shared]:
        """The same, with what the blocks before it left beside hidden states; and that with what
        this one leaves."""
        return self._made(block, batch, handed, shared)

    @torch.enable_grad()
    def recorded(self, block: int, batch: Batch, handed: Hidden | None) -> Hidden:
        """The same as `run`, for a backward pass to `handed` and whatever in the block needs a
        gradient."""
        return self._made(block, batch, handed, NOTHING)[0]

    def _made(
        self, block: int, batch: Batch, handed: Hidden | None, shared: Shared
    ) -> tuple[Hidden, Shared]:
        made: list[Hidden] = []

        def stop(_module: nn.Module, _args: Any, returned: Any) -> None:
            made.append(hidden_of(returned))
            raise _Stop

        def give() -> Hidden:
            assert handed is not None
            return handed.clone()

        with ExitStack() as stack:
            stack.enter_context(self.stood_in_for(block, give))
            if block == 0 and handed is not None:
                first = self.blocks[0].register_forward_pre_hook(given(give), with_kwargs=True)
                stack.callback(first.remove)
            left = shared
            if self.shares:
                left = stack.enter_context(sharing(self.blocks[block], shared))
            hook = self.blocks[block].register_forward_hook(stop)
            stack.callback(hook.remove)
            stack.enter_context(suppress(_Stop))
            hidden_states(self.model, batch)
        return made[0], left

    def prove(self, sample: Batch, states: list[Hidden], *, to_rounding: bool) -> None:
        """Raises `Entangled` unless each block, alone, makes what it makes in the whole forward.

        Bit for bit, or `to_rounding`, an error of the dtype's epsilon in norm: experts add up in
        any order on a GPU. From the last block to the first, and with another sample run between:
        what an earlier block left lying about (not in what it returned) is then of that one, and
        shows. What is not finite proves nothing: that is a `ConfigError`.
        """
        with torch.no_grad():
            hidden_states(self.model, task_of(self.model).other(sample))
        for block, want in reversed(list(enumerate(states))):
            refuse_overflow(self.model, want, f"what block {block} makes of the text")
            shared = self.shared[block - 1] if self.shares and block else NOTHING
            try:
                handed = states[block - 1] if block else None
                got, _ = self.run_sharing(block, sample, handed, shared)
            except MISSED as error:
                raise Entangled(f"block {block} alone fails ({error!r})") from error
            if got.shape != want.shape:
                raise Entangled(
                    f"block {block} alone gives {tuple(got.shape)}, not {tuple(want.shape)}"
                )
            if not torch.equal(got, want):
                miss = ((got - want).float().norm() / want.float().norm()).item()
                # nan is no match either
                if not (to_rounding and miss <= torch.finfo(want.dtype).eps):
                    raise Entangled(f"block {block} alone is off by {miss:.1e} of its norm")


def proved(model: nn.Module, sample: Batch, *, refused: str, instead: str) -> BlockStack:
    """The blocks of a model that has been seen to run apart on this sample, to rounding: handed
    nothing by each other but hidden states, or also what they share.

    A `ConfigError` where it does not: what it cannot be (`refused`), and what to do `instead`.
    """
    stack = BlockStack(model)
    try:
        states = stack.states(sample)
        try:
            stack.prove(sample, states, to_rounding=True)
        except Entangled:
            if not any(stack.shared):
                raise
            stack.shares = True
            stack.prove(sample, states, to_rounding=True)
    except Entangled as why:
        raise ConfigError(
            f"{type(model).__name__} cannot be {refused} block by block ({stack.path}): {why}. "
            f"{instead}"
        ) from why
    return stack


@runtime_checkable
class Handed(Protocol):
    """What one block hands to the next, by batch; None before the first block."""

    def __getitem__(self, batch: int, /) -> Hidden | None: ...

    def __setitem__(self, batch: int, hidden: Hidden, /) -> None: ...


class BlockRunner:
    """Batches on their way through the decoder blocks of one model.

    - `block`: index of the block that comes next; its inputs are known, those of no other are.
    - `stack`: of the model, proved already. Without one, making a runner proves on the first
      sequence that the model's blocks are handed nothing by each other but hidden states and what
      is shared, and it is there afterwards.
    - `handed`: keeps the hidden states that go into `block`; in memory if there is none. `shared`:
      likewise what goes into it beside them.

    Weights may change at any time: a block runs with those that it has then.

    Memory: the hidden states of all samples, in the model's dtype and on its device, or `handed`'s;
    beside them what blocks share.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        stack: BlockStack | None = None,
        handed: Handed | None = None,
        shared: SharedStates | None = None,
        block: int = 0,
    ) -> None:
        if not batches or not all(len(batch) for batch in batches):
            raise ConfigError(
                f"Calibration got no {task_of(model).unit_name} at all, or a batch without any."
            )
        self.model, self.batches, self.block = model, batches, block
        first: list[Hidden | None] = [None] * len(batches)
        self._handed: Handed = first if handed is None else handed
        nothing: list[Shared] = [NOTHING] * len(batches)
        self._shared: SharedStates = nothing if shared is None else shared
        self._left: dict[int, Shared] = {}  # by batch, what the next block left when it last ran
        self.stack = stack or proved(
            model, batches[0][:1], refused="pruned", instead="Prune it with `--one-shot`."
        )

    @property
    def handed(self) -> Handed:
        """What goes into the next block, by batch; it stays that when the runner has gone on, as
        long as the next block is not done."""
        return copy(self._handed)

    def run(self, index: int) -> Hidden:
        """What the next block makes of one batch."""
        batch, handed = self.batches[index], self._handed[index]
        if not self.stack.shares:
            return self.stack.run(self.block, batch, handed)
        shared = self._shared[index]
        made, self._left[index] = self.stack.run_sharing(self.block, batch, handed, shared)
        return made

    def hand_on(self, index: int, hidden: Hidden) -> None:
        """This is what goes into the block after the next one of a batch, once all `turn`; with
        what the next one shared when it last ran."""
        self._handed[index] = hidden
        if self.stack.shares:
            self._shared[index] = self._left.pop(index)

    def turn(self) -> None:
        """All batches were handed on, and go into the block after it."""
        self.block += 1

    def advance(self) -> None:
        """Runs the next block on all batches; what it makes of them goes into the one after it."""
        for index in range(len(self.batches)):
            self.hand_on(index, self.run(index))
        self.turn()
