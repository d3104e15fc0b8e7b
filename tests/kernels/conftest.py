"""Here kernels run on the CPU, in Triton's interpreter, where Triton is installed."""

import warnings

import numpy as np
import pytest

from optishear.kernels.use import kernels


@pytest.fixture(autouse=True)
def _interpreted():
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'optishear[dev]'")
    # The interpreter is numpy, which warns where a GPU overflows in silence.
    with kernels("interpret"), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        yield
