"""Perplexity on the search text: how well the pruned model predicts it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.objectives.base import Chunk, Reference, Summed
from optishear.objectives.softmax import log_probs


class Perplexity(Summed):
    """exp of the mean negative log-likelihood of each next token of the search text."""

    unit = "perplexity (search text)"
    description = "perplexity on the search text; never the held-out one"

    def __init__(self) -> None:
        self.nats: Tensor | float = 0.0
        self.tokens: Tensor | int = 0

    def update(self, chunk: Chunk) -> None:
        targets = chunk.reference.targets
        known = targets >= 0
        said = chunk.logits_at(targets.clamp_min(0))
        # A masked sum: picking the known ones would have to ask the device how many they are.
        nats = torch.where(known, chunk.lse - said, 0.0)
        self.nats = self.nats + nats.sum()
        self.tokens = self.tokens + known.sum()

    def value(self) -> float:
        return self.valued(float(self.nats), int(self.tokens))

    def summand(
        self, hidden: Float[Tensor, "tokens hidden"], reference: Reference
    ) -> tuple[Float[Tensor, ""], int]:
        known = reference.targets >= 0
        said = log_probs(reference.head, hidden)
        targets = reference.targets.clamp_min(0)[:, None]
        nats = torch.where(known, -said.gather(1, targets)[:, 0], 0.0)
        return nats.sum(), int(known.sum())

    def valued(self, total: float, counted: int) -> float:
        mean = total / counted
        return math.exp(mean) if mean < 700 else math.inf

    def derivative(self, total: float, counted: int) -> float:
        return self.valued(total, counted) / counted
