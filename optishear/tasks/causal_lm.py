"""Language models that predict the next token: a sample is a sequence of token ids."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from optishear.errors import ConfigError
from optishear.tasks import causality
from optishear.tasks.base import Task


Tokens = Int[Tensor, "batch seq"]


class CausalLM(Task):
    """Every token is predicted from those before it in its sequence; sequences are independent, and
    as long as each other in one batch. No padding and no mask: all positions count."""

    name = "causal_lm"
    samples = "sequences"
    unit_name = "tokens"

    def head_of(self, model: nn.Module) -> nn.Module | None:
        found = getattr(model, "get_output_embeddings", lambda: None)()
        return None if found is None or found._parameters.get("weight") is None else found

    def entry_of(self, model: Any) -> nn.Module:
        return model.get_input_embeddings()

    def logits(self, model: nn.Module, batch: Tokens) -> Float[Tensor, "batch seq vocab"]:
        return model(batch, use_cache=False).logits

    def rows(self, batch: Tokens) -> torch.Size:
        return batch.shape

    def units(self, batch: Tokens) -> int:
        return batch.numel()

    def targets(self, batch: Tokens) -> Tokens:
        """The token that follows each position, -1 at the end of a sequence."""
        targets = torch.full_like(batch, -1)
        targets[:, :-1] = batch[:, 1:]
        return targets

    def predictions(
        self, hidden: Float[Tensor, "batch seq width"], batch: Tokens
    ) -> Iterator[tuple[Float[Tensor, "rows width"], Int[Tensor, " rows"]]]:
        """The first token of a sequence is context only."""
        yield from zip(hidden[:, :-1], batch[:, 1:], strict=True)

    def loss(self, model: nn.Module, sample: Int[Tensor, "1 seq"]) -> Float[Tensor, ""]:
        """The mean over the sequence's tokens of the loss of the next one.

        Taken from the model's own logits, whatever its head does to them, in fp32. Of one sequence
        they are 1 GB at 2,048 tokens and a vocabulary of 128k, about four times that with the
        softmax and its gradient: little beside a model of that kind.
        """
        logits = self.logits(model, sample)[0, :-1]
        return F.cross_entropy(logits.float(), sample[0, 1:].long())

    def refuse_without_loss(self, batch: Tokens) -> None:
        if len(batch) < 1 or batch.shape[1] < 2:
            raise ConfigError(
                f"Gradients need a sequence of two tokens at least, one to predict from the other, "
                f"not tokens of shape {tuple(batch.shape)}."
            )

    def beginning(self, batch: Tokens, units: int) -> Int[Tensor, "1 fewer"]:
        return batch[:1, :units]

    def other(self, batch: Tokens) -> Tokens:
        return batch.flip(1)

    def made_up(self, model: nn.Module, units: int) -> Int[Tensor, "1 seq"]:
        return torch.arange(units)[None] % _vocabulary(model)

    def probe(self, model: nn.Module) -> Tokens:
        return causality.probe(_vocabulary(model))

    def refuse_by_probe(self, model: nn.Module, hidden: Float[Tensor, "batch seq width"]) -> None:
        causality.refuse_bidirectional(model, hidden)


CAUSAL_LM = CausalLM()


def _vocabulary(model: Any) -> int:
    return len(model.get_input_embeddings().weight)
