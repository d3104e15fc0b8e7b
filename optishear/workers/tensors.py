"""Tensors that lie in Ray's shared memory: a host's replicas read one copy of the dense weights.

What is read there is read-only. Nobody writes to dense weights or statistics (a replica prunes
working copies, see `models.weights.lent`), and a write by mistake ends that process at once, so
that it cannot change what the others read.
"""

import warnings
from typing import Any

import numpy as np
import torch


def register() -> None:
    """In this process, once Ray runs. Parameters hold tensors, so these go the same way."""
    from ray.util import register_serializer

    register_serializer(torch.Tensor, serializer=packed, deserializer=unpacked)


def packed(tensor: torch.Tensor) -> tuple[np.ndarray, str, tuple[int, ...]]:
    """Its bytes as an array, which Ray hands over without a copy; dtype and shape in words."""
    whole = tensor.detach().contiguous()
    flat = whole.reshape(-1).view(torch.uint8).numpy()
    return flat, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def unpacked(data: tuple[np.ndarray, str, tuple[int, ...]]) -> Any:
    flat, dtype, shape = data
    with warnings.catch_warnings():  # that it is read-only is the point
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(flat).view(getattr(torch, dtype)).reshape(shape)
