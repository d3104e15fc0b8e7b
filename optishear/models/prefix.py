"""Prefix reuse: the same batches through many versions of a model, from the first new block on.

What goes from one decoder block to the next depends on the weights of the blocks before it and on
nothing else. A candidate that shares its first blocks with an earlier one begins where they part.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.models.blocks import MISSED, BlockStack, Entangled, Hidden, hidden_of
from optishear.models.head import hidden_states
from optishear.tasks import Batch, task_of


Prefix = tuple[str, ...]  # the keys of the first so many blocks

PATIENCE = 24  # candidates: a generation, so that a parent's states outlive its children


class NotReusable(ConfigError):
    """Prefixes cannot be reused here. Nothing is lost but time by going on without."""


class PrefixForward:
    """Final hidden states of fixed batches, every forward begun where it is first unknown.

    - `limit_bytes`: of hidden states between blocks kept from earlier forwards, all batches
      together, at any moment; in the model's dtype and on its device.
    - `blocks_run`, `blocks_reused`: forwards of one block on one batch so far, done and saved.

    In what follows `keys[b]` names the content of block b's weights, so that equal keys mean equal
    bits. Results are equal bit for bit to those of `head.hidden_states`, on the same device and
    number of threads: making one proves it on the first sample, or raises `NotReusable`.

    Every batch has room for the same number of states, so that one batch never drives out what
    another will need: all of them know the same prefixes after the same candidates.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch], limit_bytes: int) -> None:
        if not batches or not all(len(batch) for batch in batches):
            raise ConfigError(
                f"The search got no {task_of(model).unit_name} at all, or a batch without any."
            )
        self.model, self.batches = model, batches
        self._stack = BlockStack(model)
        self._blocks = len(self._stack.blocks)
        each = self._proved_state_bytes(batches[0][:1])
        samples = sum(len(batch) for batch in batches)
        slots = limit_bytes // (max(each) * samples)
        if not slots:
            raise NotReusable(
                f"memory.prefixes: {limit_bytes:,} bytes do not hold the hidden states after one "
                f"block ({max(each) * samples:,} bytes for {samples} {task_of(model).samples}; "
                f"one candidate's {self._blocks} blocks: {sum(each) * samples:,}). Allow more, or "
                f"set it to 0 to reuse nothing."
            )
        self._known = [_Known(slots, self._blocks) for _ in batches]
        self.blocks_run = self.blocks_reused = 0

    @property
    def held_bytes(self) -> int:
        """Of hidden states kept at this moment: never above the limit."""
        return sum(known.held_bytes for known in self._known)

    def first_block(self, batches: range, keys: Sequence[str]) -> int:
        """The first block that must have its right weights for a forward of any of these batches.

        The number of blocks where all final states are known. Holds until another candidate runs.
        """
        prefix = self._checked(keys)
        return min((self._known[batch].depth(prefix) for batch in batches), default=self._blocks)

    @torch.no_grad()
    def hidden_states(
        self, batch: int, keys: Sequence[str], right_from: int = 0
    ) -> Float[Tensor, "*rows hidden"]:
        """What goes into the output head for `batches[batch]`.

        - `right_from`: the model's blocks from here on have the weights that `keys` names; the
          earlier ones may have any. What `first_block` said, or 0.
        """
        prefix, known = self._checked(keys), self._known[batch]
        start = known.depth(prefix)
        if start < right_from:
            raise ValueError(
                f"Batch {batch} has to run from block {start} on, but weights are right from block "
                f"{right_from} on only. Ask `first_block` right before the candidate runs."
            )
        known.renew(prefix)
        with ExitStack() as stack:
            stack.enter_context(
                self._stack.stood_in_for(start, lambda: known.copy_of(prefix[:start]))
            )
            for index, block in list(enumerate(self._stack.blocks))[start:]:
                hook = block.register_forward_hook(_remembering(known, prefix[: index + 1]))
                stack.callback(hook.remove)
            final = hidden_states(self.model, self.batches[batch])
        self.blocks_run += self._blocks - start
        self.blocks_reused += start
        return final

    def _checked(self, keys: Sequence[str]) -> Prefix:
        if len(keys) != self._blocks:
            raise ValueError(f"{len(keys)} keys for {self._blocks} blocks: give one a block.")
        return tuple(keys)

    @torch.no_grad()
    def _proved_state_bytes(self, sample: Batch) -> list[int]:
        """Bytes of what each block makes of one sample, once it is proved that it can be reused.

        Each block alone makes what it makes in the whole forward, and so does what follows the
        last one; then by induction so does a forward begun at any block.
        """
        try:
            states = self._stack.states(sample)
            self._stack.prove(sample, states, to_rounding=False)
            want = hidden_states(self.model, sample)
            hidden_states(self.model, task_of(self.model).other(sample))
            try:
                with self._stack.stood_in_for(self._blocks, lambda: states[-1].clone()):
                    got = hidden_states(self.model, sample)
            except MISSED as error:
                raise Entangled(f"what follows its blocks fails alone ({error!r})") from error
            if not torch.equal(got, want):
                raise Entangled("what follows its blocks makes something else alone")
        except Entangled as why:
            raise NotReusable(
                f"{type(self.model).__name__} cannot start at a block in the middle "
                f"({self._stack.path}): {why}. Set `memory.prefixes: 0`, so that every candidate "
                f"runs from the first block on."
            ) from why
        return [_bytes_of(state) for state in states]


