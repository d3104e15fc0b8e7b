"""A defect planted in a good checkpoint is found by the check that is for it, and by no other."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TINY, make
from transformers import AutoModelForCausalLM

from optishear.errors import ConfigError
from optishear.models.load import load
from optishear.runs.watcher import Silent
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.verify import CHECKS, verify


TEXT = How(TextSpec("embedded", "train", 2, 64))
RECIPE = "optishear_recipe.json"


def saved(name, place, dtype=torch.float32, **changes):
    """A tiny model of this architecture with the embedded tokenizer."""
    tokenizer = load("embedded").tokenizer
    kind, settings = TINY[name].args
    model = make(kind, {**settings, "vocab_size": len(tokenizer), **changes})
    model.to(dtype).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def pruned_to(dense, to, method="wanda", sparsity=None, pattern=None):
    prune_to(str(dense), NamedMethod(method, sparsity, pattern).on, to, TEXT)
    return to


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Checkpoints of one dense bf16 model with tied embeddings: 2:4, 50 % a row, and updated."""
    root = tmp_path_factory.mktemp("verify")
    dense = saved("qwen2", root / "dense", torch.bfloat16)
    pruned_to(dense, root / "groups", pattern="2:4")
    pruned_to(dense, root / "rows", sparsity=0.5)
    pruned_to(dense, root / "updated", "sparsegpt", 0.5)
    return root


def answers(folder, against=None, again=False):
    return {c.name: c for c in verify(folder, against, again, "cpu", Silent())}


def failing(found):
    return [name for name, check in found.items() if check.status == "failed"]


def copy(folder, to):
    shutil.copytree(folder, to)
    return to


