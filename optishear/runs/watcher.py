"""Watchers of long work: the terminal's, a notebook's, a tracker's, or several of them at once."""

from abc import ABC, abstractmethod
from collections.abc import Callable

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


class Watchers(Watcher):
    """Several watchers as one: each is told everything, in the order given."""

    def __init__(self, *watchers: Watcher):
        self.watchers = watchers

    def stage(self, text: str) -> None:
        for watcher in self.watchers:
            watcher.stage(text)

    def evaluated(self, found: Found, evaluation: Evaluation, total: int) -> None:
        for watcher in self.watchers:
            watcher.evaluated(found, evaluation, total)

    def levels(self, done: int, total: int, seconds: float) -> None:
        for watcher in self.watchers:
            watcher.levels(done, total, seconds)

    def pruned(self, blocks: int, total: int) -> None:
        for watcher in self.watchers:
            watcher.pruned(blocks, total)


class Callbacks(Watcher):
    """Plain functions as a watcher, each with the arguments of the method of its name; what is
    left out is not watched. An exception in one of them ends the work, which can be resumed."""

    def __init__(
        self,
        evaluated: Callable[[Found, Evaluation, int], object] | None = None,
        stage: Callable[[str], object] | None = None,
        levels: Callable[[int, int, float], object] | None = None,
        pruned: Callable[[int, int], object] | None = None,
    ):
        self._evaluated, self._stage = evaluated, stage
        self._levels, self._pruned = levels, pruned

    def stage(self, text: str) -> None:
        if self._stage is not None:
            self._stage(text)

    def evaluated(self, found: Found, evaluation: Evaluation, total: int) -> None:
        if self._evaluated is not None:
            self._evaluated(found, evaluation, total)

    def levels(self, done: int, total: int, seconds: float) -> None:
        if self._levels is not None:
            self._levels(done, total, seconds)

    def pruned(self, blocks: int, total: int) -> None:
        if self._pruned is not None:
            self._pruned(blocks, total)
