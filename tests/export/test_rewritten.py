"""A pruned checkpoint is the dense files with what was pruned, and all that lies beside them."""

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folders import tensors_of, tiny_folder

from optishear.errors import ConfigError
from optishear.runs.watcher import Silent
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed
from optishear.tools.verify import verify


HOW = How(TextSpec("embedded", "train", 2, 64), sequential=False)
WAYS = {"whole": prune_to, "streamed": prune_streamed}
MAGNITUDE = NamedMethod("magnitude", 0.5, "row").on
SPARSEGPT = NamedMethod("sparsegpt", 0.5).on
MTP = "model.mtp.0.proj.weight"


def mixed(tensors):
    """Norms in fp32, the rest as it is; and the head of another task, which no class knows."""
    return {n: t.float() if "norm" in n else t for n, t in tensors.items()} | {
        MTP: torch.arange(6.0).view(2, 3).half()
    }


def edited(folder, change):
    for path in folder.glob("*.safetensors"):
        save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """fp32 in shards; bf16 with fp32 norms and an unknown tensor, embeddings tied; fused experts;
    Gemma, whose embedding scale is a buffer that no file holds."""
    root = tmp_path_factory.mktemp("dense")
    tiny_folder("llama", root / "fp32")
    tied = tiny_folder("qwen2", root / "mixed", torch.bfloat16, shards="50GB")
    edited(tied, mixed)
    tiny_folder("mixtral", root / "experts")
    tiny_folder("gemma2", root / "gemma", torch.bfloat16)
    return root


def unfit(dense, pruned):
    """Names of tensors that are neither zero nor the dense file's own, bit for bit."""
    old, new = tensors_of(dense), tensors_of(pruned)
    assert old.keys() == new.keys()
    assert {n: t.dtype for n, t in old.items()} == {n: t.dtype for n, t in new.items()}
    return [n for n in old if not (new[n].eq(0) | new[n].eq(old[n])).all()]


def failed(folder, again=False):
    return {
        c.name: c.found
        for c in verify(folder, None, again, "cpu", Silent())
        if c.status == "failed"
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", "bfloat16"), ("fp32", "float16"), ("mixed", "float32"), ("experts", "bfloat16")],
)
def test_a_mask_keeps_what_is_stored_whatever_it_was_computed_in(
    way, name, dtype, folders, tmp_path
):
    checked, _ = WAYS[way](
        str(folders / name), MAGNITUDE, tmp_path / "p", replace(HOW, dtype=dtype)
    )
    assert unfit(folders / name, tmp_path / "p") == []
    zeros = sum(int((t == 0).sum()) for n, t in tensors_of(tmp_path / "p").items() if "proj" in n)
    assert zeros > 1000
    size = sum(path.stat().st_size for path in (folders / name).glob("*.safetensors"))
    assert checked.bytes == pytest.approx(size, rel=0.02)
    assert failed(tmp_path / "p") == {}


def test_what_a_solver_changes_is_rounded_to_the_type_stored_and_the_rest_is_not_touched(
    folders, tmp_path
):
    """Both ways write the same bits, and what was rounded is what pruning anew comes to."""
    how = replace(HOW, sequential=True)
    for way, prune in WAYS.items():
        prune(str(folders / "mixed"), SPARSEGPT, tmp_path / way, how)
    whole, streamed = (tensors_of(tmp_path / way) for way in WAYS)
    assert all(torch.equal(whole[name], streamed[name]) for name in whole)
    touched = unfit(folders / "mixed", tmp_path / "whole")
    assert len(touched) == 14
    assert all("proj" in name and name != MTP for name in touched)
    assert failed(tmp_path / "whole", again=True) == {}


@pytest.mark.parametrize("way", WAYS)
def test_another_type_is_written_where_it_is_asked_for_and_is_in_the_origin(way, folders, tmp_path):
    how = replace(HOW, save_dtype="bfloat16")
    checked, _ = WAYS[way](str(folders / "fp32"), SPARSEGPT, tmp_path / "p", how)
    assert checked.dtype == "bfloat16"
    old, new = tensors_of(folders / "fp32"), tensors_of(tmp_path / "p")
    assert {tensor.dtype for tensor in new.values()} == {torch.bfloat16}
    assert torch.equal(new["lm_head.weight"], old["lm_head.weight"].bfloat16())
    assert json.loads((tmp_path / "p" / "config.json").read_text())["dtype"] == "bfloat16"
    origin = json.loads((tmp_path / "p" / "optishear_recipe.json").read_text())["made_with"]
    assert origin["save_dtype"] == "bfloat16"
    assert failed(tmp_path / "p", again=True) == {}


