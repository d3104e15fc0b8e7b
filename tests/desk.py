"""Workers where nothing starts and nothing dies: what they are asked is done in this process."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

from optishear.workers.cluster import Cluster


@dataclass(frozen=True)
class Desk(Cluster):
    """A cluster that is this process, and remembers what it was sent and asked."""

    payloads: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    @contextmanager
    def pool(self, payload):
        self.payloads.append(payload)

        def run(calls):
            self.calls.extend(calls)
            for call in calls:
                yield call.key, getattr(payload, call.method)(*call.arguments)

        yield SimpleNamespace(run=run)
