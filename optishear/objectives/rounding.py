"""Bounds of rounding in numbers that cannot be negative; below them a value is refused."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import NumericalError
from optishear.models.head import Head
from optishear.objectives.base import Chunk


UNIT = torch.finfo(torch.float32).eps / 2  # relative error of one operation in fp32
SURE = 2.0  # times an estimate from above; errors against fp64 were a tenth of that or less


@dataclass(eq=False)
class NeverNegative:
    """Watches the parts of a sum, none of which is negative in exact numbers.

    Every part comes with what rounding may have done to it. One that is further below zero was not
    made by rounding: then what it was compared with is not what it was taken for, and the total is
    a `NumericalError`, however large the other parts are. A total that is below zero by rounding
    alone is 0, the nearest that it can be. NaN stays NaN.
    """

    what: str
    least: Tensor | None = None

    def saw(self, parts: Float[Tensor, "..."], rounding: Float[Tensor, "..."]) -> None:
        """Never waits for the device."""
        least = (parts + rounding).amin()
        self.least = least if self.least is None else torch.minimum(self.least, least)

    def total(self, parts: Tensor | float) -> float:
        """The sum of all parts that were seen."""
        if self.least is not None and (beyond := float(self.least)) < 0:
            raise NumericalError(
                f"{self.what} cannot be negative, but somewhere it is, by {-beyond:.3g} more than "
                f"rounding explains: the dense model's answers, which it is taken against, are not "
                f"those that it stands for (another model's, or other tokens')."
            )
        total = float(parts)
        return 0.0 if total < 0 else total


def kl_rounding(chunk: Chunk) -> Float[Tensor, " tokens"]:
    """How far each token's `KL` may be off by rounding, an estimate from above.

    KL = A(h_q) - A(h_p) - (h_q - h_p) . g, A the log-sum-exp of the logits, g its gradient at h_p;
    u is fp32's unit, d the width, V the vocabulary, r the longest row of the head, b the bias.

    - A logit z = h . W_v: d roundings of partial sums, which walk at random up to r ||h|| and drift
      to z; with |z| up to |A| they amount to e(h) = u (r ||h|| + b + sqrt(d) |A(h)|).
    - A(h): off by its logits' mean error, e(h) at most; its terms exp(z - peak) by
      u (1 + peak - z), on average u (1 + log V): peak - z averages to no more than the entropy.
    - g, along c = h_q - h_p: V sums of fp32 terms, u sqrt(V) r ||c||; and its probabilities are off
      by e(h_p) and u (1 + log V), each times r ||c||.

    Under a soft cap logits are rounded once more, at up to its size. All of it `SURE` times.
    """
    head = chunk.reference.head
    dense, pruned = chunk.reference.hidden.float(), chunk.hidden.float()
    reference = chunk.reference.tangent if head.linear else chunk.reference.normaliser
    vocabulary = len(head.weight)
    few = UNIT * (1 + math.log(vocabulary))
    off_dense = _logit_rounding(head, dense, reference.lse)
    off_pruned = _logit_rounding(head, pruned, chunk.lse)
    along = head.longest_row * torch.linalg.vector_norm(pruned - dense, dim=-1)
    off_slope = off_dense + few + UNIT * math.sqrt(vocabulary)
    return SURE * (off_dense + off_pruned + 2 * few + along * off_slope)


def bucket_rounding(chunk: Chunk) -> Float[Tensor, ""]:
    """How far below zero a token's `KLTop` may be by rounding.

    Both sides are distributions over the same buckets, whatever logits they are of, but for their
    sums P and Q: off from 1 by what fp32 terms are off, u (1 + log V) on average. The log-sum
    inequality, sum p log(p/q) >= P log(P/Q), leaves no more than that.
    """
    weight = chunk.reference.head.weight
    off = 2 * SURE * UNIT * (1 + math.log(len(weight)))
    return torch.full((), off, dtype=torch.float64, device=weight.device)


def form_rounding(
    hidden: Float[Tensor, "tokens hidden"], gram: Float[Tensor, "hidden hidden"]
) -> Float[Tensor, ""]:
    """How far sum h G h^T may be off: G's own rounding, and sqrt(d) of them in its product with h,
    relative to ||G|| ||h||^2 of which tr G ||h||^2 is no less."""
    size = gram.diagonal().sum() * hidden.square().sum(dtype=torch.float64)
    return SURE * UNIT * (1 + math.sqrt(hidden.shape[-1])) * size


def _logit_rounding(
    head: Head, hidden: Float[Tensor, "tokens hidden"], lse: Float[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    loudest = head.longest_row * torch.linalg.vector_norm(hidden, dim=-1) + head.largest_bias
    drift = math.sqrt(hidden.shape[-1]) * lse.abs()
    return UNIT * (loudest + drift + (head.softcap or 0.0))
