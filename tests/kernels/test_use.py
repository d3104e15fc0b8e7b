"""Which of kernel and reference runs."""

import pytest
import torch

from optishear.errors import ConfigError
from optishear.kernels import use
from optishear.kernels.use import VARIABLE, kernels, usable


HERE, THERE = torch.zeros(1), torch.zeros(1, device="meta")


@pytest.fixture
def _left_alone():
    token = use._mode.set(None)
    yield
    use._mode.reset(token)


def test_the_interpreter_takes_tensors_on_the_cpu_and_no_others():
    assert usable(HERE)
    assert not usable(THERE)
    assert not usable(HERE, THERE)


def test_on_a_cpu_the_references_run():
    with kernels("on"):
        assert not usable(HERE)


@pytest.mark.usefixtures("_left_alone")
def test_the_environment_decides_where_nobody_else_does(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not usable(HERE)
    monkeypatch.setenv(VARIABLE, "interpret")
    assert usable(HERE)
    monkeypatch.setenv(VARIABLE, "off")
    assert not usable(HERE)


@pytest.mark.usefixtures("_left_alone")
def test_a_mistyped_switch_is_named(monkeypatch):
    monkeypatch.setenv(VARIABLE, "of")
    with pytest.raises(ConfigError, match=f"{VARIABLE}: no 'of'. Did you mean 'off'"):
        usable(HERE)


def test_the_interpreter_is_asked_for_in_time(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ConfigError, match="TRITON_INTERPRET is not 1"):
        usable(HERE)


def test_without_triton_the_references_run(monkeypatch):
    monkeypatch.setattr(use, "_installed", lambda: False)
    assert not usable(HERE)
