"""Whether a GPU kernel takes the place of the torch operations that it equals."""

import os
from importlib.util import find_spec

import torch


def usable(tensor: torch.Tensor) -> bool:
    """True for tensors on a GPU, where triton is installed and `OPTISHEAR_KERNELS` is not "off".

    With OPTISHEAR_KERNELS=interpret and TRITON_INTERPRET=1 also on a CPU, slowly: it is for tests.
    """
    switch = os.environ.get("OPTISHEAR_KERNELS", "on")
    if switch == "off" or find_spec("triton") is None:
        return False
    interpreted = switch == "interpret" and os.environ.get("TRITON_INTERPRET") == "1"
    return tensor.device.type == "cuda" or interpreted
