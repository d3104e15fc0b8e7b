"""Out to a file of another tool's format and back, through the same commands that a user types."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_checkpoint import saved
from typer.testing import CliRunner

from optishear.calibration.origin import Origin
from optishear.cli import app
from optishear.errors import ConfigError
from optishear.interchange.modules import linear_modules
from optishear.interchange.recipes import Asked
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import read
from optishear.recipe.pattern import parse_pattern
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.records.run_directory import write_json
from optishear.runs.results import Entry, Front, front_to_json
from optishear.text.sources import TextSpec
from optishear.text.tokens import token_batches
from optishear.tools.exports import export
from optishear.tools.imports import import_for
from optishear.tools.named import NamedMethod, masks_of
from optishear.tools.prune import How, prune_to


TEXT = TextSpec("embedded", "train", 3, 64)
HOW = How(TEXT, gradient_sequences=2)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return str(saved("opt", tmp_path_factory.mktemp("models") / "dense", torch.float32))


@pytest.fixture(scope="module")
def loaded(dense):
    return load(dense)


@pytest.fixture(scope="module")
def recipe(loaded):
    """Wanda with another count in every layer."""
    layout = layout_of(loaded.model)
    targets = {layer.name: 0.3 + 0.05 * i for i, layer in enumerate(layout.layers)}
    drop = project(targets, layout, parse_pattern("row"), Bounds(), None)
    return Recipe.of({"name": "wanda"}, drop)


@pytest.fixture(scope="module")
def finished(dense, loaded, recipe, tmp_path_factory):
    """A run directory as a search leaves it, with one recipe on its front."""
    front = Front(
        "one",
        {"sparsity": True},
        "knee",
        layout_of(loaded.model),
        (Entry(recipe, {"sparsity": 0.5}),),
        Origin(dense, loaded.hash),
    )
    folder = tmp_path_factory.mktemp("run")
    write_json(folder / "manifest.json", {"status": "finished"})
    write_json(folder / "front.json", front_to_json(front, {"sparsity": ""}))
    return folder


@pytest.fixture(scope="module")
def pruned(dense, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned") / "wanda"
    prune_to(dense, lambda _layout: recipe, folder, HOW)
    return folder


def invoke(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def weights(folder):
    model = load(str(folder)).model
    return {layer.name: read(model, layer) for layer in layout_of(model).layers}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_an_exported_profile_imported_again_prunes_the_same_weights(
    dense, finished, pruned, recipe, tmp_path
):
    invoke("export", finished, "--to", tmp_path / "out")
    for name in ("profile.csv", "profile.json"):
        to = tmp_path / f"{name}.recipe.json"
        words = ["import", tmp_path / "out" / name, "--model", dense, "--to", to, "--json"]
        said = json.loads(invoke(*words).stdout)
        assert (said["recipe"], said["kind"]) == (recipe.key, "profile")
    invoke(
        *("prune", "--model", dense, "--recipe", to, "--to", tmp_path / "again"),
        *("--text", "embedded", "--sequences", 3, "--seq-len", 64),
    )
    assert same(weights(tmp_path / "again"), weights(pruned))


def test_evopress_levels_of_one_weight_bring_the_profile_back(dense, finished, recipe, tmp_path):
    path = tmp_path / "levels.txt"
    words = ["export", finished, "--format", "evopress", "--level-step", 1, "--to", path]
    result = invoke(*words)
    assert result.stdout.split() == [str(path), f"{path}.json"]
    assert "--weights_diff 1 --num_levels" in result.stderr
    words = ["--model", dense, "--method", "wanda", "--to", tmp_path / "recipe.json"]
    result = invoke("import", path, *words)
    assert "largest deviation" in result.stderr
    got = Recipe.read(tmp_path / "recipe.json")
    assert all(abs(got.drop[name] - count) <= 1 for name, count in recipe.drop.items())


def test_the_file_for_llmcompressor_names_modules_in_their_own_order(
    dense, finished, loaded, tmp_path
):
    path = tmp_path / "recipe.yaml"
    invoke("export", finished, "--format", "llmcompressor", "--to", path)
    text = path.read_text()
    positions = [text.index(f"- {layer.name}\n") for layer in layout_of(loaded.model).layers]
    assert positions != sorted(positions)  # OPT defines k before q, and calls q first
    modules = [name for name in linear_modules(dense) if f"- {name}\n" in text]
    assert [text.index(f"- {name}\n") for name in modules] == sorted(positions)


def test_modules_are_those_of_the_loaded_model(dense, loaded):
    want = [n for n, m in loaded.model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert linear_modules(dense) == want


def test_transposed_layers_are_no_linear_modules(tmp_path):
    folder = saved("gpt2", tmp_path / "gpt2", torch.float32)
    assert linear_modules(str(folder)) == ["lm_head"]


def test_a_mask_file_is_as_good_as_the_checkpoint_that_it_comes_from(dense, pruned, tmp_path):
    path = tmp_path / "masks.safetensors"
    result = invoke("export", pruned, "--format", "masks", "--to", path)
    assert "masks" in result.stderr
    assert path.stat().st_size < 0.2 * (pruned / "model.safetensors").stat().st_size
    for refit in (False, True):
        for place in (str(pruned), str(path)):
            folder = tmp_path / f"{place == str(path)} {refit}"
            prune_to(dense, None, folder, HOW, mask_from=(place, refit))
        first, second = (weights(tmp_path / f"{file} {refit}") for file in (False, True))
        assert same(first, second)
        files = [tmp_path / f"{f} {refit}" / "optishear_recipe.json" for f in (False, True)]
        assert Recipe.read(files[0]) == Recipe.read(files[1])
    says = json.loads(invoke("export", pruned, "--format", "masks", "--to", path, "--json").stdout)
    assert says["files"] == [str(path)]


def test_a_mask_file_says_what_the_checkpoint_was_made_with(
    dense, loaded, pruned, recipe, tmp_path
):
    export(str(pruned), tmp_path / "m.safetensors", "masks")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        says = json.loads(file.metadata()["optishear"])
    assert says["model_hash"] == loaded.hash
    assert says["recipe_key"] == recipe.key
    assert says["made_with"]["calibration"]["seed"] == TEXT.seed
    assert says["made_with"]["calibration_hash"]
    assert set(load_file(tmp_path / "m.safetensors")) == set(recipe.drop)


def test_masks_for_other_weights_need_any_model(dense, pruned, tmp_path):
    path, other = tmp_path / "masks.safetensors", tmp_path / "other"
    export(str(pruned), path, "masks")
    shutil.copytree(dense, other)
    model = load(dense).model
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    model.save_pretrained(other)
    words = ["prune", "--model", other, "--mask-from", path, "--to", tmp_path / "p"]
    text = ["--text", "embedded", "--sequences", 2, "--seq-len", 32]
    assert "--any-model" in invoke(*words, *text, code=2).stderr
    assert not (tmp_path / "p").exists()
    invoke(*words, *text, "--any-model")
    zeros = {name: weight == 0 for name, weight in weights(tmp_path / "p").items()}
    assert same(zeros, {name: weight == 0 for name, weight in weights(pruned).items()})
    words = ["prune", "--model", other, "--mask-from", pruned, "--to", tmp_path / "q"]
    assert "goes with --mask-from" in invoke(*words, "--any-model", code=2).stderr


def test_a_checkpoint_from_elsewhere_gives_masks_of_no_known_model(dense, loaded, pruned, tmp_path):
    shutil.copytree(pruned, tmp_path / "foreign")
    (tmp_path / "foreign" / "optishear_recipe.json").unlink()
    path = tmp_path / "m.safetensors"
    notes = export(str(tmp_path / "foreign"), path, "masks").notes
    assert "does not say which dense model" in notes[1]
    layout = layout_of(loaded.model)
    with pytest.raises(ConfigError, match="do not say for which model"):
        masks_of(str(path), layout, loaded.hash)
    assert masks_of(str(path), layout, loaded.hash, any_model=True)
    with pytest.raises(ConfigError, match="none of its weights is zero"):
        export(dense, tmp_path / "d.safetensors", "masks")


@pytest.mark.parametrize("sequential", [True, False], ids=["sequential", "one-shot"])
def test_pruner_zero_s_tree_prunes_by_gradients(dense, loaded, sequential, tmp_path):
    """|W| * |W| * (G - min G) / (max - min), by hand from the gradients of the same sequences."""
    tree = {"data": "mul", "left": {"data": "sqr", "left": {"data": "W"}}}
    tree["right"] = {"data": "mms", "left": {"data": "G"}}
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    found = import_for(dense, tmp_path / "tree.json", tmp_path / "recipe.json", Asked(sparsity=0.5))
    how = How(TEXT, sequential=sequential, gradient_sequences=2)
    prune_to(dense, lambda _layout: found.recipe, tmp_path / "p", how)

    tokens = token_batches(TEXT, loaded.tokenizer).tokens[:2]
    model = load(dense).model.requires_grad_(True)
    squares = {}
    for row in tokens:
        model.zero_grad()
        model(row[None], labels=row[None]).loss.backward()
        for layer in layout_of(model).layers:
            grad = model.get_submodule(layer.name).weight.grad
            squares[layer.name] = squares.get(layer.name, 0) + (100 * grad).square()
    agree = total = 0
    for name, weight in weights(tmp_path / "p").items():
        g = squares[name].sqrt()
        score = read(model, layout_of(model).by_name[name]).square() * (g - g.min())
        width = weight.shape[1]
        lowest = score.argsort(dim=1, stable=True)[:, : width // 2]
        want = torch.ones_like(weight, dtype=torch.bool).scatter(1, lowest, False)
        agree += int((want == (weight != 0)).sum())
        total += weight.numel()
    assert agree > 0.99 * total  # gradients are kept in fp16


def test_a_tree_without_a_sparsity_is_a_metric(tmp_path):
    (tmp_path / "tree.txt").write_text("mul(abs(W), sqrt(X))")
    to = tmp_path / "metric.json"
    result = invoke("import", tmp_path / "tree.txt", "--to", to)
    assert json.loads(to.read_text()) == {"name": "tree", "formula": "mul(W, sqrt(X))"}
    assert "not a recipe" in result.stderr
    words = ["import", tmp_path / "tree.txt", "--to", to, "--model", "embedded"]
    assert "needs --sparsity" in invoke(*words, code=2).stderr


def test_owl_s_densities_prune_as_its_sparsities_do(dense, loaded, tmp_path):
    blocks = layout_of(loaded.model).blocks
    (tmp_path / "owl.txt").write_text(f"[{' '.join(['0.5'] * blocks)}]\n")
    words = ["import", tmp_path / "owl.txt", "--model", dense, "--to", tmp_path / "recipe.json"]
    assert "--meaning keep" in invoke(*words, code=2).stderr
    assert not (tmp_path / "recipe.json").exists()
    invoke(*words, "--meaning", "keep")
    want = NamedMethod("wanda", 0.5).recipe(layout_of(loaded.model))
    assert Recipe.read(tmp_path / "recipe.json") == want


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format", "llmcompresor", "--to", "x.yaml"], "Did you mean 'llmcompressor'"),
        (["--format", "llmcompressor", "--to", "x.json"], "ends in .yaml"),
        (["--format", "masks", "--to", "x.bin"], "ends in .safetensors"),
        (["--format", "masks", "--to", "x.safetensors", "--pick", "knee"], "--pick: a checkpoint"),
        (["--level-step", "4", "--to", "x"], "goes with --format evopress"),
        (["--to", "x.yaml"], "name a folder, or a file ending in .json or .csv"),
    ],
)
def test_a_wrong_export_is_one_sentence(finished, words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("export", finished, *words, code=2)
    assert sentence in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.txt", "--to", "r.json"], "there is no such file"),
        (["r.txt", "--to", "r.yaml"], "ends in .json"),
        (["r.txt", "--to", "r.json"], "--model: say for which model"),
    ],
)
def test_a_wrong_import_is_one_sentence(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.txt").write_text("0.5 0.5")
    result = invoke("import", *words, code=2)
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
