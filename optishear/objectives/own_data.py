"""Objectives that bring samples of their own, beside the search samples that all others share."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from optishear.models.head import Head
from optishear.models.load import LoadedModel
from optishear.objectives.base import Objective
from optishear.text.questions import QuestionSet


@dataclass(frozen=True, eq=False)
class OwnData:
    """What one objective has the model read: the same for every candidate, on the CPU.

    - `batches`: as they go through the model, one forward pass each.
    - `hash`: of all that decides a value; it is a part of what a measured value depends on.
    - `source`, `units`: for a reader, and for what it costs (tokens, padding among them).
    - `more`: what the objective has to know of the batches.
    """

    batches: tuple[Any, ...]
    hash: str
    source: str
    units: int
    more: Any = None

    @classmethod
    def of(cls, batches: Sequence[Tensor], source: str) -> "OwnData":
        """Data that is nothing but batches of tokens."""
        content = hashlib.sha256()
        for batch in batches:
            content.update(repr(batch.tolist()).encode())
        units = sum(batch.numel() for batch in batches)
        return cls(tuple(batches), content.hexdigest()[:16], source, units)


@dataclass(frozen=True)
class Sources:
    """What data may be made of: the experiment's `questions` by name, read, and its
    `batch_tokens`."""

    questions: Mapping[str, QuestionSet]
    batch_tokens: int = 2048


class OwnDataObjective(Objective, ABC):
    """Reads a forward pass over data of its own, whole and on every rung: made anew for each
    recipe, `update` once a batch, `value` after the last. Nothing is compared with the dense model.

    A recipe that climbs has been there already and does not pay again. Such passes begin at the
    first block: no prefix of an earlier candidate is known of them.
    """

    @abstractmethod
    def load(self, loaded: LoadedModel, sources: Sources) -> OwnData:
        """The data, asked for once and before anything is measured; a `ConfigError` where they
        cannot be had. Whatever the objective needs later has to be in them."""

    @abstractmethod
    def update(
        self, data: OwnData, index: int, hidden: Float[Tensor, "*rows hidden"], head: Head
    ) -> None:
        """Final hidden states of `data.batches[index]`, where the head is."""

    @abstractmethod
    def value(self) -> float: ...
