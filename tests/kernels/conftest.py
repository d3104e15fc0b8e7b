"""Kernels run on the CPU, in Triton's interpreter, or with OPTISHEAR_TEST_DEVICE=cuda on a GPU.

On a GPU the same tests make their tensors there, and the references they compare with are torch's
operations on that device.
"""

import os
import warnings
from functools import partial

import numpy as np
import pytest
import torch

from optishear.kernels.use import kernels


ON_GPU = os.environ.get("OPTISHEAR_TEST_DEVICE") == "cuda"


@pytest.fixture
def way():
    """The mode in which kernels run here."""
    return "on" if ON_GPU else "interpret"


@pytest.fixture(autouse=True)
def _kernels_run_here(way, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'optishear[dev]'")
    if ON_GPU:
        monkeypatch.setattr(torch, "Generator", partial(torch.Generator, "cuda"))
        with kernels(way), torch.device("cuda"):
            yield
        return
    # The interpreter is numpy, which warns where a GPU overflows in silence.
    with kernels(way), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        yield
