"""Decoder blocks whose activations are made again in a backward pass, rather than kept for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from optishear.models.blocks import BlockStack, Entangled
from optishear.models.discover import decoder_blocks
from optishear.tasks import Batch


@contextmanager
def checkpointed_blocks(model: nn.Module) -> Iterator[None]:
    """`model` with its decoder blocks checkpointed (Chen et al. 2016, arXiv 1604.06174): a forward
    pass keeps what goes into each block, and a backward pass runs a block once more when it gets
    there. Values and gradients are the same bit for bit where a block's forward always gives the
    same bits, and each parameter's gradient comes once, from the one graph of the forward pass.

    Not the last block: its activations are needed at once.

    Memory from forward to backward: the hidden states between blocks, and the activations of one
    block; without it the activations of all. Time: a forward pass more, but for the last block.
    """
    blocks: list[Any] = list(decoder_blocks(model)[1])[:-1]
    before = [block._compiled_call_impl for block in blocks]
    try:
        for block, compiled in zip(blocks, before, strict=True):
            # Where torch.compile puts a block's call: all hooks lie within, and compiled code may.
            block._compiled_call_impl = _checkpointed(compiled or block._call_impl)
        yield
    finally:
        for block, compiled in zip(blocks, before, strict=True):
            block._compiled_call_impl = compiled


def _checkpointed(call: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        # Models are in eval mode, so that no random number is drawn that would have to be again.
        return checkpoint(call, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def why_not_checkpointed(model: nn.Module, sample: Batch) -> str | None:
    """Why the model's blocks cannot be run again later, if so: one depends on what others leave
    lying about. Proved on this sample, by running each block alone."""
    stack = BlockStack(model)
    try:
        stack.prove(sample, stack.states(sample), to_rounding=True)
    except Entangled as why:
        return str(why)
    return None
