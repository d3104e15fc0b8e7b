"""`optishear verify` as one meets it: exit codes, the table, one sentence for each failed check."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typed import invoke

from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to


DOWN = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "pruned"
    how = How(TextSpec("embedded", "train", 2, 64))
    prune_to("embedded", NamedMethod("magnitude", 0.5, "row").on, folder, how)
    return folder


@pytest.fixture
def bad(good, tmp_path):
    """The same with one layer all ones and a pickle beside it."""
    folder = tmp_path / "bad"
    shutil.copytree(good, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[DOWN] = torch.ones_like(tensors[DOWN])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "optimizer.pt").touch()
    return folder


def test_a_good_checkpoint_is_exit_code_0_and_a_table(good):
    result = invoke("verify", good)
    assert f"{good}: 11 ok, 1 info" in result.stdout
    assert "50.00 % of the prunable weights are zero, 42.82 % of all parameters" in result.stdout
    assert "failed" not in result.output


def test_a_failed_check_is_exit_code_1_and_one_sentence_on_stderr(bad):
    result = invoke("verify", bad, code=1)
    sentences = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in sentences] == ["files", "zeros", "kept weights"]
    assert "optimizer.pt" in sentences[0]
    assert sentences[1].endswith("1 of 42 layers have fewer zeros than the recipe drops.")
    assert "zeros: model.layers.2.mlp.down_proj: 0 zeros were found" in result.stdout


def test_json_has_every_check_with_its_layers(good, bad):
    answer = json.loads(invoke("verify", good, "--json").stdout)
    assert answer["ok"]
    [zeros] = [check for check in answer["checks"] if check["name"] == "zeros"]
    assert len(zeros["layers"]) == 42
    assert zeros["layers"]["model.layers.0.mlp.up_proj"] == pytest.approx(0.5)
    result = invoke("verify", bad, "--json", code=1)
    assert not json.loads(result.stdout)["ok"]


def test_a_dense_model_without_a_recipe_passes_and_says_what_could_not_be_checked(tmp_path):
    from optishear.models.catalog import folder_of

    folder = tmp_path / "dense"
    shutil.copytree(folder_of("embedded"), folder)
    result = invoke("verify", folder)
    assert "There is no optishear_recipe.json in the folder." in result.stdout
    assert "Nothing says which the dense model is: name it with --against." in result.stdout
    assert "6 ok, 2 info, 4 not checked" in result.stdout


def test_a_mistake_is_exit_code_2(good, tmp_path):
    assert "there is no such folder" in invoke("verify", tmp_path / "x", code=2).stderr
    wrong = invoke("verify", good, "--against", "embeded", code=2)
    assert "Did you mean 'embedded'?" in wrong.stderr
    assert not wrong.stdout
