"""OPTISHEAR_KERNELS for a while."""

import os
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def kernels(mode):
    with patch.dict(os.environ, {"OPTISHEAR_KERNELS": mode}):
        yield
