"""A device map as a person writes it, and as accelerate takes it: each part of a model once."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean, lookup


Where = int | str  # a GPU's number, or one of cpu, disk, cuda, cuda:1
DeviceMap = str | Mapping[str, Where]  # one of `KINDS`, or where each module is

KINDS = {
    "auto": "evenly over the GPUs, what does not fit in CPU memory, the rest on disk",
    "balanced": "the same",
    "balanced_low_0": "evenly over the GPUs, less on the first",
    "sequential": "one GPU filled after the other, then CPU memory, then the disk",
}


def check_device_map(device_map: DeviceMap) -> None:
    """A `ConfigError` for what can be no device map of any model."""
    if isinstance(device_map, str):
        lookup(KINDS, device_map, kind="device_map")
        return
    for module, where in device_map.items():
        number = isinstance(where, int) and not isinstance(where, bool) and where >= 0
        if not number and not re.fullmatch(r"cpu|disk|cuda(:\d+)?", str(where)):
            raise ConfigError(
                f"device_map: {module!r} cannot be on {where!r}. Write a GPU's number, cpu, or "
                f"disk."
            )


def devices_in(device_map: DeviceMap) -> list[str]:
    """The devices that a device map names: cpu where weights are kept on disk."""
    if isinstance(device_map, str):
        return []
    named = {where: f"cuda:{where}" for where in device_map.values() if isinstance(where, int)}
    named |= {"disk": "cpu"}
    return sorted({named.get(where, str(where)) for where in device_map.values()})


def placed(device_map: Mapping[str, Where], model: nn.Module) -> dict[str, Where]:
    """The map that accelerate takes for this model: modules that do not overlap.

    Of names that lie within each other the longest counts, and so `""` is the rest of the model.
    """
    names = {name for name, _ in model.named_modules()}
    for name in device_map:
        if name not in names:
            raise ConfigError(
                f"device_map: {type(model).__name__} has no module {name!r}."
                f"{did_you_mean(name, names)} Name a module as the model does, or leave the name "
                f"empty for all that is not named."
            )
    found = dict(_parts(model, "", device_map, None))
    if without := [name for name, where in found.items() if where is None]:
        raise ConfigError(
            f"device_map: nothing says where {without[0]} is ({len(without)} modules in all). Add "
            f"them, or give all that is not named a device: '': 0."
        )
    parts = {name: _number(where) for name, where in found.items() if where is not None}
    tied: Any = getattr(model, "all_tied_weights_keys", {})
    for one, other in tied.items():
        first, second = _where(parts, one), _where(parts, other)
        if first != second:
            raise ConfigError(
                f"device_map: {one} and {other} are one tensor, and would be on {first} and "
                f"{second}. Put both in the same place."
            )
    return parts


def _where(parts: Mapping[str, Where], parameter: str) -> Where:
    return next(
        where for name, where in parts.items() if not name or f"{parameter}.".startswith(f"{name}.")
    )


def _parts(
    module: nn.Module, path: str, device_map: Mapping[str, Where], above: Where | None
) -> Iterator[tuple[str, Where | None]]:
    """The largest parts of the module that lie on one device, by name."""
    here = device_map.get(path, above)
    start = f"{path}." if path else ""
    if not any(name != path and name.startswith(start) for name in device_map):
        if module.state_dict() or here is not None:
            yield path, here
        return
    for leaf in (*module._parameters, *module._buffers):
        yield f"{start}{leaf}", here
    for name, child in module.named_children():
        yield from _parts(child, f"{start}{name}", device_map, here)


def _number(where: Where) -> Where:
    """accelerate compares devices as they are written: a GPU is its number."""
    if isinstance(where, str) and where.startswith("cuda"):
        return int(where.partition(":")[2] or 0)
    return where
