"""Where the parts of a model run, and the weights that accelerate keeps elsewhere meanwhile.

A model that was loaded with a device map has a hook of accelerate's on its modules, which sends
their inputs to the device where they run. A weight that is offloaded is on the meta device but
while its module is called: the hook takes it from a map, by name. Only this module knows hooks.
"""

import os
import tempfile
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optishear.errors import ConfigError, StorageError
from optishear.records.cache import cache_dir
from optishear.tasks import task_of


@dataclass(frozen=True, eq=False)
class Offloaded:
    """A parameter that accelerate keeps in CPU memory or on disk while its module is not called.

    - `hook`: accelerate's, of the module.
    - `leaf`: its name in the module, and in `weights`, which is where the hook looks.
    """

    hook: Any
    leaf: str
    dtype: torch.dtype
    weights: Mapping[str, Any]  # tensors

    @property
    def device(self) -> torch.device:
        """Where its module runs."""
        return _device(self.hook.execution_device)

    @property
    def on_disk(self) -> bool:
        from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset

        weights, name = self.weights, self.leaf
        while isinstance(weights, PrefixedDataset):
            weights, name = weights.dataset, f"{weights.prefix}{name}"
        return isinstance(weights, OffloadedWeightsLoader) and name not in weights.state_dict

    def load(self) -> Tensor:
        """What it is, where its module runs. Look, do not write: it may be the kept one itself."""
        return self.weights[self.leaf].to(self.device, self.dtype)

    @contextmanager
    def replaced(self) -> Iterator[Tensor]:
        """A copy that the module computes with in its place for as long as this is open.

        In CPU memory, or mapped from a file where the parameter itself is on disk. What is written
        into it is what the next call takes.
        """
        own = self.weights[self.leaf]
        make = _in_a_file if self.on_disk else torch.empty
        copy = make(tuple(own.shape), dtype=self.dtype).copy_(own)
        before = self.hook.weights_map
        self.hook.weights_map = ChainMap({self.leaf: copy}, before)
        try:
            yield copy
        finally:
            self.hook.weights_map = before


def offloaded_at(module: nn.Module, leaf: str) -> Offloaded | None:
    """How this parameter of the module's own is kept; None where it is in memory, or nobody's."""
    parameter = module.get_parameter(leaf)
    if parameter.is_meta:
        for hook in _hooks(module):
            if hook.offload:
                return Offloaded(hook, leaf, parameter.dtype, hook.weights_map or {})
    return None


def device_at(module: nn.Module, leaf: str) -> torch.device:
    """Where the module computes with this parameter of its own."""
    away = offloaded_at(module, leaf)
    return module.get_parameter(leaf).device if away is None else away.device


def value_at(module: nn.Module, leaf: str) -> Tensor:
    """This parameter where the module computes with it: itself, or what accelerate keeps of it."""
    away = offloaded_at(module, leaf)
    return module.get_parameter(leaf).detach() if away is None else away.load()


def values(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by name, those that are kept elsewhere loaded one at a time."""
    for name, _ in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        yield name, value_at(model.get_submodule(path), leaf)


def offloaded(model: nn.Module) -> list[str]:
    """The parameters that accelerate keeps in CPU memory or on disk."""
    return [
        f"{path}.{leaf}" if path else leaf
        for path, module in model.named_modules()
        for leaf in _own(module)
        if offloaded_at(module, leaf) is not None
    ]


def refuse_offloaded(model: nn.Module, what: str) -> None:
    """A `ConfigError` where some weights are offloaded; `what` cannot do with that."""
    if away := offloaded(model):
        raise ConfigError(
            f"{what} needs all weights in memory, and {len(away)} are offloaded (the first is "
            f"{away[0]}). Take cpu and disk out of device_map, or give the model more GPUs."
        )


def input_device(model: nn.Module) -> torch.device:
    """Where the model takes its batches."""
    return device_at(task_of(model).entry_of(model), "weight")


def devices_of(model: nn.Module) -> list[torch.device]:
    """Where its parts run."""
    found = {device_at(module, leaf) for module in model.modules() for leaf in _own(module)}
    return sorted(found, key=str)


def kind_of_device(model: nn.Module) -> str:
    """`cpu` or `cuda`: what kind of device its decoder runs on, all of them alike."""
    return input_device(model).type


def refuse_parted(blocks: Iterable[nn.Module]) -> None:
    """A `ConfigError` where a decoder block runs on several devices: it adds up what its parts
    make."""
    for index, block in enumerate(blocks):
        devices = {device_at(module, leaf) for module in block.modules() for leaf in _own(module)}
        if len(devices) > 1:
            raise ConfigError(
                f"device_map: decoder block {index} would run on {len(devices)} devices "
                f"({', '.join(sorted(map(str, devices)))}). Put all of it on one."
            )


def _own(module: nn.Module) -> list[str]:
    return [leaf for leaf, _ in module.named_parameters(recurse=False)]


def _hooks(module: nn.Module) -> list[Any]:
    """Those that say where it runs; accelerate takes long to import, and most models have none."""
    hook: Any = getattr(module, "_hf_hook", None)
    if hook is None:
        return []
    from accelerate.hooks import AlignDevicesHook

    return [each for each in getattr(hook, "hooks", (hook,)) if isinstance(each, AlignDevicesHook)]


def _device(told: int | str | torch.device | None) -> torch.device:
    return torch.device("cuda", told) if isinstance(told, int) else torch.device(told or "cpu")


def offload_folder() -> Path:
    """Where weights are kept on disk while a model is loaded: a part of the cache."""
    return cache_dir() / "offload"


def _in_a_file(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in a file that is mapped and has no name any more: it goes when the tensor goes.

    The system keeps of it in memory what there is room for. Its room on disk is taken at once where
    the system can do that (macOS cannot), for a map that cannot be written to ends the process.
    """
    size = torch.Size(shape).numel()
    reserve = getattr(os, "posix_fallocate", lambda file, start, end: os.truncate(file, end))
    try:
        offload_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=offload_folder(), suffix=".weight") as file:
            reserve(file.fileno(), 0, max(1, size * dtype.itemsize))
            return torch.from_file(file.name, shared=True, size=size, dtype=dtype).view(shape)
    except OSError as error:
        raise StorageError(
            f"{offload_folder()}: a candidate's weights cannot be kept there ({error}). Free some "
            f"space, or put fewer blocks on disk in device_map."
        ) from error
