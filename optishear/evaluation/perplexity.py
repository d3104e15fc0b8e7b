"""Held-out perplexity with its standard error, and paired comparison of two models."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from optishear.errors import NumericalError
from optishear.evaluation.paired import paired_difference, standard_error
from optishear.models.finite import not_finite
from optishear.models.head import find_head, hidden_states
from optishear.tasks import Samples, task_of


@dataclass(frozen=True)
class HeldOut:
    """Negative log-likelihood of every sample of one text, in nats per predicted token.

    The first token of a sequence is context only; sequences are independent of each other.
    """

    text: str
    seq_len: int
    nats: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(self.nats) / len(self.nats)

    @property
    def perplexity(self) -> float:
        return math.exp(self.mean)

    @property
    def error(self) -> float:
        """Standard error of the mean over sequences, nats per token."""
        return standard_error(self.nats)

    @property
    def perplexity_error(self) -> float:
        """Standard error of the perplexity, by the delta method."""
        return self.perplexity * self.error

    def better_than(self, other: "HeldOut") -> tuple[float, float]:
        """How many nats per token fewer than `other` on the same sequences, and the standard error
        of that paired difference."""
        if (self.text, len(self.nats)) != (other.text, len(other.nats)):
            raise ValueError(f"{self.text!r} and {other.text!r} are not the same sequences.")
        return paired_difference(other.nats, self.nats)


@torch.no_grad()
def held_out(model: nn.Module, text: Samples, batch_tokens: int = 2048) -> HeldOut:
    """One pass over the text, `batch_tokens` tokens at a time, sums in fp64, read at the end. A
    loss that is not finite is a `NumericalError`."""
    task = task_of(model)
    head = find_head(model, text.batch[:1])
    device = head.weight.device
    per_chunk = head.rows_at_once
    totals, counts = [], []
    for batch in text.batches_of_units(batch_tokens):
        batch = batch.to(device)
        for states, targets in task.predictions(hidden_states(model, batch), batch):
            counts.append(len(targets))
            total = torch.zeros((), dtype=torch.float64, device=device)
            for h, t in zip(states.split(per_chunk), targets.split(per_chunk), strict=True):
                said = head.logits(h).log_softmax(-1).gather(1, t[:, None])
                total -= said.sum(dtype=torch.float64)
            totals.append(total)
    if not bool(torch.stack(totals).isfinite().all()):
        raise NumericalError(not_finite(f"{type(model).__name__}: its loss on {text.source}"))
    each = zip(torch.stack(totals).tolist(), counts, strict=True)
    return HeldOut(text.source, text.units_each, tuple(total / count for total, count in each))
