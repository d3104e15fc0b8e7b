"""`optishear prune --stream` as one meets it."""

import json

import torch
from tiny_folders import tensors_of
from typed import invoke

from optishear.recipe.recipe import Recipe


SHORT = ["--text", "embedded", "--sequences", 2, "--seq-len", 64]


def prune(to, *words, code=0):
    return invoke("prune", "--stream", "--model", "embedded", *SHORT, "--to", to, *words, code=code)


def test_a_method_then_its_recipe_file_then_nothing_to_do(tmp_path):
    first = prune(tmp_path / "a", "--method", "wanda", "--pattern", "2:4")
    assert "42 layers, sparsity 50.00 %" in first.stdout
    recipe = tmp_path / "a" / "optishear_recipe.json"
    again = prune(tmp_path / "b", "--recipe", recipe, "--json")
    assert json.loads(again.stdout)["written"]
    assert Recipe.read(tmp_path / "b" / "optishear_recipe.json") == Recipe.read(recipe)
    for name in ("model-00003-of-00008.safetensors", "optishear_layers.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    third = prune(tmp_path / "b", "--recipe", recipe)
    assert "already there" in third.stderr


def test_what_needs_the_whole_model_is_refused_before_it_is_read(tmp_path):
    wanda = ["--method", "wanda", "--sparsity", 0.5]
    refused = prune(tmp_path / "a", *wanda, "--profile", "owl", code=2)
    assert refused.stderr == (
        "error: --profile owl: needs the whole model in memory. Leave it or --stream out.\n"
    )
    refused = prune(tmp_path / "a", "--mask-from", "embedded", code=2)
    assert "--mask-from: needs the whole model in memory" in refused.stderr
    assert not (tmp_path / "a").exists()


def test_moonshot_takes_its_gradients_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    words = ["--method", "moonshot-wanda", "--sparsity", 0.5, "--gradient-sequences", 2]
    result = prune(tmp_path / "a", *words)
    assert "42 layers, sparsity 50.00 %" in result.stdout
    assert "collecting gradients of 2 sequences: 9.4 MB on disk" in result.stderr
    whole = ["prune", "--model", "embedded", *SHORT, *words, "--to", tmp_path / "b"]
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "another"))
    invoke(*whole)
    got, want = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())


def test_a_model_that_does_not_fit_is_told_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("", (), {"available": 10**6}))
    words = ["prune", "--model", "embedded", *SHORT, "--to", tmp_path / "a"]
    result = invoke(*words, "--method", "magnitude", "--sparsity", 0.5)
    assert "--stream has one block of it in memory at a time" in result.stderr
