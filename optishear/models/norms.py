"""What of a decoder block is no matrix: the weights of norms, and biases."""

from torch import nn

from optishear.models.discover import decoder_blocks


def norms_of(model: nn.Module, block: int) -> list[str]:
    """Names of the parameters of one dimension in this decoder block."""
    prefix, blocks = decoder_blocks(model)
    named = blocks[block].named_parameters()
    return [f"{prefix}.{block}.{name}" for name, parameter in named if parameter.ndim == 1]
