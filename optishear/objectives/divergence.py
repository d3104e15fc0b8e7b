"""Divergences: how far the pruned model's answers are from the dense model's."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optishear.errors import NumericalError
from optishear.objectives.base import Chunk, Number, OutputObjective, Reference, Summed
from optishear.objectives.rounding import (
    NeverNegative,
    bucket_rounding,
    form_rounding,
    kl_rounding,
)
from optishear.objectives.softmax import log_probs, recorded_logits


class Reconstruction(Summed):
    """OptiShear's model-wise reconstruction error ||logits - dense logits||_F over all tokens.

    Where the head is linear no logit is made: with d the difference of the final hidden states and
    G = W^T W of the head, the squared norm is the sum of d G d^T over tokens, exactly.
    """

    unit = "‖Δ logits‖_F"
    description = "model-wise reconstruction error ‖logits − dense logits‖_F (arXiv 2502.10735)"
    centred = False

    def __init__(self) -> None:
        self.squared: Tensor | float = 0.0
        self.sign = NeverNegative("The squared reconstruction error")

    def update(self, chunk: Chunk) -> None:
        squared, rounding = _squared_change(chunk, self.centred)
        self.squared = self.squared + squared
        self.sign.saw(squared, rounding)

    def value(self) -> float:
        return self.sign.total(self.squared) ** 0.5

    def summand(
        self, hidden: Float[Tensor, "tokens hidden"], reference: Reference
    ) -> tuple[Float[Tensor, ""], int]:
        head = reference.head
        change = recorded_logits(head, hidden) - recorded_logits(head, reference.hidden)
        if self.centred:
            change = change - change.mean(-1, keepdim=True)
        return change.square().sum(), len(change)

    def valued(self, total: float, counted: int) -> float:
        return total**0.5

    def derivative(self, total: float, counted: int) -> float:
        """Of a root: none at 0, where nothing was dropped."""
        if total <= 0:
            raise NumericalError("A reconstruction error of 0 has no slope: nothing is dropped.")
        return 0.5 / total**0.5


class CentredReconstruction(Reconstruction):
    """The reconstruction error of logits less their mean over the vocabulary, token by token.

    What all logits of a token have in common changes no probability; and pruning moves it: on
    SmolLM2-135M at 60 % it is nine tenths of the squared reconstruction error.
    """

    unit = "‖Δ centred logits‖_F"
    description = "reconstruction error of logits less their mean over the vocabulary"
    centred = True


class RelativeReconstruction(OutputObjective):
    """The reconstruction error over the norm of the dense logits: comparable between models."""

    unit = "‖Δ logits‖_F / ‖logits‖_F"
    description = "reconstruction error over the norm of the dense logits"

    def __init__(self) -> None:
        self.absolute = Reconstruction()
        self.scale: Tensor | float = 0.0

    def update(self, chunk: Chunk) -> None:
        self.absolute.update(chunk)
        self.scale = self.scale + chunk.reference.squared_norm

    def value(self) -> float:
        if (scale := float(self.scale)) <= 0:
            raise NumericalError(
                f"The dense model's logits have the squared norm {scale:g} on the search text, so "
                f"no error is relative to it. Search by `reconstruction` instead."
            )
        return self.absolute.value() / scale**0.5


class KL(Summed):
    """KL(dense || pruned) of the next-token distributions, nats per token, all positions.

    Where the head is linear, from the pruned model's log-sum-exp alone: with A(h) the log-sum-exp
    of the logits, KL(p || q) = A(h_q) - A(h_p) - (h_q - h_p) . grad A(h_p), the Bregman divergence
    of A (Banerjee et al. 2005, "Clustering with Bregman Divergences", JMLR 6). A(h_p) and its
    gradient are the reference's `Tangent`; entropy and bias drop out, and equal hidden states give
    exactly 0. Against fp64 the mean over 1,024 tokens (8,192 x 576, divergences 1e-8 to 7) is off
    by at most 1.3e-7 nats: the rounding of fp32 logits. With a soft cap the logits are not linear
    in h and the dense ones are made anew for each candidate.

    A token whose divergence is below zero by more than `kl_rounding` is a `NumericalError`: the
    tangent is then not one at these dense states. A mean below zero by rounding alone is 0.
    """

    unit = "nats/token"
    description = "KL(dense ‖ pruned) of the next-token distributions"

    def __init__(self) -> None:
        self.nats: Tensor | float = 0.0
        self.sign = NeverNegative("KL(dense ‖ pruned)")
        self.tokens = 0

    def update(self, chunk: Chunk) -> None:
        nats = _kl_linear(chunk) if chunk.reference.head.linear else _kl_capped(chunk)
        self.nats = self.nats + nats.sum()
        self.sign.saw(nats, kl_rounding(chunk))
        self.tokens += len(nats)

    def value(self) -> float:
        return self.sign.total(self.nats) / self.tokens

    def summand(
        self, hidden: Float[Tensor, "tokens hidden"], reference: Reference
    ) -> tuple[Float[Tensor, ""], int]:
        dense = log_probs(reference.head, reference.hidden)
        nats = dense.exp() * (dense - log_probs(reference.head, hidden))
        return nats.sum(), len(nats)

    def valued(self, total: float, counted: int) -> float:
        return total / counted

    def derivative(self, total: float, counted: int) -> float:
        return 1 / counted


class KLTop(Summed):
    """KL(dense || pruned) over the dense model's K likeliest tokens and one bucket for the rest:

    sum_{v in top} p_v log(p_v / q_v) + p_rest log(p_rest / q_rest), nats per token. Merging tokens
    into a bucket can only lose divergence, so it is at most `KL`, and equal to it for any K from
    the vocabulary less one on. The dense side is kept as [tokens, K], for any head.
    """

    unit = "nats/token"
    description = (
        "KL over the dense model's K likeliest tokens and one bucket for the rest, "
        "written kl_top@64: at most kl, and no second head product where logits are soft-capped"
    )
    number = Number(int, "a number of tokens", "64", 1, math.inf)

    def __init__(self, top: int):
        self.top = top
        self.nats: Tensor | float = 0.0
        self.sign = NeverNegative(f"KL(dense ‖ pruned) over {top} tokens and the rest")
        self.tokens = 0

    def update(self, chunk: Chunk) -> None:
        dense = chunk.reference.buckets(self.top)
        pruned = chunk.bucket_log_probs(dense.likeliest)
        nats = (dense.log_probs.exp() * (dense.log_probs - pruned)).sum(-1)
        self.nats = self.nats + nats.sum()
        self.sign.saw(nats, bucket_rounding(chunk))
        self.tokens += len(pruned)

    def value(self) -> float:
        return self.sign.total(self.nats) / self.tokens

    def summand(
        self, hidden: Float[Tensor, "tokens hidden"], reference: Reference
    ) -> tuple[Float[Tensor, ""], int]:
        likeliest = reference.buckets(self.top).likeliest
        dense = _bucketed(log_probs(reference.head, reference.hidden), likeliest)
        pruned = _bucketed(log_probs(reference.head, hidden), likeliest)
        return (dense.exp() * (dense - pruned)).sum(), len(dense)

    def valued(self, total: float, counted: int) -> float:
        return total / counted

    def derivative(self, total: float, counted: int) -> float:
        return 1 / counted


def _bucketed(
    log_probs: Float[Tensor, "tokens vocab"], likeliest: Int[Tensor, "tokens top"]
) -> Float[Tensor, "tokens top+1"]:
    """Of these tokens and of all others together, for a backward pass. The rest is summed up on its
    own and not as one less the others: what is left of that is rounding. Where there is no other
    token it has the least of logarithms, and so no part in any sum."""
    others = log_probs.scatter(1, likeliest, torch.finfo(log_probs.dtype).min)
    rest = others.logsumexp(-1, keepdim=True)
    return torch.cat([log_probs.gather(1, likeliest), rest], dim=1)


def _kl_linear(chunk: Chunk) -> Float[Tensor, " tokens"]:
    dense = chunk.reference.tangent
    change = chunk.hidden.double() - chunk.reference.hidden.double()
    return chunk.lse - dense.lse - (change * dense.slope).sum(-1)


def _kl_capped(chunk: Chunk) -> Float[Tensor, " tokens"]:
    """lse_q - lse_p - sum_v p_v (q's logit - p's logit)."""
    dense = chunk.reference.normaliser
    terms = (chunk.dense_logits - dense.peak[:, None]).exp_()
    terms *= chunk.logits - chunk.dense_logits
    return chunk.lse - dense.lse - terms.sum(-1, dtype=torch.float64) / dense.mass


def _squared_change(
    chunk: Chunk, centred: bool = False
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """||logits - dense logits||_F^2, in fp64, and its rounding; centred: less each token's mean."""
    head = chunk.reference.head
    if head.linear:
        change = chunk.hidden.float() - chunk.reference.hidden.float()
        gram = head.centred_gram if centred else head.gram
        squared = head.centred_squared_norm(change) if centred else head.squared_norm(change)
        return squared, form_rounding(change, gram)
    change = chunk.logits - chunk.dense_logits
    if centred:
        change -= change.mean(-1, keepdim=True)
    squared = change.square().sum(dtype=torch.float64)
    return squared, torch.zeros_like(squared)
