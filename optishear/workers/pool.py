"""The pool: hands calls to replicas that may die, and gives the results as they come."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from optishear.errors import WorkerError


MOST_DEATHS = 3  # of workers on one call, or at their start, one after the other


@dataclass(frozen=True)
class Call:
    """One thing to be done by any replica: a method of what it works on, and its arguments.

    - `name`: for people, e.g. `recipe 1f3a`.
    - `home`: calls of one home go to the same worker where it is free: it may have begun them.
    """

    key: str
    method: str
    arguments: tuple[Any, ...]
    name: str
    home: str = ""


@dataclass(eq=False)
class _Worker:
    handle: Any
    call: Call | None = None


@dataclass(eq=False)
class Pool:
    """`number` replicas made by `make`, each told to be ready with `job` before its first call.

    A worker that dies, runs out of memory or was on a host that left is replaced, and its call goes
    back to the front. After `MOST_DEATHS` deaths on one call a `WorkerError` names it: then it is
    likelier the call than the machine. Any other exception in a replica is raised here as it is.
    """

    make: Callable[[], Any]
    job: Any
    number: int
    notice: Callable[[str], None] = lambda text: None
    _running: dict[Any, _Worker] = field(default_factory=dict)  # by the reference of its result
    _idle: list[_Worker] = field(default_factory=list)
    _homes: dict[str, _Worker] = field(default_factory=dict)
    _deaths: Counter[str] = field(default_factory=Counter)
    _failed_starts: int = 0
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for _ in range(self.number):
            self._start()

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[str, Any]]:
        """(key, result) of every call, in the order in which they are done."""
        import ray

        waiting, left = deque(calls), len(calls)
        try:
            while left:
                self._assign(waiting)
                [reference], _ = ray.wait(list(self._running), num_returns=1)
                worker = self._running.pop(reference)
                call, worker.call = worker.call, None
                try:
                    result = ray.get(reference)
                except Exception as error:
                    if (reason := _lost(error)) is None:
                        raise _own(error) from None
                    self._replace(worker, call, reason, waiting)
                    continue
                self._idle.append(worker)
                if call is None:
                    self._began(result)
                else:
                    left -= 1
                    yield call.key, result
        finally:
            self._abandon()

    def close(self) -> list[Any]:
        """Ends whoever is at work; returns the others, idle or still beginning, which may serve
        another pool. This one is of no use afterwards."""
        import ray

        free = [*self._idle, *(w for w in self._running.values() if w.call is None)]
        for worker in self._running.values():
            if worker.call is not None:
                ray.kill(worker.handle)
        self._running, self._idle = {}, []
        return [worker.handle for worker in free]

    def _start(self) -> None:
        worker = _Worker(self.make())
        self._running[worker.handle.ready.remote(self.job)] = worker

    def _began(self, said: Sequence[str]) -> None:
        self._failed_starts = 0
        for text in said:
            if text not in self._said:
                self._said.add(text)
                self.notice(text)

    def _assign(self, waiting: deque[Call]) -> None:
        for worker in list(self._idle):
            if not waiting:
                return
            own = (i for i, call in enumerate(waiting) if self._homes.get(call.home) is worker)
            index = next(own, 0)
            call = waiting[index]
            del waiting[index]
            self._idle.remove(worker)
            if call.home:
                self._homes[call.home] = worker
            worker.call = call
            self._running[worker.handle.do.remote(call.method, *call.arguments)] = worker

    def _replace(
        self, worker: _Worker, call: Call | None, reason: str, waiting: deque[Call]
    ) -> None:
        import ray

        ray.kill(worker.handle)  # one that only ran out of memory still lives
        self._homes = {home: w for home, w in self._homes.items() if w is not worker}
        if call is None:
            self._failed_starts += 1
            if self._failed_starts == MOST_DEATHS:
                raise WorkerError(
                    f"{MOST_DEATHS} workers in a row died before they had begun ({reason}). Use "
                    f"fewer workers, so that each has more memory; nothing that was finished is "
                    f"lost."
                )
            self.notice(f"a worker died before it had begun ({reason}): another begins")
        else:
            self._deaths[call.key] += 1
            if self._deaths[call.key] == MOST_DEATHS:
                raise WorkerError(
                    f"{MOST_DEATHS} workers died on {call.name}, the last one: {reason}. Nothing "
                    f"of it was recorded, what was finished is safe; run the same command again, "
                    f"with fewer workers if memory ran out."
                )
            self.notice(f"a worker died on {call.name} ({reason}): it is done again elsewhere")
            waiting.appendleft(call)
        self._start()

    def _abandon(self) -> None:
        """Whoever still works when nobody listens any more starts anew."""
        import ray

        for reference, worker in list(self._running.items()):
            if worker.call is not None:
                del self._running[reference]
                ray.kill(worker.handle)
                self._homes = {home: w for home, w in self._homes.items() if w is not worker}
                self._start()


def _lost(error: Exception) -> str | None:
    """Why the worker is gone, in a few words; None where it is not, and the error is its answer."""
    from ray import exceptions as of_ray

    cause = getattr(error, "cause", None)
    if isinstance(cause, MemoryError | torch.OutOfMemoryError):
        return "it ran out of memory"
    if isinstance(error, of_ray.OutOfMemoryError):
        return "its host ran out of memory"
    if isinstance(error, of_ray.NodeDiedError):
        return "its host left"
    if isinstance(error, of_ray.ObjectLostError):
        return "its host left with what it had made"
    if isinstance(error, of_ray.RayActorError | of_ray.WorkerCrashedError):
        return None if getattr(error, "actor_init_failed", False) else "its process ended"
    return None


def _own(error: Exception) -> Exception:
    """What went wrong in the replica, without what Ray says around it."""
    if getattr(error, "actor_init_failed", False):  # it cannot even be imported there
        last = str(error).strip().splitlines()[-1]
        return WorkerError(f"A worker could not begin ({last}). Install optishear on every host.")
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
