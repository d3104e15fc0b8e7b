"""Mask files: bits in the stated order, provenance, and a sentence for whatever is wrong."""

import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from optishear.calibration.origin import Origin
from optishear.errors import ConfigError
from optishear.interchange.masks import (
    KEY,
    masks_hash,
    packed,
    read_masks,
    unpacked,
    write_masks,
)
from optishear.text.sources import TextSpec


LAYOUT = small_layout(2)
TEXT = TextSpec("sotu", "train", 2, 8, seed=3)
ORIGIN = Origin("tiny", "abc", calibration=TEXT, calibration_hash="ccc")


def masks(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.name: torch.rand(layer.out_features, layer.in_features, generator=generator) < 0.6
        for layer in LAYOUT.layers
    }


@pytest.fixture
def path(tmp_path):
    write_masks(tmp_path / "masks.safetensors", masks(), ORIGIN, "rrr")
    return tmp_path / "masks.safetensors"


def shaped(out, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(out, width, generator=generator) < 0.5


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 13), st.integers(0, 99))


@settings(deadline=None)
@given(SHAPES)
def test_bit_k_of_the_rows_is_bit_k_mod_8_of_byte_k_div_8(case):
    mask = shaped(*case)
    out, width, _ = case
    want = [0] * -(-out * width // 8)
    for i in range(out):
        for j in range(width):
            k = i * width + j
            if mask[i, j]:
                want[k // 8] += 2 ** (k % 8)
    assert packed(mask).tolist() == want


@settings(deadline=None)
@given(SHAPES)
def test_packing_and_unpacking_is_nothing(case):
    mask = shaped(*case)
    assert torch.equal(unpacked(packed(mask), case[:2]), mask)


def test_transposed_masks_are_packed_as_they_are_seen():
    mask = shaped(5, 7, 0)
    assert torch.equal(packed(mask.T.contiguous().T), packed(mask))


def test_a_file_gives_back_its_masks_in_the_layout_s_order(path):
    found = read_masks(path, LAYOUT, "abc")
    assert list(found) == list(LAYOUT.sizes)
    assert all(torch.equal(found[name], mask) for name, mask in masks().items())


def test_the_header_says_what_other_readers_need(path):
    with safe_open(path, framework="pt") as file:
        says = json.loads(file.metadata()[KEY])
    assert says["format"] == "optishear-masks/1"
    assert "least significant bit first" in says["bits"]
    assert says["shapes"]["blocks.0.attn.q"] == [6, 8]
    assert (says["model"], says["model_hash"], says["recipe_key"]) == ("tiny", "abc", "rrr")
    assert says["made_with"] == ORIGIN.to_json()
    assert says["made_with"]["calibration"]["seed"] == 3
    assert says["hash"] == masks_hash(masks())
    assert says["optishear"]
    tensors = load_file(path)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == dict.fromkeys(
        LAYOUT.sizes, torch.uint8
    )
    assert len(tensors["blocks.0.mlp.down"]) == 8  # 60 bits


def test_equal_masks_are_equal_files(path, tmp_path):
    write_masks(tmp_path / "again.safetensors", masks(), ORIGIN, "rrr")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_masks_of_another_model_need_the_user_s_word(path):
    with pytest.raises(ConfigError, match=r"made for 'tiny' with the hash abc.*--any-model"):
        read_masks(path, LAYOUT, "xyz")
    assert read_masks(path, LAYOUT, "xyz", any_model=True)


def test_masks_of_an_unknown_model_need_it_too(tmp_path):
    write_masks(tmp_path / "m.safetensors", masks(), Origin(), None)
    with pytest.raises(ConfigError, match="do not say for which model"):
        read_masks(tmp_path / "m.safetensors", LAYOUT, "xyz")
    assert read_masks(tmp_path / "m.safetensors", LAYOUT, "xyz", any_model=True)


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (small_layout(3), "has no mask for 'blocks.2.attn.q'"),
        (small_layout(1), "'blocks.1.attn.q', a layer that the model to prune lacks"),
        (small_layout(2, scale=2), r"is \[6, 8\], the layer is \[12, 16\]"),
    ],
)
def test_masks_for_another_layout_are_refused_whatever_the_hash(path, layout, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_masks(path, layout, "abc", any_model=True)


def rewritten(path, change):
    """The file with its metadata or tensors changed by hand."""
    with safe_open(path, framework="pt") as file:
        says = json.loads(file.metadata()[KEY])
    tensors = load_file(path)
    metadata = change(says, tensors)
    save_file(tensors, path, {KEY: json.dumps(says)} if metadata is None else metadata)


def flip(says, tensors):
    tensors["blocks.0.attn.q"][2] ^= 4


def past_the_end(says, tensors):
    tensors["blocks.0.mlp.down"][-1] |= 128


def short(says, tensors):
    tensors["blocks.0.mlp.down"] = tensors["blocks.0.mlp.down"][:-1].clone()


def floats(says, tensors):
    tensors["blocks.0.mlp.down"] = tensors["blocks.0.mlp.down"].float()


def without(says, tensors):
    del tensors["blocks.0.mlp.down"]


def other_format(says, tensors):
    says["format"] = "optishear-masks/2"


def no_shapes(says, tensors):
    says["shapes"] = {"blocks.0.attn.q": "6x8"}


def not_ours(says, tensors):
    return {"format": "pt"}


def no_json(says, tensors):
    return {KEY: "{"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (flip, "its masks have another hash"),
        (past_the_end, "bits past its last weight are set"),
        (short, "7 bytes for 60 weights"),
        (floats, "has no bits in it"),
        (without, "has no bits in it"),
        (other_format, "its format is 'optishear-masks/2'"),
        (no_shapes, "does not say its shapes"),
        (not_ours, "is no mask file of optishear"),
        (no_json, "is damaged"),
    ],
)
def test_a_damaged_file_is_one_sentence(path, change, sentence):
    rewritten(path, change)
    with pytest.raises(ConfigError, match=sentence) as raised:
        read_masks(path, LAYOUT, "abc")
    assert "\n" not in str(raised.value)


def test_what_is_no_safetensors_file_is_one_sentence_and_never_unpickled(tmp_path):
    path = tmp_path / "masks.safetensors"
    with pytest.raises(ConfigError, match="there is no such mask file"):
        read_masks(path, LAYOUT, "abc")

    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    for content in (b"", b"\x00" * 100, pickle.dumps(Bomb())):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="is no safetensors file"):
            read_masks(path, LAYOUT, "abc")
