"""Gradients taken block by block from the files are those of the whole model, bit for bit."""

import json

import pytest
import torch
from tiny_folders import tiny_folder
from tiny_models import TINY

from optishear.calibration import streamed_gradients
from optishear.calibration.gradient_file import INDEX, NUMBERS, GradientFile
from optishear.calibration.gradient_store import load_or_collect_gradients
from optishear.calibration.streamed_gradients import BlockByBlock
from optishear.errors import ConfigError
from optishear.models.blocks import BlockStack
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.load import load
from optishear.models.shards import Shards
from optishear.models.streamed import stream


KINDS = sorted(set(TINY) - {"list_moe"})  # which transformers cannot write
TOKENS = torch.arange(60).view(3, 20) * 7 % 1000


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_folder("llama", tmp_path_factory.mktemp("llama"), num_hidden_layers=3)


def files_of(store):
    """All but how long it took."""
    index = json.loads((store.folder / INDEX).read_text())
    return index["layers"], (store.folder / NUMBERS).read_bytes()


def whole(folder, place, dtype="float32", tokens=TOKENS):
    model = load(str(folder), dtype=dtype).model
    return files_of(load_or_collect_gradients(place / "g", model, layout_of(model), tokens))


def streaming(folder, place, dtype="float32"):
    """The streamed model, and what collects its gradients."""
    streamed = stream(str(folder), dtype=dtype)
    stack = BlockStack(streamed.loaded.model)
    stack.prove(TOKENS[:1], stack.states(TOKENS[:1]), to_rounding=False)
    return streamed, BlockByBlock(streamed, stack, streamed.layout(), place / "hidden")


def by_blocks(streamed, collect, place, tokens=TOKENS):
    model, layout = streamed.loaded.model, collect.layout
    return files_of(load_or_collect_gradients(place / "g", model, layout, tokens, collect=collect))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, ("float32", "bfloat16")[index % 2]) for index, kind in enumerate(KINDS)],
)
def test_every_architecture_has_the_gradients_of_the_whole_model(kind, dtype, tmp_path):
    folder = tiny_folder(kind, tmp_path / "model")
    streamed, collect = streaming(folder, tmp_path, dtype)
    got = by_blocks(streamed, collect, tmp_path / "streamed")
    assert got == whole(folder, tmp_path / "whole", dtype)
    assert any(got[1])
    assert all(parameter.is_meta for parameter in streamed.loaded.model.parameters())
    assert not (tmp_path / "hidden").exists()


def test_the_embedded_model_too_in_long_sequences(tmp_path):
    tokens = torch.randint(0, 1000, (2, 200), generator=torch.Generator().manual_seed(0))
    streamed, collect = streaming("embedded", tmp_path)
    got = by_blocks(streamed, collect, tmp_path / "streamed", tokens)
    assert got == whole("embedded", tmp_path / "whole", tokens=tokens)


def test_one_block_at_a_time_is_in_memory_and_no_two_gradients(llama, tmp_path, monkeypatch):
    streamed, collect = streaming(llama, tmp_path)
    model, seen, write = streamed.loaded.model, [], GradientFile.write

    def listen(file, number, name, sample):
        there = {n.split(".")[2] for n, p in model.named_parameters() if not p.is_meta}
        assert not [n for n, p in model.named_parameters() if p.grad is not None]
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {
            f"{layer.name}.weight"
            for layer in collect.layout.layers
            if str(layer.block) == name.split(".")[2]
        }
        seen.append((number, name.split(".")[2]))
        assert there == {name.split(".")[2]}
        write(file, number, name, sample)

    monkeypatch.setattr(GradientFile, "write", listen)
    by_blocks(streamed, collect, tmp_path / "streamed")
    assert list(dict.fromkeys(seen)) == [(n, block) for block in "210" for n in range(3)]
    assert len(seen) == 3 * len(collect.layout.layers)


def test_each_block_is_read_twice_and_the_head_once_however_many_sequences(
    llama, tmp_path, monkeypatch
):
    streamed, collect = streaming(llama, tmp_path)
    filled, fill = [], Shards.fill
    monkeypatch.setattr(
        Shards, "fill", lambda self, names: (filled.append(names[0]), fill(self, names))[1]
    )
    by_blocks(streamed, collect, tmp_path / "streamed")
    blocks = [name.split(".")[2] for name in filled if "layers" in name]
    assert blocks == ["0", "1", "2", "2", "1", "0"]
    assert filled.count("lm_head.weight") == 1


def test_on_disk_are_the_states_of_all_blocks_and_two_sets_of_gradients(
    llama, tmp_path, monkeypatch
):
    streamed, collect = streaming(llama, tmp_path)
    most, back = [], BlockByBlock._backward

    def measure(self, *args):
        back(self, *args)
        sets = [*(tmp_path / "hidden").glob("*/*")]
        assert all(len(list(place.iterdir())) == 3 for place in sets)
        most.append(sorted(f"{place.parent.name} {place.name}" for place in sets))

    monkeypatch.setattr(BlockByBlock, "_backward", measure)
    by_blocks(streamed, collect, tmp_path / "streamed")
    states = ["states 1", "states 2", "states 3"]
    assert most[0] == ["gradients 2", "gradients 3", *states]
    assert most[-1] == ["gradients 1", *states]


def test_what_a_killed_one_left_behind_is_not_read(llama, tmp_path, monkeypatch):
    streamed, collect = streaming(llama, tmp_path)
    calls, recorded = [], BlockStack.recorded

    def stop(self, *args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return recorded(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(BlockStack, "recorded", stop)
        with pytest.raises(KeyboardInterrupt):
            by_blocks(streamed, collect, tmp_path / "streamed", TOKENS.flip(1))
    left = [*(tmp_path / "hidden").glob("*/*/*")]
    assert left
    for path in left:
        path.write_bytes(b"half a file")
    assert all(parameter.is_meta for parameter in streamed.loaded.model.parameters())
    got = by_blocks(streamed, collect, tmp_path / "streamed")
    assert got == whole(llama, tmp_path / "whole")


def test_a_loss_that_is_not_finite_is_told_by_the_layer_that_sees_it(llama, tmp_path, monkeypatch):
    streamed, collect = streaming(llama, tmp_path)
    loss_of = streamed_gradients.loss_of
    monkeypatch.setattr(streamed_gradients, "loss_of", lambda *args: loss_of(*args) * float("inf"))
    with pytest.raises(ConfigError, match=r"Layer model\.layers\.2\..*sequence 0 is not finite"):
        by_blocks(streamed, collect, tmp_path / "streamed")
    assert not [path for path in (tmp_path / "streamed").iterdir() if path.is_dir()]


def test_blocks_before_the_first_layer_are_not_gone_back_through(llama, tmp_path, monkeypatch):
    streamed, collect = streaming(llama, tmp_path)
    layers, _ = whole(llama, tmp_path / "whole")
    last = tuple(layer for layer in collect.layout.layers if layer.block == 2)
    object.__setattr__(collect, "layout", type(collect.layout)(last))
    ran, recorded = [], BlockStack.recorded

    def note(self, block, *args):
        ran.append(block)
        return recorded(self, block, *args)

    monkeypatch.setattr(BlockStack, "recorded", note)
    got, _ = by_blocks(streamed, collect, tmp_path / "streamed")
    assert set(ran) == {2}
    assert {name: entry["scale"] for name, entry in got.items()} == {
        layer.name: layers[layer.name]["scale"] for layer in last
    }
    assert len(decoder_blocks(streamed.loaded.model)[1]) == 3
