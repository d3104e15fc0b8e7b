"""Replicas that really die, with -9, in the middle of calls that the test names: who dies, on what
and how often is no matter of when a process happens to be looked at."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from optishear.workers.cluster import Cluster
from optishear.workers.replica import Payload


@dataclass(frozen=True)
class Deaths:
    """A replica that has done what is so named dies before it can say so, `times` for each name:
    a recipe's key, a layer's name, a sequence's number. `folder` remembers, across processes."""

    folder: Path
    names: frozenset[str]
    times: int = 1

    def strike(self, name):
        for number in range(self.times if name in self.names else 0):
            try:
                (self.folder / f"{name} {number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def count(self):
        return len(list(self.folder.iterdir()))


@dataclass(frozen=True, eq=False)
class Mortal(Payload):
    """A payload of one kind whose replicas die such deaths."""

    payload: Payload
    deaths: Deaths

    def begin(self, stack, device, notice):
        return _Work(self.payload.begin(stack, device, notice), self.deaths)


class _Work:
    def __init__(self, work, deaths):
        self.work, self.deaths = work, deaths

    def __getattr__(self, method):
        def do(what, *more):
            answer = getattr(self.work, method)(what, *more)
            self.deaths.strike(str(getattr(what, "key", getattr(what, "name", what))))
            return answer

        return do


@dataclass(frozen=True)
class Deadly(Cluster):
    """Whose replicas die on payloads of this kind."""

    deaths: Deaths | None = None
    kind: type[Payload] = Payload

    def pool(self, payload):
        return super().pool(
            Mortal(payload, self.deaths) if isinstance(payload, self.kind) else payload
        )


def deadly(cluster, folder, names, times=1, kind=Payload):
    """The same workers, from whom these deaths are due."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import it
    folder.mkdir()
    deaths = Deaths(folder, frozenset(names), times)
    return Deadly(cluster.workers, cluster.notice, cluster.spare, deaths, kind)
