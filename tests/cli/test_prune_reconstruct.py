"""`optishear prune --reconstruct` as one meets it."""

import json

import pytest
from tiny_folders import tensors_of, tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.recipe.recipe import Recipe
from optishear.recipe.reconstruction import ReconstructionSettings


SHORT = ["--text", "embedded", "--sequences", 4, "--seq-len", 32]
WANDA = ["--method", "wanda", "--sparsity", 0.5]
MOVED = "half:epochs=2:learning_rate=2e-3:held_back=0.5"


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return tiny_folder("llama", tmp_path_factory.mktemp("dense"))


def prune(dense, to, *words, code=0):
    command = ["prune", "--model", dense, *SHORT, "--to", to, *words]
    result = CliRunner().invoke(app, [str(word) for word in command])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


def test_it_goes_with_a_method_a_recipe_and_a_mask_and_says_what_it_gained(dense, tmp_path):
    told = prune(dense, tmp_path / "a", *WANDA, "--reconstruct", MOVED)
    assert "reconstruction: " in told.stderr
    assert "error on 2 sequences that decide" in told.stderr
    recipe = tmp_path / "a" / "optishear_recipe.json"
    settings = ReconstructionSettings.parsed(MOVED, "test")
    assert Recipe.read(recipe).reconstruct == settings
    windows = json.loads((tmp_path / "a" / "optishear_windows.json").read_text())
    assert [window["window"] for window in windows[:2]] == [
        "block 0, first half",
        "block 0, second half",
    ]
    prune(dense, tmp_path / "b", "--recipe", recipe)
    assert tensors_of(tmp_path / "b").keys() == tensors_of(tmp_path / "a").keys()
    assert files(tmp_path / "a") == files(tmp_path / "b")
    prune(dense, tmp_path / "plain", *WANDA)
    prune(dense, tmp_path / "c", "--recipe", recipe, "--reconstruct", "none")
    assert files(tmp_path / "c") == files(tmp_path / "plain") != files(tmp_path / "a")
    assert not (tmp_path / "c" / "optishear_windows.json").exists()
    told = prune(dense, tmp_path / "d", "--mask-from", tmp_path / "plain", "--reconstruct", MOVED)
    assert "reconstruction: " in told.stderr
    for name, tensor in tensors_of(tmp_path / "plain").items():
        assert ((tensors_of(tmp_path / "d")[name] == 0) == (tensor == 0)).all(), name


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("model*.safetensors")}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--reconstruct", "blok"], "--reconstruct: no window is called 'blok'. Did you mean"),
        (["--reconstruct", "block:epochs=0"], "--reconstruct: epochs is 0, expected a whole"),
        (["--reconstruct", "block:held_back=0.9"], "4 of 4 calibration sequences are to be held"),
        (["--reconstruct", "block", "--one-shot"], "a local reconstruction"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words, told, dense, tmp_path):
    assert told in prune(dense, tmp_path / "a", *WANDA, *words, code=2).stderr
    assert not (tmp_path / "a").exists()
