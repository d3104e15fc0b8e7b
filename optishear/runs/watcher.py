"""Who follows a long piece of work; the command line shows it, a notebook may stay silent."""

from abc import ABC, abstractmethod

from optishear.search.evaluator import Evaluation
from optishear.search.loop import Found


class Watcher(ABC):
    """Told what is being done. It cannot change the course of things."""

    @abstractmethod
    def stage(self, text: str) -> None:
        """A new stage begins: `loading embedded`, `searching`, ..."""

    @abstractmethod
    def evaluated(self, found: Found, evaluation: Evaluation, total: int) -> None:
        """One more evaluation on some rung, measured or remembered; `total` is the largest number
        of recipes that will be asked for."""

    @abstractmethod
    def levels(self, done: int, total: int, seconds: float) -> None:
        """So many of the layers and levels that a store lacks are solved, in so many seconds."""

    @abstractmethod
    def pruned(self, blocks: int, total: int) -> None:
        """So many of the model's blocks are pruned."""


class Silent(Watcher):
    """Watches nothing."""

    def stage(self, text: str) -> None: ...

    def evaluated(self, found: Found, evaluation: Evaluation, total: int) -> None: ...

    def levels(self, done: int, total: int, seconds: float) -> None: ...

    def pruned(self, blocks: int, total: int) -> None: ...