def test_types_that_cannot_be_saved_in_are_refused_in_a_sentence(folders, tmp_path):
    def refused(name="fp32", **changes):
        with pytest.raises(ConfigError) as told:
            prune_to(str(folders / name), MAGNITUDE, tmp_path / "p", replace(HOW, **changes))
        assert not (tmp_path / "p").exists()
        return str(told.value)

    assert "Did you mean 'float16'" in refused(save_dtype="flaot16")
    assert "bfloat16 does not hold" in refused(dtype="bfloat16", save_dtype="float16")
    large = tiny_folder("llama", tmp_path / "large")
    edited(large, lambda tensors: {n: t * 1e6 if "norm" in n else t for n, t in tensors.items()})
    assert "too large for float16" in refused(tmp_path / "large", save_dtype="float16")


def test_a_good_gemma_passes_although_its_embedding_scale_depends_on_the_type_it_is_loaded_in(
    folders, tmp_path
):
    for dtype in ("float32", "bfloat16"):
        how = replace(HOW, dtype=dtype)
        prune_to(str(folders / "gemma"), MAGNITUDE, tmp_path / dtype, how)
        assert failed(tmp_path / dtype) == {}


def test_a_weight_rounded_behind_a_mask_is_found(folders, tmp_path):
    """What `--dtype bfloat16` once did to every weight of an fp32 model."""
    prune_to(str(folders / "fp32"), MAGNITUDE, tmp_path / "p", replace(HOW, dtype="bfloat16"))
    edited(tmp_path / "p", lambda tensors: {n: t.bfloat16().float() for n, t in tensors.items()})
    assert failed(tmp_path / "p").keys() == {"kept weights", "other tensors"}


def test_an_unknown_tensor_is_carried_and_its_loss_or_change_is_found(folders, tmp_path):
    prune_to(str(folders / "mixed"), MAGNITUDE, tmp_path / "p", HOW)
    assert torch.equal(tensors_of(tmp_path / "p")[MTP], tensors_of(folders / "mixed")[MTP])
    edited(tmp_path / "p", lambda tensors: tensors | {MTP: tensors[MTP] + 1})
    assert failed(tmp_path / "p").keys() == {"other tensors"}
    edited(tmp_path / "p", lambda tensors: {n: t for n, t in tensors.items() if n != MTP})
    assert failed(tmp_path / "p").keys() == {"other tensors"}


@pytest.fixture
def furnished(tmp_path):
    """A model with all that may lie beside the weights."""
    folder = tiny_folder("llama", tmp_path / "dense", shards="50GB")
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "configuration_own.Own", "AutoModel": "modeling_gone.Gone"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": code}))
    for name in ("README.md", "LICENSE", "preprocessor_config.json", "configuration_own.py"):
        (folder / name).write_text(f'{{"of": "{name}"}}\n')
    for name in ("assets/picture.svg", "templates/chat.jinja", ".cache/x", "__pycache__/own.pyc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    for name in ("training_args.bin", "optimizer.pt", "onnx/model.onnx", "adapter.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("weights or a pickle")
    (tmp_path / "secret.txt").write_text("nobody's business")
    os.symlink(tmp_path / "secret.txt", folder / "notes.txt")
    os.symlink("README.md", folder / "MODEL_CARD.md")
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_all_that_lies_beside_the_weights_is_carried_and_nothing_that_is_none_of_it(
    way, furnished, tmp_path
):
    """The output lies inside of the model's folder, which it must not take for a part of it."""
    to = furnished / "pruned"
    checked, _ = WAYS[way](str(furnished), MAGNITUDE, to, HOW)
    found = {str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()}
    beside = {"README.md", "LICENSE", "preprocessor_config.json", "configuration_own.py"}
    beside |= {"assets/picture.svg", "templates/chat.jinja", "MODEL_CARD.md"}
    assert beside <= found
    for name in beside:
        assert (to / name).read_bytes() == (furnished / name).read_bytes()
        assert not (to / name).is_symlink()
    left = ("notes.txt", "training_args.bin", "optimizer.pt", "onnx/model.onnx")
    assert not {*left, "adapter.safetensors", ".cache/x", "__pycache__/own.pyc"} & found
    [note] = [line for line in checked.notes if line.startswith("not carried over")]
    assert all(name in note for name in left)
    assert ".cache" not in note
    auto_map = json.loads((to / "config.json").read_text())["auto_map"]
    assert auto_map == {"AutoConfig": "configuration_own.Own"}
    assert (
        "config.json: auto_map dropped AutoModel, whose code is not in the folder" in checked.notes
    )


def test_a_snapshot_of_the_hub_is_carried_through_its_own_links(tmp_path):
    """The hub's cache keeps files under their hashes, outside of the folder that names them."""
    whole = tiny_folder("llama", tmp_path / "whole")
    (whole / "README.md").write_text("a model")
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / "abc"
    blobs = tmp_path / "models--me--tiny" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(whole.iterdir())):
        os.replace(path, blobs / str(number))
        os.symlink(f"../../blobs/{number}", snapshot / path.name)
    checked, _ = prune_to(str(snapshot), MAGNITUDE, tmp_path / "p", HOW)
    assert (tmp_path / "p" / "README.md").read_text() == "a model"
    assert checked.notes == ()
