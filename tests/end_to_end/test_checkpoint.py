"""Pruned checkpoints: what is written is what was asked for, and what transformers loads."""

import json

import pytest
import torch
from tiny_models import TINY, make
from transformers import AutoModelForCausalLM

from optishear.errors import ConfigError, StorageError
from optishear.export.checkpoint import check_zeros
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import read
from optishear.recipe.recipe import Recipe
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.texts import usual_text


TEXT = How(TextSpec("embedded", "train", 2, 64))


@pytest.fixture
def folder(tmp_path):
    """A GPT-2 (transposed weights) with the embedded tokenizer, as a folder in bf16."""
    return saved("gpt2", tmp_path / "dense", torch.bfloat16)


def saved(name, place, dtype):
    tokenizer = load("embedded").tokenizer
    kind, settings = TINY[name].args
    model = make(kind, {**settings, "vocab_size": len(tokenizer)})
    model.to(dtype).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def wanda(sparsity=0.5, pattern=None):
    return NamedMethod("wanda", sparsity, pattern).on


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "mixtral"])
def test_a_pruned_checkpoint_loads_with_exact_zeros_in_its_own_dtype(name, tmp_path):
    dense = saved(name, tmp_path / "dense", torch.bfloat16)
    checked, written = prune_to(str(dense), wanda(), tmp_path / "pruned", TEXT)
    assert written
    assert checked.dtype == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype="auto")
    assert model.dtype == torch.bfloat16
    recipe = Recipe.read(tmp_path / "pruned" / "optishear_recipe.json")
    before = load(str(dense)).model
    for layer in layout_of(model).layers:
        weight, dense_weight = read(model, layer), read(before, layer)
        assert int((weight == 0).sum()) == recipe.drop[layer.name]
        kept = weight != 0
        assert torch.equal(weight[kept].float(), dense_weight[kept])


def test_two_of_four_holds_in_every_group(tmp_path):
    dense = saved("llama", tmp_path / "dense", torch.float32)
    prune_to(str(dense), wanda(None, "2:4"), tmp_path / "pruned", TEXT)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    for layer in layout_of(model).layers:
        assert ((read(model, layer) == 0).view(-1, 4).sum(1) == 2).all()


def test_the_architectures_of_the_dense_checkpoint_stay(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    named = {"architectures": ["GPT2LMHeadModelOfSomebody"]}
    (folder / "config.json").write_text(json.dumps(config | named))
    prune_to(str(folder), wanda(), tmp_path / "pruned", TEXT)
    written = json.loads((tmp_path / "pruned" / "config.json").read_text())
    assert written["architectures"] == ["GPT2LMHeadModelOfSomebody"]


def test_a_folder_that_is_not_empty_is_left_alone(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty"):
        prune_to(str(folder), wanda(), tmp_path / "mine", TEXT)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_half_a_checkpoint_is_never_left(folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("optishear.export.checkpoint.save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        prune_to(str(folder), wanda(), tmp_path / "pruned", TEXT)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense"]


def test_a_checkpoint_that_reads_back_differently_is_refused(folder, tmp_path, monkeypatch):
    from optishear.export import checkpoint

    honest = checkpoint.load

    def tampered(*args, **kwargs):
        loaded = honest(*args, **kwargs)
        with torch.no_grad():
            loaded.model.transformer.ln_f.bias.add_(1)
        return loaded

    monkeypatch.setattr(checkpoint, "load", tampered)
    with pytest.raises(StorageError, match="logits differ"):
        prune_to(str(folder), wanda(), tmp_path / "pruned", TEXT)
    assert not (tmp_path / "pruned").exists()


def test_missing_zeros_are_noticed(folder):
    model = load(str(folder)).model
    layer = layout_of(model).layers[0]
    weight = read(model, layer).clone()
    with pytest.raises(StorageError, match="0 zeros were found, the recipe drops 24"):
        check_zeros(weight, layer, Recipe.of({"name": "wanda"}, {layer.name: 24}))
    weight[:, 0::4] = 0
    weight[0, 0] = 1
    each = Recipe.of({"name": "wanda"}, {layer.name: layer.size // 4}, "n:4")
    weight[0, 1] = 0
    weight[1, 1] = 0
    check_zeros(weight, layer, each)
    weight[0, 1] = 1
    with pytest.raises(StorageError, match="a group of 4 has 0 zeros"):
        check_zeros(weight, layer, each)


def test_a_recipe_of_another_model_is_refused_before_anything_is_written(folder, tmp_path):
    recipe = Recipe.of({"name": "wanda"}, {"other.layer": 3})
    with pytest.raises(ConfigError, match="Was it made for another model"):
        prune_to(str(folder), lambda layout: recipe, tmp_path / "pruned", TEXT)
    assert not (tmp_path / "pruned").exists()


def test_weights_with_nan_are_refused(folder, tmp_path):
    model = load(str(folder)).model
    with torch.no_grad():
        read(model, layout_of(model).layers[0])[1, 2] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    load("embedded").tokenizer.save_pretrained(tmp_path / "nan")
    with pytest.raises(ConfigError, match=r"(?i)nan"):
        prune_to(str(tmp_path / "nan"), wanda(), tmp_path / "pruned", TEXT)


def test_the_usual_calibration_text_is_the_train_split():
    assert usual_text("embedded", "train").split == "train"
    assert usual_text("smollm2-135m", "train").source == "wikipedia-passages"
