"""An objective turns one shared forward pass, or the pruning itself, into one number."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from optishear.models.head import Head
from optishear.pruning.result import PruneResult


@dataclass(frozen=True)
class Chunk:
    """Some tokens of the shared forward pass, through the pruned and through the dense model.

    `targets` is the token that follows each position, -1 at the end of a sequence. Logits are made
    when an objective first asks for them and shared by all; [tokens, vocabulary] exists only for
    one chunk at a time.
    """

    hidden: Float[Tensor, "tokens hidden"]
    dense_hidden: Float[Tensor, "tokens hidden"]
    targets: Int[Tensor, " tokens"]
    head: Head

    @cached_property
    def logits(self) -> Float[Tensor, "tokens vocab"]:
        return self.head.logits(self.hidden)

    @cached_property
    def dense_logits(self) -> Float[Tensor, "tokens vocab"]:
        return self.head.logits(self.dense_hidden)

    @cached_property
    def log_probs(self) -> Float[Tensor, "tokens vocab"]:
        return self.logits.log_softmax(-1)


class Objective:
    """What every objective says of itself. Concrete ones are `OutputObjective`s or
    `SizeObjective`s, made anew for each recipe."""

    maximise: ClassVar[bool] = False
    unit: ClassVar[str] = ""
    description: ClassVar[str] = ""


class OutputObjective(Objective, ABC):
    """Reads the forward pass: `update` once a chunk, then `value` once.

    The value does not depend on how the tokens were cut into batches and chunks.
    """

    @abstractmethod
    def update(self, chunk: Chunk) -> None: ...

    @abstractmethod
    def value(self) -> float: ...


class SizeObjective(Objective, ABC):
    """Needs no forward pass: reads what pruning itself found out."""

    @abstractmethod
    def value(self, result: PruneResult) -> float: ...
