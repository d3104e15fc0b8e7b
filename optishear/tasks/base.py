"""A task: the only place that knows what a sample is. All others see batches of samples."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from optishear.errors import ConfigError


@runtime_checkable
class Batch(Protocol):
    """Some samples of a task as one forward call takes them: a tensor with the samples first is
    one, and what has labels beside it can be."""

    @property
    def shape(self) -> torch.Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, samples: Any, /) -> Any: ...

    def split(self, samples: int, /) -> Any:
        """Batches of so many samples in order; the last may have fewer."""
        ...

    def to(self, device: torch.device, /) -> Any: ...


class Samples(ABC):
    """A fixed set of samples, all of one size, and where they come from.

    - `hash`: of the content; two are the same data if theirs are equal.
    - `source`: for a reader, e.g. `sotu/train, 16 of 3366 windows of 512 tokens, seed 0`.
    - `commit`: of the hub's dataset that they are of; None where they are not from there.
    - `task`: whose samples they are; it has the words for them.
    """

    task: ClassVar["Task"]
    hash: str
    source: str
    commit: str | None = None

    @property
    @abstractmethod
    def batch(self) -> Batch:
        """All of them."""

    @abstractmethod
    def first(self, count: int) -> "Samples":
        """The first so many, or all."""

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def units(self) -> int:
        """What all of them have to predict from: their tokens."""
        return self.task.units(self.batch)

    @property
    def units_each(self) -> int:
        return self.units // len(self)

    def batches(self, samples: int) -> Iterator[Any]:
        """The samples in order, so many at a time; the last batch may be smaller."""
        if samples < 1:
            raise ConfigError(
                f"{self.source}: a batch of {samples} {self.task.samples}; it takes 1 or more."
            )
        yield from self.batch.split(samples)

    def batches_of_units(self, units: int) -> list[Any]:
        """Batches of at most so many units, whole samples, at least one."""
        return list(self.batches(max(1, units // self.units_each)))


class Task(ABC):
    """What a batch is, how it goes through the model, and what the model is to answer.

    `rows` are what the output head reads one by one: every token of a language model, one row an
    image. Final hidden states are [*rows, width], flat [rows, width].
    """

    name: ClassVar[str]
    samples: ClassVar[str]
    """What its samples are called: `sequences`."""
    unit_name: ClassVar[str]
    """What the length of a sample, and the cost of a forward pass, is counted in: `tokens`."""

    @abstractmethod
    def head_of(self, model: nn.Module) -> nn.Module | None:
        """The module that turns final hidden states into logits; None: not a model of this task."""

    @abstractmethod
    def entry_of(self, model: nn.Module) -> nn.Module:
        """The module that a batch goes into first; it has a weight."""

    @abstractmethod
    def logits(self, model: nn.Module, batch: Any) -> Float[Tensor, "..."]:
        """The model's own answers [*rows, classes]. The batch is where the model takes it."""

    @abstractmethod
    def rows(self, batch: Any) -> torch.Size: ...

    @abstractmethod
    def units(self, batch: Any) -> int: ...

    @abstractmethod
    def targets(self, batch: Any) -> Int[Tensor, "..."]:
        """What each row is to answer [*rows]; -1 where nobody knows."""

    @abstractmethod
    def predictions(
        self, hidden: Float[Tensor, "..."], batch: Any
    ) -> Iterator[tuple[Float[Tensor, "rows width"], Int[Tensor, " rows"]]]:
        """Sample by sample, the final hidden states of rows with a target, and these targets."""

    @abstractmethod
    def loss(self, model: nn.Module, sample: Any) -> Float[Tensor, ""]:
        """Mean loss over the targets of a batch of one sample, for a backward pass."""

    @abstractmethod
    def refuse_without_loss(self, batch: Any) -> None:
        """A `ConfigError` where a sample has no target, so that no gradient can be taken."""

    @abstractmethod
    def beginning(self, batch: Any, units: int) -> Any:
        """The first sample, and no more than so many units of it."""

    @abstractmethod
    def other(self, batch: Any) -> Any:
        """Other samples of the same shape: what was made of these shows itself then."""

    @abstractmethod
    def made_up(self, model: nn.Module, units: int) -> Any:
        """One sample that the model can read, whatever it says."""

    @abstractmethod
    def probe(self, model: nn.Module) -> Any:
        """A small batch on which a forward pass tells how the model is built."""

    @abstractmethod
    def refuse_by_probe(self, model: nn.Module, hidden: Float[Tensor, "..."]) -> None:
        """A `ConfigError` where what the model made of `probe` is not what the task asks for."""
