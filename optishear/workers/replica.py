"""The replica in a worker's process: a copy of the model, asked for one thing at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from optishear.errors import ConfigError
from optishear.models.load import LoadedModel
from optishear.workers import tensors


class Payload(ABC):
    """What a replica is sent to work on, all of it on the CPU: see `tensors`."""

    @abstractmethod
    def begin(self, stack: ExitStack, device: str, notice: Callable[[str], None]) -> Any:
        """Takes it up on this device; the methods of what is returned are what can be asked for.

        `stack` is closed with the replica, `notice` told what a person has to know.
        """


class Replica:
    """A Ray actor. Whatever can fail is in its methods, so that the failure itself is told."""

    def __init__(self, threads: int, device: str, expected: Mapping[str, str]) -> None:
        self.threads, self.device, self.expected = threads, device, expected
        self._open = ExitStack()
        self._work: Any = None
        tensors.register()

    def ready(self, payload: Payload) -> list[str]:
        """Takes the payload up in the place of the one before; returns notices about it."""
        self._open.close()
        for name, found in versions().items():
            if self.expected[name] != found:
                raise ConfigError(
                    f"A worker has {name} {found}, this process has {self.expected[name]}: their "
                    f"results could not be compared. Install the same version on all hosts."
                )
        torch.set_num_threads(self.threads)
        said: list[str] = []
        self._work = payload.begin(self._open, self.device, said.append)
        return said

    def do(self, method: str, *arguments: Any) -> Any:
        return getattr(self._work, method)(*arguments)


def sent(loaded: LoadedModel, device: str) -> LoadedModel:
    """The model as it travels, or as it arrives: on this device, without its tokenizer."""
    return replace(loaded, model=loaded.model.to(device), tokenizer=None)


@contextmanager
def travelling(loaded: LoadedModel) -> Iterator[LoadedModel]:
    """The model as it is sent off; this process has it back on its own device on leaving."""
    device = next(loaded.model.parameters()).device
    try:
        yield sent(loaded, "cpu")
    finally:
        loaded.model.to(device)


def versions() -> dict[str, str]:
    """Of what measured values depend on: where these differ, values may."""
    packages = {name: version(name) for name in ("optishear", "transformers", "numpy")}
    return {**packages, "torch": torch.__version__}