class _Known:
    """The states between blocks that one batch knows, at most `slots` of them.

    When full it gives up the state with the earliest time, of equals the deepest:

        t(d) = the last candidate that ran through it + PATIENCE * (how often 2 divides d)

    with d the number of blocks done. So the less room there is, the wider apart are the states
    that stay, and a child seldom runs far before it parts from its parent. The last block's d
    counts as odd: only a candidate with all keys equal can use its state.

    Plain LRU keeps every state of a few candidates instead. Simulated, 30 blocks and 624 candidates
    (24 parents; a child changes each block at 1/30; best 24 stay): LRU saved 8, 17 and 28 % of all
    block forwards with room for 30, 100 and 300 states, this 21, 34 and 42 %; both 47 % with room
    for all. Where a child takes each block from either of two parents: 4, 8 and 14 %, this 4, 11
    and 19 %; both 25 %.
    """

    def __init__(self, slots: int, blocks: int) -> None:
        self.slots, self.blocks = slots, blocks
        self.candidate = 0
        self.states: dict[Prefix, Hidden] = {}
        self.times: dict[Prefix, tuple[int, int]] = {}

    @property
    def held_bytes(self) -> int:
        return sum(_bytes_of(state) for state in self.states.values())

    def depth(self, prefix: Prefix) -> int:
        """How many of the first blocks are known to have made what."""
        return next((d for d in range(self.blocks, 0, -1) if prefix[:d] in self.states), 0)

    def copy_of(self, prefix: Prefix) -> Hidden:
        return self.states[prefix].clone()

    def renew(self, prefix: Prefix) -> None:
        """A candidate begins: what it shares with earlier ones was last used now."""
        self.candidate += 1
        for depth in range(1, self.blocks + 1):
            if prefix[:depth] in self.states:
                self.times[prefix[:depth]] = self._time(depth)

    def remember(self, prefix: Prefix, state: Hidden) -> None:
        """A copy of `state`, if it is worth more than what would have to go for it."""
        time = self._time(len(prefix))
        if prefix not in self.states and len(self.states) == self.slots:
            worst = min(self.times, key=self.times.__getitem__)
            if time < self.times[worst]:
                return
            del self.states[worst], self.times[worst]
        self.states[prefix], self.times[prefix] = state.clone(), time

    def _time(self, depth: int) -> tuple[int, int]:
        halvings = 0 if depth == self.blocks else (depth & -depth).bit_length() - 1
        return self.candidate + PATIENCE * halvings, -depth


def _remembering(known: _Known, prefix: Prefix) -> Callable[..., None]:
    def remember(_module: nn.Module, _args: Any, returned: Any) -> None:
        known.remember(prefix, hidden_of(returned))

    return remember


def _bytes_of(state: Hidden) -> int:
    return state.numel() * state.element_size()
