"""How far the pruned model's answers are from the dense model's."""

import torch

from optishear.objectives.base import Chunk, OutputObjective


class Reconstruction(OutputObjective):
    """OptiShear's model-wise reconstruction error ||logits - dense logits||_F over all tokens.

    Where the head is linear no logit is made: with d the difference of the final hidden states and
    G = W^T W of the head, the squared norm is the sum of d G d^T over tokens, exactly.
    """

    unit = "‖Δ logits‖_F"
    description = "model-wise reconstruction error ‖logits − dense logits‖_F (arXiv 2502.10735)"

    def __init__(self) -> None:
        self.squared = 0.0

    def update(self, chunk: Chunk) -> None:
        self.squared += _squared_norm(chunk, difference=True)

    def value(self) -> float:
        return self.squared**0.5


class RelativeReconstruction(OutputObjective):
    """The reconstruction error over the norm of the dense logits: comparable between models."""

    unit = "‖Δ logits‖_F / ‖logits‖_F"
    description = "reconstruction error over the norm of the dense logits"

    def __init__(self) -> None:
        self.squared, self.scale = 0.0, 0.0

    def update(self, chunk: Chunk) -> None:
        self.squared += _squared_norm(chunk, difference=True)
        self.scale += _squared_norm(chunk, difference=False)

    def value(self) -> float:
        return (self.squared / self.scale) ** 0.5


class KL(OutputObjective):
    """KL(dense || pruned) of the next-token distributions, nats per token, all positions."""

    unit = "nats/token"
    description = "KL(dense ‖ pruned) of the next-token distributions"

    def __init__(self) -> None:
        self.nats, self.tokens = 0.0, 0

    def update(self, chunk: Chunk) -> None:
        dense = chunk.dense_logits.log_softmax(-1)
        nats = (dense.exp() * (dense - chunk.log_probs)).sum(-1)
        self.nats += nats.sum(dtype=torch.float64).item()
        self.tokens += len(nats)

    def value(self) -> float:
        return self.nats / self.tokens


def _squared_norm(chunk: Chunk, *, difference: bool) -> float:
    """||logits||^2 of the dense model, or of the difference to it, summed in fp64."""
    if not chunk.head.linear:
        logits = chunk.logits - chunk.dense_logits if difference else chunk.dense_logits
        return logits.square().sum(dtype=torch.float64).item()
    if not difference and chunk.head.bias is not None:
        return chunk.dense_logits.square().sum(dtype=torch.float64).item()
    hidden = chunk.hidden - chunk.dense_hidden if difference else chunk.dense_hidden
    hidden = hidden.float()
    return ((hidden @ chunk.head.gram) * hidden).sum(dtype=torch.float64).clamp_min(0).item()
