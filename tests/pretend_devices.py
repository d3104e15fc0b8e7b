"""Devices that a machine does not have: CPU tensors with a label, which no operation may mix.

A tensor's memory has the label, so views, parameters and what is written in place behave as they
do on a real device; `.device` says the label, and only `.to`, `.cpu`, `copy_`, an assignment to a
part, and whatever is made with `device=` take a tensor from one to another.
"""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


DEVICE = Tensor.device.__get__
MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
ACROSS = {Tensor.copy_, Tensor.__setitem__, Tensor.data.__set__}
ASKS = {torch._has_compatible_shallow_copy_type}
CPU = torch.device("cpu")


class PretendDevices(TorchFunctionMode):
    """While it is open, `cuda:0`, `cuda:1`, … are there, and an operation on two of them fails.

    - `moved`: bytes that went from one device to another, by the devices.
    """

    def __init__(self) -> None:
        super().__init__()
        self._labels: dict[int, tuple[StorageWeakRef, torch.device]] = {}
        self.moved: dict[tuple[str, str], int] = {}

    def where(self, tensor: Tensor) -> torch.device:
        with torch._C.DisableTorchFunction():
            if tensor.is_meta:
                return tensor.device
            found = self._labels.get(tensor.untyped_storage()._cdata)
            return CPU if found is None else found[1]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == DEVICE:
            return self.where(args[0])
        if func is torch.device:
            return _device(*args, **kwargs)
        if func in MOVES:
            return self._move(func, *args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if kwargs.get("device") is not None:
            target = _device(kwargs["device"])
            kwargs["device"] = CPU if target.type == "cuda" else target
        elif func in ACROSS | ASKS:
            target = self.where(args[0])
            if func is Tensor.copy_:
                self._count(self.where(args[1]), target, args[1].nbytes)
        else:
            found = {self.where(t) for t in tensors if not t.is_meta}
            if len(found) > 1:  # as in torch a number on the CPU goes with all, one is an index
                index = func == Tensor.__getitem__
                tensors = [t for t in tensors if t.ndim or not (index or self.where(t) == CPU)]
                found = {self.where(t) for t in tensors}
            assert len(found) < 2, f"{func.__name__} mixes {sorted(map(str, found))}"
            target = next(iter(found), CPU)
            assert func not in (Tensor.numpy, Tensor.__array__) or target == CPU
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not any(_one_memory(leaf, t) for t in tensors):
                self._label(leaf, target)
        return result

    def _move(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        own = self.where(tensor)
        if func is Tensor.to:
            copy = kwargs.pop("copy", False)
            if args and isinstance(args[0], Tensor):
                device, dtype = self.where(args[0]), args[0].dtype
            else:
                if args and isinstance(args[0], int):
                    args = (_device(args[0]), *args[1:])
                device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        else:
            copy, dtype = False, None
            device = CPU if func is Tensor.cpu else _device(args[0] if args else 0)
        device = own if device is None else _device(device)
        if "meta" in (device.type, own.type):
            return tensor.to(device, dtype or tensor.dtype)
        result = tensor.to(dtype=dtype or tensor.dtype, copy=copy or device != own)
        self._count(own, device, result.nbytes)
        if not _one_memory(result, tensor):
            self._label(result, device)
        return result

    def _count(self, one: torch.device, other: torch.device, size: int) -> None:
        if one != other:
            key = (str(one), str(other))
            self.moved[key] = self.moved.get(key, 0) + size

    def _label(self, tensor: Tensor, device: torch.device) -> None:
        if not tensor.is_meta and tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            self._labels[storage._cdata] = StorageWeakRef(storage), device


def _device(*told: Any, **named: Any) -> torch.device:
    """A number is a GPU's; `cuda` is the first."""
    number = told and isinstance(told[0], int)
    found = torch.device("cuda", *told) if number else torch.device(*told, **named)
    return torch.device("cuda", 0) if str(found) == "cuda" else found


def _one_memory(one: Tensor, other: Tensor) -> bool:
    if one.is_meta or other.is_meta:
        return False
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata
