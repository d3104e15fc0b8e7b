"""A prune says how much of the model's blocks it could reach, in its answer and in its folder."""

import json

import pytest
from tiny_folders import folder_with, tokenizer
from tiny_models import ATTENTION, SIZES, make
from typed import invoke

from optishear.export.checkpoint import COVERAGE_FILE


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A model with two stacks, of which one is pruned."""
    sizes = {**SIZES, **ATTENTION, "intermediate_size": 40, "vocab_size": len(tokenizer())}
    return folder_with(make("hrm_text", sizes), tmp_path_factory.mktemp("half"))


def pruned(model, to, *words):
    text = ["--text", "embedded", "--sequences", 2, "--seq-len", 32]
    method = ["--method", "magnitude", "--sparsity", 0.5]
    return invoke("prune", "--model", model, *text, *method, "--to", to, *words)


def test_a_prune_of_half_a_model_says_so_and_writes_it_down(half, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        result = pruned(half, tmp_path / "a", "--one-shot", "--json")
    told = json.loads(result.stdout)["coverage"]
    assert told == json.loads((tmp_path / "a" / COVERAGE_FILE).read_text())
    assert told["weights"] == 2 * told["prunable"]
    assert "Only 50.00 % of the weights in its blocks' matrices are prunable" in caplog.text
    again = pruned(half, tmp_path / "a", "--one-shot")
    assert "50.00 % of the weights in its blocks' matrices are prunable" in again.stderr


def test_a_streamed_prune_writes_the_same(tmp_path):
    whole = pruned("embedded", tmp_path / "a")
    pruned("embedded", tmp_path / "b", "--stream")
    assert "100.00 % of the weights" in whole.stderr
    kept = [(tmp_path / name / COVERAGE_FILE).read_text() for name in "ab"]
    assert kept[0] == kept[1]
