"""Next-token distributions to the accuracy that small divergences need, in few passes over logits.

Logits are fp32; everything with one number a token (log-sum-exp, probability of a bucket) is fp64.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from optishear.kernels import log_sum_exp as kernel
from optishear.models.head import Head


CACHE_ELEMENTS = 2**18  # of fp32 logits, 1 MiB: what a CPU core keeps near from pass to pass


@dataclass(frozen=True, eq=False)
class Normaliser:
    """What turns logits z into probabilities: p_v = exp(z_v - peak) / mass.

    `peak` is the token's largest logit (fp32), `mass` the sum over v of exp(z_v - peak): each term
    fp32, their sum fp64. So a sum over a few v of the same terms can be taken from it again and
    what is left is still accurate, however small.
    """

    peak: Float[Tensor, " tokens"]
    mass: Float[Tensor, " tokens"]

    @cached_property
    def lse(self) -> Float[Tensor, " tokens"]:
        """log sum_v exp(z_v), in fp64."""
        return self.peak.double() + self.mass.log()


@torch.no_grad()
def normaliser(logits: Float[Tensor, "tokens vocab"]) -> Normaliser:
    """Reads the logits once: on a CPU all passes over a few rows come before the next few rows.

    341 x 49,152 logits on one core: 0.04 s and off by 4e-9 (given the logits), where
    `torch.logsumexp` takes 0.07 s and is off by 8e-7; their head product from width 576 takes 0.47.
    """
    tokens, vocab = logits.shape
    peak = logits.amax(-1)
    mass = torch.empty(tokens, dtype=torch.float64, device=logits.device)
    # An accelerator wants few large kernels instead.
    rows = max(1, CACHE_ELEMENTS // vocab) if logits.device.type == "cpu" else max(1, tokens)
    scratch = torch.empty(min(rows, tokens), vocab, device=logits.device)
    for z, top, total in zip(logits.split(rows), peak.split(rows), mass.split(rows), strict=True):
        terms = torch.sub(z, top[:, None], out=scratch[: len(z)]).exp_()
        torch.sum(terms, -1, dtype=torch.float64, out=total)
    return Normaliser(peak, mass)


def fits_without_logits(head: Head, hidden: Float[Tensor, "tokens hidden"]) -> bool:
    """Whether a kernel sums up logits without keeping them: not under a soft cap."""
    return head.linear and kernel.fits(hidden, head.weight)


@torch.no_grad()
def log_sum_exp_without_logits(
    head: Head, hidden: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, " tokens"] | None:
    """The log-sum-exp of the head's logits, in fp64; None where no kernel fits.

    Off from `normaliser(head.logits(hidden)).lse` by the rounding of fp32 logits, so a divergence
    has both its sides from here or both from there.
    """
    if not fits_without_logits(head, hidden):
        return None
    return kernel.log_sum_exp(hidden, head.weight, head.bias, head.scale)


def bucket_log_probs(
    logits: Float[Tensor, "tokens vocab"],
    norm: Normaliser,
    entries: Int[Tensor, "tokens top"],
) -> Float[Tensor, "tokens top+1"]:
    """Log-probabilities of these vocabulary entries and, last, of all the others together, in fp64.

    The others' probability is mass - sum of the top terms over mass, the terms being bit for bit
    those that `mass` sums. Below the rounding of that sum it is held at the rounding, 2e-16; below
    zero by more than fp32 terms round, `norm` is of other logits, and it is NaN.
    """
    z = logits.gather(1, entries)
    terms = (z - norm.peak[:, None]).exp().double()
    rest = (norm.mass - terms.sum(-1)) / norm.mass
    least = torch.finfo(torch.float64).eps
    rest = torch.where(rest < -torch.finfo(logits.dtype).eps, math.nan, rest.clamp_min(least))
    return torch.cat([z.double() - norm.lse[:, None], rest.log()[:, None]], dim=1)


def recorded_logits(
    head: Head, hidden: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, "tokens vocab"]:
    """The head's logits for a backward pass: nothing in place, as wide as the hidden states and in
    fp32 at least."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    bias = None if head.bias is None else head.bias.to(wide)
    raw = F.linear(hidden.to(wide), head.weight.to(wide), bias) * head.scale
    return raw if head.softcap is None else head.softcap * torch.tanh(raw / head.softcap)


def log_probs(head: Head, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocab"]:
    """Of the next tokens, for a backward pass."""
    return recorded_logits(head, hidden).log_softmax(-1)
