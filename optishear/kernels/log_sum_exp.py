"""Log-sum-exp of a linear head's logits, a tile of them at a time: none of them reaches memory."""

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.kernels.use import on_device_of, usable


SAME = (torch.float32, torch.bfloat16, torch.float16)  # of head and hidden states alike


def fits(hidden: Tensor, weight: Tensor) -> bool:
    """Whether there is a kernel for a head like this; the reference is for all others."""
    alike = hidden.dtype == weight.dtype and weight.dtype in SAME
    return usable(hidden, weight) and alike and weight.stride(1) == 1 and len(hidden) > 0


def log_sum_exp(
    hidden: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    bias: Float[Tensor, " vocab"] | None = None,
    scale: float = 1.0,
) -> Float[Tensor, " tokens"]:
    """log sum_v exp(scale * (h W^T + b)_v), in fp64.

    Products of bf16 and fp16 are exact in fp32, in which they are added, as fp32 ones are ("ieee":
    no TF32); so logits are those of the fp32 reference up to the order of sums. A tile's terms are
    added in fp32, the tiles in fp64. A token's result does not depend on the other tokens.
    """
    from optishear.kernels.head import tile_sums

    with on_device_of(hidden):
        peak, mass = tile_sums(hidden.contiguous(), weight, bias, scale)
    top = peak.amax(0)
    total = (mass.double() * (peak - top).double().exp()).sum(0)
    return top.double() + total.log()
