"""How well the pruned model predicts the search text itself."""

import math

import torch

from optishear.objectives.base import Chunk, OutputObjective


class Perplexity(OutputObjective):
    """exp of the mean negative log-likelihood of each next token of the search text."""

    unit = "perplexity (search text)"
    description = "perplexity on the search text; never the held-out one"

    def __init__(self) -> None:
        self.nats, self.tokens = 0.0, 0

    def update(self, chunk: Chunk) -> None:
        known = chunk.targets >= 0
        said = chunk.log_probs[known].gather(1, chunk.targets[known][:, None])
        self.nats -= said.sum(dtype=torch.float64).item()
        self.tokens += len(said)

    def value(self) -> float:
        mean = self.nats / self.tokens
        return math.exp(mean) if mean < 700 else math.inf
