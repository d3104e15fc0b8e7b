"""An objective turns one shared forward pass, or the pruning itself, into one number."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optishear.models.head import Head
from optishear.objectives.softmax import (
    Normaliser,
    bucket_log_probs,
    fits_without_logits,
    log_sum_exp_without_logits,
    normaliser,
)
from optishear.pruning.result import PruneResult


@dataclass(frozen=True, eq=False)
class Tangent:
    """The log-sum-exp of a linear head at the dense hidden states, to first order.

    `slope` is d lse / d hidden = scale * sum_v p_v W_v: the mean row of the head under p.
    """

    lse: Float[Tensor, " tokens"]
    slope: Float[Tensor, "tokens hidden"]


@dataclass(frozen=True, eq=False)
class Buckets:
    """The dense model's likeliest tokens of each position; all the others are one bucket, last."""

    likeliest: Int[Tensor, "tokens top"]
    log_probs: Float[Tensor, "tokens top+1"]


@dataclass(frozen=True, eq=False)
class Reference:
    """The dense side of some tokens: made once, kept from candidate to candidate.

    `targets` is the token that follows each position, -1 at the end of a sequence. What objectives
    need of the dense answers is worked out when first asked for and then kept: some [tokens,
    hidden] or [tokens, top], never [tokens, vocabulary]. That exists while it is worked out, so a
    reference should span `head.rows_at_once` tokens at most.
    """

    hidden: Float[Tensor, "tokens hidden"]
    targets: Int[Tensor, " tokens"]
    head: Head
    _buckets: dict[int, Buckets] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def normaliser(self) -> Normaliser:
        return normaliser(self.head.logits(self.hidden))

    @cached_property
    def tangent(self) -> Tangent:
        """Linear heads only."""
        if not self.head.linear:
            raise ValueError("A soft-capped head has no tangent in closed form: its logits bend.")
        logits = self.head.logits(self.hidden)
        norm = normaliser(logits)
        terms = logits.sub_(norm.peak[:, None]).exp_()
        slope = terms @ self.head.weight.float() * (self.head.scale / norm.mass[:, None])
        lse = log_sum_exp_without_logits(self.head, self.hidden)
        return Tangent(norm.lse if lse is None else lse, slope.float())

    def buckets(self, top: int) -> Buckets:
        """The `top` likeliest tokens, or all where the vocabulary is not larger."""
        if top not in self._buckets:
            logits = self.head.logits(self.hidden)
            likeliest = logits.topk(min(top, logits.shape[1])).indices
            log_probs = bucket_log_probs(logits, normaliser(logits), likeliest)
            self._buckets[top] = Buckets(likeliest, log_probs)
        return self._buckets[top]

    @cached_property
    def squared_norm(self) -> Float[Tensor, ""]:
        """||dense logits||_F^2, in fp64."""
        if self.head.linear and self.head.bias is None:
            return self.head.squared_norm(self.hidden)
        return self.head.logits(self.hidden).square().sum(dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Chunk:
    """The same tokens through the pruned model.

    Logits and their log-sum-exp are made when an objective first asks for them and shared by all;
    [tokens, vocabulary] exists only for one chunk at a time. Nobody may write to them.
    """

    hidden: Float[Tensor, "tokens hidden"]
    reference: Reference

    def __post_init__(self) -> None:
        if self.hidden.shape != self.reference.hidden.shape:
            raise ValueError(
                f"Pruned hidden states {tuple(self.hidden.shape)} are compared with dense ones "
                f"{tuple(self.reference.hidden.shape)}; cut both into the same chunks."
            )

    @cached_property
    def logits(self) -> Float[Tensor, "tokens vocab"]:
        return self.reference.head.logits(self.hidden)

    @cached_property
    def dense_logits(self) -> Float[Tensor, "tokens vocab"]:
        """A second head product for every candidate: only where a soft cap leaves no other way."""
        return self.reference.head.logits(self.reference.hidden)

    @cached_property
    def normaliser(self) -> Normaliser:
        return normaliser(self.logits)

    def bucket_log_probs(self, entries: Int[Tensor, "tokens top"]) -> Float[Tensor, "tokens top+1"]:
        """The pruned model's side of `Buckets`."""
        return bucket_log_probs(self.logits, self.normaliser, entries)

    @cached_property
    def lse(self) -> Float[Tensor, " tokens"]:
        """Log-sum-exp of the pruned model's logits, in fp64; on a GPU no logit is kept for it."""
        lse = log_sum_exp_without_logits(self.reference.head, self.hidden)
        return self.normaliser.lse if lse is None else lse

    def logits_at(self, entries: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
        """One logit for each token, of all of them where they are made in any case."""
        if fits_without_logits(self.reference.head, self.hidden):
            return self.reference.head.logits_at(self.hidden, entries)
        return self.logits.gather(1, entries[:, None])[:, 0]


@dataclass(frozen=True)
class Number:
    """The number of an objective that is written `name@number`, in [low, below)."""

    kind: type[int] | type[float]
    called: str
    example: str
    low: int
    below: float


class Objective:
    """What every objective says of itself. Concrete ones are `OutputObjective`s, `SizeObjective`s
    or `OwnDataObjective`s, made anew for each recipe.

    One with a `number` is made from it alone; one with an `example` from a name, `kind@name`.
    """

    maximise: ClassVar[bool] = False
    unit: ClassVar[str] = ""
    description: ClassVar[str] = ""
    number: ClassVar[Number | None] = None
    example: ClassVar[str | None] = None


class OutputObjective(Objective, ABC):
    """Reads the forward pass: `update` once a chunk; `value` of all chunks so far, at any time.

    The value does not depend on how the tokens were cut into batches and chunks. `update` adds up
    on the device, in fp64, and never waits for it; only `value` does.
    """

    @abstractmethod
    def update(self, chunk: Chunk) -> None: ...

    @abstractmethod
    def value(self) -> float: ...


class Summed(OutputObjective):
    """A function of one sum over rows, and smooth in the hidden states: it has slopes.

    What is summed is computed as widely as the hidden states are, in fp32 at least.
    """

    @abstractmethod
    def summand(
        self, hidden: Float[Tensor, "tokens hidden"], reference: Reference
    ) -> tuple[Float[Tensor, ""], int]:
        """What these rows add to the sum, for a backward pass to `hidden`; and how many of them
        count."""

    @abstractmethod
    def valued(self, total: float, counted: int) -> float:
        """The value where the sum over so many rows is `total`."""

    @abstractmethod
    def derivative(self, total: float, counted: int) -> float:
        """d value / d sum, there."""


class SizeObjective(Objective, ABC):
    """Needs no forward pass: reads what pruning itself found out."""

    @abstractmethod
    def value(self, result: PruneResult) -> float: ...
