"""The sentence for a model whose numbers leave the range of their dtype."""

import torch
from torch import Tensor, nn

from optishear.errors import ConfigError


def not_finite(what: str) -> str:
    """`what` is the subject of the sentence."""
    return (
        f"{what} is not finite. Load the model in bf16 or fp32 (--dtype bfloat16 or float32) if it "
        f"overflows in fp16, else check the checkpoint."
    )


def refuse_overflow(model: nn.Module, numbers: Tensor, what: str) -> None:
    """A `ConfigError` unless all these numbers are finite; waits for their device."""
    if not bool(torch.isfinite(numbers).all()):
        dtype = str(numbers.dtype).removeprefix("torch.")
        raise ConfigError(not_finite(f"{type(model).__name__} in {dtype}: {what}"))