def edit(folder, change):
    """Rewrites the weights after `change` has had its way with them."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    changed = change(tensors)
    save_file(changed if isinstance(changed, dict) else tensors, path, metadata={"format": "pt"})


def dense_weight(good, name):
    return load_file(good / "dense" / "model.safetensors")[name]


UP = "model.layers.1.mlp.up_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("name", ["groups", "rows", "updated"])
def test_what_prune_wrote_passes_every_check(good, name):
    found = answers(good / name, again=True)
    assert list(found) == [*CHECKS, "again"]
    wanted = dict.fromkeys(found, "ok") | ({} if name == "groups" else {"n:m groups": "info"})
    assert {check: answer.status for check, answer in found.items()} == wanted


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_other_structures_pass_too(tmp_path, name):
    """Transposed weights; experts that are stored one by one and read as one parameter."""
    dense = saved(name, tmp_path / "dense")
    assert failing(answers(pruned_to(dense, tmp_path / "pruned", pattern="2:4"), again=True)) == []


def test_a_pruned_weight_that_is_not_zero_is_found_with_its_layer(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    whole = dense_weight(good, UP)

    def revive(tensors):
        row, column = (tensors[UP] == 0).nonzero()[0]
        tensors[UP][row, column] = whole[row, column]

    edit(folder, revive)
    found = answers(folder)
    assert failing(found) == ["zeros"]
    assert found["zeros"].details == (
        "model.layers.1.mlp.up_proj: 479 zeros were found, the recipe drops 480.",
    )


def test_a_broken_group_is_found_even_where_the_count_is_right(good, tmp_path):
    folder = copy(good / "groups", tmp_path / "x")
    whole = dense_weight(good, UP)

    def move(tensors):
        weight = tensors[UP]
        dead, alive = (weight[0, :4] == 0).nonzero()[0], (weight[0, 4:8] != 0).nonzero()[0] + 4
        weight[0, dead], weight[0, alive] = whole[0, dead], 0

    edit(folder, move)
    found = answers(folder)
    assert failing(found) == ["n:m groups"]
    [line] = found["n:m groups"].details
    assert line.startswith("model.layers.1.mlp.up_proj: a group of 4 has 1 zeros")
    assert "1 of 240 groups have too few" in line


def test_a_changed_embedding_is_found(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    edit(folder, lambda tensors: tensors[EMBEDDING][3, 1].add_(1))
    found = answers(folder)
    assert failing(found) == ["other tensors"]
    assert found["other tensors"].details == (
        f"{EMBEDDING}: 1 of {dense_weight(good, EMBEDDING).numel()} numbers differ",
    )


def test_a_changed_bias_is_found(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    edit(folder, lambda tensors: tensors["model.layers.0.self_attn.q_proj.bias"][0].add_(1))
    found = answers(folder)
    assert failing(found) == ["other tensors"]


def test_a_kept_weight_that_changed_is_found_under_a_mask_only_solver(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")

    def change(tensors):
        row, column = tensors[UP].nonzero()[0]
        tensors[UP][row, column] *= 2

    edit(folder, change)
    found = answers(folder)
    assert failing(found) == ["kept weights"]
    assert found["kept weights"].details[0].startswith("model.layers.1.mlp.up_proj: 1 changed")


def test_an_update_that_was_lost_is_found(good, tmp_path):
    """A solver that updates the kept weights, and a checkpoint in which they are the dense ones."""
    folder = copy(good / "updated", tmp_path / "x")
    dense = load_file(good / "dense" / "model.safetensors")
    edit(
        folder,
        lambda now: {n: torch.where(w == 0, w, dense[n].to(w.dtype)) for n, w in now.items()},
    )
    found = answers(folder)
    assert failing(found) == ["kept weights"]
    assert "its update is lost" in found["kept weights"].found


def test_the_relative_change_of_an_update_is_told_by_layer(good):
    change = answers(good / "updated")["kept weights"].layers
    weights = load_file(good / "updated" / "model.safetensors")
    new, old = weights[UP].double(), dense_weight(good, UP).double()
    kept = new != 0
    want = ((new - old)[kept].norm() / old[kept].norm()).item()
    assert change["model.layers.1.mlp.up_proj"] == pytest.approx(want)
    assert want > 0


@pytest.mark.parametrize("said", ["float16", "float32", None])
def test_a_config_that_lies_about_the_dtype_is_found(good, tmp_path, said):
    folder = copy(good / "rows", tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": said}))
    found = answers(folder)
    assert failing(found) == ["dtype"]


def test_one_tensor_of_another_dtype_is_found(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    edit(folder, lambda tensors: tensors | {UP: tensors[UP].float()})
    found = answers(folder)
    assert failing(found) == ["dtype"]
    assert found["dtype"].details == (f"{UP}: float32, and not bfloat16",)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_number_that_is_not_finite_is_found(good, tmp_path, value):
    folder = copy(good / "rows", tmp_path / "x")
    edit(folder, lambda tensors: spoil(tensors[UP], value))
    found = answers(folder)
    assert failing(found) == ["finite"]
    assert found["finite"].details == (f"{UP}: 1",)
    assert found["reload"].status == found["kept weights"].status == "not checked"


def spoil(weight, value):
    row, column = weight.nonzero()[0]
    weight[row, column] = value


def test_weights_that_came_apart_are_found(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    edit(folder, lambda tensors: tensors | {HEAD: tensors[EMBEDDING] + 1})
    found = answers(folder)
    assert failing(found) == ["tied"]
    assert found["tied"].details == (f"{EMBEDDING} and {HEAD} differ",)


def test_weights_that_came_apart_are_found_without_the_dense_model(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    (folder / RECIPE).unlink()
    edit(folder, lambda tensors: tensors | {HEAD: tensors[EMBEDDING] + 1})
    found = answers(folder)
    assert failing(found) == ["tied"]


def test_tied_weights_that_are_stored_twice_and_equal_are_only_told(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    edit(folder, lambda tensors: tensors | {HEAD: tensors[EMBEDDING].clone()})
    found = answers(folder)
    assert failing(found) == []
    assert "is stored once more" in found["tied"].details[0]


def test_prune_stores_tied_weights_once_in_whatever_dtype(good):
    """The model was in fp32 and is written in bf16."""
    assert HEAD not in load_file(good / "rows" / "model.safetensors")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "weights.pt", "model-00001-of-00002.safetensors"]
)
def test_weights_beside_the_checkpoint_are_found(good, tmp_path, name):
    folder = copy(good / "rows", tmp_path / "x")
    (folder / name).write_bytes(b"no one reads this")
    found = answers(folder)
    assert failing(found) == ["files"]
    assert name in found["files"].found


def test_a_file_that_is_cut_off_is_found_and_nothing_else_is_claimed(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    found = answers(folder)
    assert failing(found) == ["files"]
    assert {check.status for name, check in found.items() if name != "files"} == {"not checked"}


def test_shards_are_read_through_their_index(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    model = AutoModelForCausalLM.from_pretrained(good / "rows", dtype="auto")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    found = answers(folder)
    assert failing(found) == []
    shards[0].unlink()
    found = answers(folder)
    assert failing(found) == ["files"]
    assert f"{shards[0].name} is missing" in found["files"].found


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda tensors: tensors.pop(UP), f"{UP}: missing"),
        (lambda tensors: tensors.update(extra=torch.ones(2).bfloat16()), "extra: of no use"),
    ],
)
def test_missing_and_leftover_tensors_are_found(good, tmp_path, change, line):
    folder = copy(good / "rows", tmp_path / "x")
    edit(folder, change)
    found = answers(folder)
    assert failing(found) == ["keys"]
    assert found["keys"].details == (line,)


def test_a_checkpoint_that_transformers_cannot_open_is_found(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 44}))
    found = answers(folder)
    assert failing(found) == ["reload"]
    assert "cannot open it" in found["reload"].found
    assert found["zeros"].status == "not checked"


def test_logits_that_are_not_finite_are_found_where_all_weights_are(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    (folder / RECIPE).unlink()
    edit(folder, lambda tensors: tensors["model.norm.weight"].fill_(3e38))
    found = answers(folder)
    assert failing(found) == ["reload"]
    assert "logits are NaN or infinite" in found["reload"].found


def test_logits_that_optishear_makes_otherwise_are_found(good, monkeypatch):
    from optishear.export.verify import model

    honest = model.load

    def tampered(*args, **kwargs):
        loaded = honest(*args, **kwargs)
        with torch.no_grad():
            loaded.model.model.norm.weight[0] += 1
        return loaded

    monkeypatch.setattr(model, "load", tampered)
    found = answers(good / "rows")
    assert failing(found) == ["reload"]
    assert "Logits differ from optishear's by up to" in found["reload"].found


def test_a_checkpoint_without_a_tokenizer_is_found(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    found = answers(folder)
    assert failing(found) == ["reload"]
    assert "not with optishear" in found["reload"].found


def test_a_recipe_of_another_layout_is_found(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    recipe = json.loads((folder / RECIPE).read_text())
    recipe["drop"] = {f"other.{name}": count for name, count in recipe["drop"].items()}
    (folder / RECIPE).write_text(json.dumps(recipe))
    found = answers(folder)
    assert failing(found) == ["recipe"]
    assert found["zeros"].status == "info"


def test_a_recipe_that_is_no_recipe_is_found(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    (folder / RECIPE).write_text("{")
    assert failing(answers(folder, against=str(good / "dense"))) == ["recipe"]


def test_another_dense_model_than_the_recipe_was_made_with_is_found(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    other = saved("qwen2", tmp_path / "other", tie_word_embeddings=True, rms_norm_eps=1e-3)
    recipe = json.loads((folder / RECIPE).read_text())
    recipe["made_with"]["model"] = str(other)
    (folder / RECIPE).write_text(json.dumps(recipe))
    found = answers(folder)
    assert failing(found) == ["dense model"]
    assert "of hash" in found["dense model"].found


def test_another_architecture_is_found_and_not_compared(good):
    found = answers(good / "rows", against="embedded")
    assert failing(found) == ["dense model"]
    assert (
        found["dense model"].found
        == "It is a Qwen2ForCausalLM, the dense model a LlamaForCausalLM."
    )
    assert found["kept weights"].status == "not checked"


def test_the_same_architecture_in_another_size_is_found_with_its_first_layer(good, tmp_path):
    wider = saved("qwen2", tmp_path / "wider", intermediate_size=44)
    found = answers(good / "rows", against=str(wider))
    assert failing(found) == ["dense model"]
    assert "mlp.gate_proj [40 x 24] is model.layers.0.mlp.gate_proj [44 x 24] there" in (
        found["dense model"].found
    )


def test_a_dense_model_that_is_gone_is_said_and_can_be_named(good, tmp_path):
    folder = copy(good / "rows", tmp_path / "x")
    recipe = json.loads((folder / RECIPE).read_text())
    recipe["made_with"]["model"] = str(tmp_path / "gone")
    (folder / RECIPE).write_text(json.dumps(recipe))
    found = answers(folder)
    assert failing(found) == []
    assert found["dense model"].status == found["kept weights"].status == "not checked"
    assert "name it with --against" in found["kept weights"].found
    named = answers(folder, against=str(good / "dense"))
    assert {check.status for check in named.values()} <= {"ok", "info"}


def test_without_a_recipe_what_can_be_said_is_said(good, tmp_path):
    folder = copy(good / "groups", tmp_path / "x")
    (folder / RECIPE).unlink()
    found = answers(folder)
    assert failing(found) == []
    assert found["recipe"].status == "not checked"
    assert found["zeros"].found.startswith("50.00 % of the prunable weights are zero")
    assert "in all layers hold: 2:4, 4:8" in found["n:m groups"].found
    assert "2:4 holds in 14 of 14 layers, in 100.00 % of the groups" in found["n:m groups"].found
    kept = answers(folder, against=str(good / "dense"))["kept weights"]
    assert kept.status == "info"
    assert "bit for bit" in kept.found


def test_pruning_anew_finds_what_no_other_check_can(good, tmp_path):
    """The same zeros a row, the kept weights dense ones, but not those that the metric chose."""
    folder = copy(good / "rows", tmp_path / "x")
    whole = dense_weight(good, UP)

    def exchange(tensors):
        dead, alive = (tensors[UP][2] == 0).nonzero()[0], tensors[UP][2].nonzero()[0]
        tensors[UP][2, dead], tensors[UP][2, alive] = whole[2, dead], 0

    edit(folder, exchange)
    found = answers(folder, again=True)
    assert failing(found) == ["again"]
    assert found["again"].details == ("model.layers.1.mlp.up_proj: 2 of 960",)


def test_a_mask_from_elsewhere_is_not_pruned_anew(good, tmp_path):
    to = tmp_path / "given"
    prune_to(str(good / "dense"), None, to, TEXT, mask_from=(str(good / "rows"), False))
    found = answers(to, again=True)
    assert found["again"].status == "not checked"
    assert failing(found) == []


def test_what_is_no_checkpoint_folder_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match="there is no such folder"):
        verify(tmp_path / "x", None, False, "cpu", Silent())
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        verify(tmp_path, None, False, "cpu", Silent())


def test_a_dense_model_that_was_named_and_is_not_there_is_a_mistake(good):
    with pytest.raises(ConfigError, match="Did you mean 'embedded'"):
        verify(good / "rows", "embeded", False, "cpu", Silent())
