"""Decoder blocks through torch.compile for a while: a search has few shapes, so it pays off."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from optishear.models.discover import decoder_blocks


@contextmanager
def compiled_blocks(model: nn.Module) -> Iterator[None]:
    """`model` with each decoder block compiled, block by block: they share their code, so that it
    is made once a shape, and weights may be written in place between calls.

    Compiled code adds up in another order, so values differ in their last bits from those of the
    model as it is. Needs a C++ compiler on a CPU, Triton on a GPU.
    """
    blocks: list[Any] = list(decoder_blocks(model)[1])
    before = [block._compiled_call_impl for block in blocks]
    try:
        for block in blocks:
            block.compile(dynamic=False)
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            block._compiled_call_impl = own
