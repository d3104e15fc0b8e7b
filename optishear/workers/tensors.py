"""Tensors that lie in Ray's shared memory: a host's replicas read one copy of the dense weights.

What is read there is read-only. Nobody writes to dense weights or statistics (a replica prunes
working copies, see `models.weights.working_weights`), and a write by mistake ends that process
at once, so that it cannot change what the others read.
"""

import warnings
from typing import Any

import numpy as np
import torch


def register() -> None:
    """In this process, once Ray runs. Parameters hold tensors, so these go the same way."""
    from ray.util import register_serializer

    register_serializer(torch.Tensor, serializer=packed, deserializer=unpacked)


Packed = tuple[np.ndarray, str, tuple[int, ...], list[int]]


def packed(tensor: torch.Tensor) -> Packed:
    """Its bytes as an array, which Ray hands over without a copy; dtype, and shape as it lies.

    A transposed weight arrives transposed: products of the other layout may differ in last bits.
    """
    order = sorted(range(tensor.ndim), key=lambda dimension: -tensor.stride(dimension))
    lying = tensor.detach().permute(order).contiguous()
    flat = lying.reshape(-1).view(torch.uint8).numpy()
    return flat, str(tensor.dtype).removeprefix("torch."), tuple(lying.shape), order


def unpacked(data: Packed) -> Any:
    flat, name, shape, order = data
    dtype = getattr(torch, name)
    with warnings.catch_warnings():  # that it is read-only is the point
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        # An empty array has no strides that could be viewed as another dtype's.
        whole = torch.from_numpy(flat).view(dtype) if flat.size else torch.empty(0, dtype=dtype)
    return whole.reshape(shape).permute([order.index(dimension) for dimension in range(len(order))])
