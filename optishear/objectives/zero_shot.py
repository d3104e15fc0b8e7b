"""The share of zero-shot questions that a candidate gets wrong."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from optishear.errors import ConfigError
from optishear.models.head import Head
from optishear.models.load import LoadedModel
from optishear.objectives.own_data import OwnData, OwnDataObjective, Sources
from optishear.recipe.lookup import lookup
from optishear.tasks import task_of
from optishear.text.questions import Encoded, encode


class ZeroShotError(OwnDataObjective):
    """1 - accuracy on the questions that the experiment calls so: lm-eval's acc, acc_norm or
    acc_bytes, by the likelihood of each choice after its question. A step of it is one question."""

    unit = "fraction of questions"
    description = (
        "zero-shot questions answered wrongly, of a set in the experiment's `questions`, "
        "written zero_shot_error@copa"
    )
    example = "copa"

    def __init__(self, name: str) -> None:
        self.name = name
        self.sums: Tensor | None = None
        self.encoded: Encoded | None = None

    def load(self, loaded: LoadedModel, sources: Sources) -> OwnData:
        found = lookup(sources.questions, self.name, kind="set of questions")
        encoded = encode(found, loaded.tokenizer, sources.batch_tokens, _context(loaded.model))
        batches = tuple(asked.tokens for asked in encoded.asked)
        source = f"{found.metric} of {len(found.questions)} questions of {found.task.name}"
        rows = len(task_of(loaded.model).entry_of(loaded.model).get_parameter("weight"))
        worst = max(int(asked.tokens.max()) for asked in encoded.asked)
        if worst >= rows:
            raise ConfigError(
                f"questions.{self.name}: its token ids go up to {worst}, but the model's embedding "
                f"has {rows} rows. {loaded.folder} has another model's tokenizer."
            )
        units = sum(tokens.numel() for tokens in batches)
        return OwnData(batches, encoded.hash, source, units, encoded)

    def update(
        self, data: OwnData, index: int, hidden: Float[Tensor, "*rows hidden"], head: Head
    ) -> None:
        self.encoded = data.more
        asked, device = data.more.asked[index], hidden.device
        if self.sums is None:
            choices = len(data.more.lengths)
            self.sums = torch.zeros(choices, dtype=torch.float64, device=device)
        states = hidden[asked.row.to(device), asked.position.to(device)]
        parts = (states, asked.target.to(device), asked.choice.to(device))
        size = head.rows_at_once
        for h, t, choice in zip(*(part.split(size) for part in parts), strict=True):
            said = head.logits(h).log_softmax(-1).gather(1, t[:, None])[:, 0]
            self.sums.index_add_(0, choice, said.double())

    def value(self) -> float:
        assert self.sums is not None
        assert self.encoded is not None
        if not bool(self.sums.isfinite().all()):
            return math.nan
        hits = self.encoded.hits(self.sums)
        return 1 - sum(hits) / len(hits)


def _context(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
