"""Run a causal language model one decoder block at a time, for statistics of a half-pruned model.

A block's arguments (masks, positions, caches) are never made here: the model's own forward makes
them. The blocks before the one that matters are stood in for, so that they cost nothing and hand
on what was stored; the forward ends right after it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.models.discover import decoder_blocks
from optishear.models.head import hidden_states


Hidden = Float[Tensor, "..."]  # [batch, seq, hidden] in most models; some carry several streams

# What Python raises where a block looks for something that an earlier one should have left it.
MISSED = (LookupError, TypeError, AttributeError, ValueError)


class _Stop(Exception):
    """Ends a forward pass after a block. Private, so nobody else's error is swallowed."""


class BlockRunner:
    """Token batches on their way through the decoder blocks of one model.

    - `block`: index of the block that comes next; its inputs are known, those of no other are.

    Weights may change at any time: a block runs with those that it has then. Making one proves, on
    the first sequence, that the model's blocks are handed nothing but hidden states by each other.

    Memory: the hidden states of all tokens, in the model's dtype and on its device.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Int[Tensor, "_ seq"]]) -> None:
        if not batches or not all(len(tokens) for tokens in batches):
            raise ConfigError("Calibration got no tokens at all, or a batch without any.")
        self.model, self.batches, self.block = model, batches, 0
        self._path, self._blocks = decoder_blocks(model)
        self._handed: list[Hidden | None] = [None] * len(batches)
        self._forms: list[Callable[[Hidden], Any]] = []  # how each block returns hidden states
        self._prove(batches[0][:1])

    def observe(self) -> None:
        """Runs the next block on all batches for the sake of who listens inside of it."""
        for tokens, handed in zip(self.batches, self._handed, strict=True):
            self._run(self.block, tokens, handed)

    def advance(self) -> None:
        """Runs the next block on all batches; what it makes of them goes into the one after it."""
        for index, tokens in enumerate(self.batches):
            self._handed[index] = self._run(self.block, tokens, self._handed[index])
        self.block += 1

    @torch.no_grad()
    def _run(
        self,
        block: int,
        tokens: Int[Tensor, "batch seq"],
        handed: Hidden | None,
    ) -> Hidden:
        """What `block` makes of one batch. `handed` is what the block before it made, None for the
        first; copies of it are given out, for some models work in place."""
        made: list[Hidden] = []

        def stop(_module: nn.Module, _args: Any, returned: Any) -> None:
            made.append(_hidden(returned))
            raise _Stop

        with ExitStack() as stack:
            for before, form in zip(self._blocks[:block], self._forms):
                assert handed is not None
                stack.enter_context(_stood_in_for(before, form, handed))
            hook = self._blocks[block].register_forward_hook(stop)
            stack.callback(hook.remove)
            stack.enter_context(suppress(_Stop))
            hidden_states(self.model, tokens)
        return made[0]

    def _prove(self, tokens: Int[Tensor, "1 seq"]) -> None:
        """Refuses the model unless each block, alone, makes what it makes in the whole forward.

        Bit for bit, or to a rounding error of the dtype: experts add up in any order on a GPU.
        From the last block to the first, and with another text run in between: what an earlier
        block left lying about (not in what it returned) is then of that text, and shows.
        """
        whole = self._whole(tokens)
        with torch.no_grad():
            hidden_states(self.model, tokens.flip(1))
        for block, want in reversed(list(enumerate(whole))):
            try:
                got = self._run(block, tokens, whole[block - 1] if block else None)
            except MISSED as error:
                raise self._refusal(f"block {block} alone fails ({error!r})") from error
            if got.shape != want.shape:
                raise self._refusal(
                    f"block {block} alone gives {tuple(got.shape)}, not {tuple(want.shape)}"
                )
            if not torch.equal(got, want):
                miss = ((got - want).float().norm() / want.float().norm()).item()
                if not miss <= torch.finfo(want.dtype).eps:  # nan is no match either
                    raise self._refusal(f"block {block} alone is off by {miss:.1e} of its norm")

    @torch.no_grad()
    def _whole(self, tokens: Int[Tensor, "1 seq"]) -> list[Hidden]:
        """What each block makes in one forward of the whole model; notes what kind it returns."""
        called: list[int] = []
        made: list[Hidden] = []

        def note(index: int) -> Callable[..., None]:
            def listen(_module: nn.Module, _args: Any, returned: Any) -> None:
                called.append(index)
                made.append(_hidden(returned).clone())
                self._forms.append(_form(returned))

            return listen

        with ExitStack() as stack:
            for index, block in enumerate(self._blocks):
                stack.callback(block.register_forward_hook(note(index)).remove)
            hidden_states(self.model, tokens)
        if called != list(range(len(self._blocks))):
            raise self._refusal(f"its {len(self._blocks)} blocks are called in the order {called}")
        return made

    def _refusal(self, found: str) -> ConfigError:
        return ConfigError(
            f"{type(self.model).__name__} cannot be pruned block by block ({self._path}): {found}. "
            f"Prune it with `--one-shot`."
        )


def _hidden(returned: Any) -> Hidden:
    """The hidden states in what a block returned: all of it, or the first item."""
    hidden = returned[0] if type(returned) in (tuple, list) and returned else returned
    if not isinstance(hidden, Tensor):
        raise ConfigError(
            f"A decoder block returns a {type(returned).__name__} that does not begin with hidden "
            f"states, so the model cannot be pruned block by block. Prune it with `--one-shot`."
        )
    return hidden


def _form(returned: Any) -> Callable[[Hidden], Any]:
    """Other hidden states as a block would return them. What it returns beside them is None: to
    keep it would take more memory (attention weights), and no model that passes reads it."""
    if isinstance(returned, Tensor):
        return lambda hidden: hidden
    kind, more = type(returned), [None] * (len(returned) - 1)
    return lambda hidden: kind([hidden, *more])


@contextmanager
def _stood_in_for(
    module: nn.Module, form: Callable[[Hidden], Any], hidden: Hidden
) -> Iterator[None]:
    """`module` answers without looking at what it is asked; its own forward is given back."""
    own = vars(module)
    before = {"forward": own["forward"]} if "forward" in own else {}  # accelerate sets one
    own["forward"] = lambda *_args, **_kwargs: form(hidden.clone())
    try:
        yield
    finally:
        del own["forward"]
        own.update(before)
