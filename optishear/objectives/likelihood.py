"""Perplexity on the search text: how well the pruned model predicts it."""

import math

import torch
from torch import Tensor

from optishear.objectives.base import Chunk, OutputObjective


class Perplexity(OutputObjective):
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
        mean = float(self.nats) / int(self.tokens)
        return math.exp(mean) if mean < 700 else math.inf
