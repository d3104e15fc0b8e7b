"""The Ray cluster for as long as some work needs it: started here, or joined where it runs."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from optishear.errors import ConfigError
from optishear.workers import tensors
from optishear.workers.pool import Pool
from optishear.workers.replica import Payload, Replica, versions


TOKEN = Path.home() / ".ray" / "auth_token"  # of a cluster, the same on all hosts
PATIENCE = 10.0  # seconds for a first answer of a cluster


@dataclass(frozen=True)
class Workers:
    """How many replicas, with how many threads each, on this machine or on a cluster.

    - `address`: of a running Ray cluster (`ray start --head` prints it), or `auto`; empty starts
      Ray on this machine and ends it with the search.
    """

    number: int
    threads: int
    device: str = "cpu"
    address: str = ""

    @classmethod
    def of(
        cls, number: int, threads: int | None = None, device: str = "cpu", address: str = ""
    ) -> "Workers":
        """With all cores of this machine shared out, where nobody says how many threads; one
        worker is this process and has those that it has."""
        if threads is None:
            shared = max(1, (os.cpu_count() or 1) // number)
            threads = torch.get_num_threads() if number == 1 else shared
        return cls(number, threads, device, address)


@dataclass(frozen=True)
class Cluster:
    """A running Ray session, and who works there.

    - `notice`: told what a person has to know.
    - `spare`: replicas that nobody needs just now; starting one takes seconds.
    """

    workers: Workers
    notice: Callable[[str], None]
    spare: list[Any] = field(default_factory=list)

    @contextmanager
    def pool(self, payload: Payload) -> Iterator[Pool]:
        """Replicas that work on this payload, which a host's replicas read from shared memory."""
        import ray

        def make() -> Any:
            return self.spare.pop() if self.spare else make_replica(self.workers)

        pool = Pool(make, ray.put(payload), self.workers.number, self.notice)
        try:
            yield pool
        finally:
            self.spare.extend(pool.close())


@contextmanager
def cluster(workers: Workers, notice: Callable[[str], None]) -> Iterator[Cluster | None]:
    """None where one worker is enough: then nothing is started."""
    if workers.number == 1:
        yield None
        return
    with running(workers):
        yield Cluster(workers, notice)


def make_replica(workers: Workers) -> Any:
    """A new actor; it may have to wait for its resources."""
    import ray

    gpus = 1 if workers.device.startswith("cuda") else 0
    actor = ray.remote(num_cpus=workers.threads, num_gpus=gpus, max_restarts=0)(Replica)
    return actor.remote(workers.threads, workers.device, versions())


@contextmanager
def running(workers: Workers) -> Iterator[None]:
    """Ray is initialised while it is open; where this process has a session already, that one."""
    if workers.address and (TOKEN.is_file() or "RAY_AUTH_TOKEN" in os.environ):
        # Ray 2.59 and 2.60 ask for the token without sending it. Read when ray is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            f"{workers.number} workers need Ray, which is not installed. Install it with "
            f'`pip install "optishear[ray]"`, or use one worker.'
        ) from None
    if ray.is_initialized():
        tensors.register()
        yield
        return
    _refuse_silence(workers.address)
    try:
        with _own_signals():
            ray.init(**_options(workers))
    except ConnectionError as error:
        raise ConfigError(_nobody(workers.address, error)) from None
    try:
        tensors.register()
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and then leaves with an exit code of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _refuse_silence(address: str) -> None:
    """Ray itself knocks for minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # none, or `auto`
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise ConfigError(_nobody(address, error)) from None


def _nobody(address: str, error: OSError) -> str:
    return (
        f"--ray-address {address}: no Ray cluster answers there ({error}). Start one with "
        f"`ray start --head`, see that its token is in {TOKEN} here, too, or leave the address out."
    )


def _options(workers: Workers) -> Mapping[str, Any]:
    common = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if workers.address:
        return {**common, "address": workers.address, "include_dashboard": None}
    # Inherited by the workers: spinning threads of one would cost the others half their speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Ray's own is 15: beside whatever else runs, those who do the work would hardly come to it.
    os.environ.setdefault("RAY_worker_niceness", "0")
    gpus = torch.cuda.device_count() if workers.device.startswith("cuda") else 0
    # `local`: whatever else runs here, or was killed and left its address in Ray's folder.
    cpus = workers.number * workers.threads
    return {**common, "address": "local", "num_cpus": cpus, "num_gpus": gpus}
