"""Windows that are longer than what the model was made for."""

import pytest
from tiny_models import TINY

from optishear.errors import ConfigError
from optishear.runs.preconditions import check_context


def test_windows_beyond_the_models_context_are_refused():
    model = TINY["opt"]()
    check_context(model, 64)
    with pytest.raises(ConfigError, match="64 tokens at most"):
        check_context(model, 65)
