"""The choice between a kernel and its reference: by device, by what is installed, by a switch.

`OPTISHEAR_KERNELS` is `on` (the default: tensors on a CUDA device, where Triton is installed),
`off`, or `interpret`: tensors on the CPU through Triton's interpreter, as tests do. The interpreter
is asked for by `TRITON_INTERPRET=1`, which Triton reads when it is first imported.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from optishear.errors import ConfigError
from optishear.recipe.lookup import did_you_mean


VARIABLE = "OPTISHEAR_KERNELS"
MODES = ("on", "off", "interpret")

_mode: ContextVar[str | None] = ContextVar("mode", default=None)


def usable(*tensors: Tensor) -> bool:
    """Whether kernels are for these tensors, all of them; the references are for all others."""
    mode = _mode.get() or _known(os.environ.get(VARIABLE, "on"), VARIABLE)
    if mode == "off" or not _installed():
        return False
    if mode == "interpret" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            f"{VARIABLE} is 'interpret', but TRITON_INTERPRET is not 1: set both before Python "
            f"starts, or leave {VARIABLE} alone."
        )
    wanted = "cpu" if mode == "interpret" else "cuda"
    return all(tensor.device.type == wanted for tensor in tensors)


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current CUDA device, which need not be a tensor's."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


@contextmanager
def kernels(mode: str) -> Iterator[None]:
    """`on`, `off` or `interpret` while this is open, whatever the environment says."""
    token = _mode.set(_known(mode, "kernels"))
    try:
        yield
    finally:
        _mode.reset(token)


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def _known(mode: str, where: str) -> str:
    if mode not in MODES:
        raise ConfigError(
            f"{where}: no {mode!r}.{did_you_mean(mode, MODES)} There are: {', '.join(MODES)}."
        )
    return mode
