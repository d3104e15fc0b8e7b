"""A streamed model is the model that `load` gives, with only the part at work in memory."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folders import tensors_of, tiny_folder, tokenizer
from tiny_models import TINY
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel

from optishear.errors import ConfigError
from optishear.export.rewritten import Rewritten
from optishear.models.blocks import BlockStack
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.load import load
from optishear.models.shards import Shards
from optishear.models.stored import StoredTensors
from optishear.models.streamed import stream


KINDS = sorted(set(TINY) - {"list_moe"})  # which transformers cannot write
TOKENS = torch.arange(24).view(2, 12) * 7 % 1000


@torch.no_grad()
def logits(model):
    return model(TOKENS, use_cache=False).logits


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_folder("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, ("float32", "bfloat16")[index % 2]) for index, kind in enumerate(KINDS)],
)
def test_it_is_what_load_gives_and_its_parts_are_the_checkpoint(kind, dtype, tmp_path):
    folder = tiny_folder(kind, tmp_path / "model")
    loaded, streamed = load(str(folder), dtype=dtype), stream(str(folder), dtype=dtype)
    model = streamed.loaded.model
    assert streamed.layout() == layout_of(loaded.model)
    assert torch.equal(logits(model), logits(loaded.model))
    assert streamed.loaded.hash == loaded.hash
    buffers = dict(loaded.model.named_buffers())
    for name, buffer in model.named_buffers():
        if name not in model.state_dict():
            assert torch.equal(buffer, buffers[name]), name
            assert buffer.dtype == buffers[name].dtype
    rewritten = Rewritten(model, streamed.layout(), StoredTensors.of(folder))
    found = rewritten.outside(n for n in tensors_of(folder) if rewritten.block_of(n) is None)
    for part in rewritten.blocks:
        with streamed.resident(part), streamed.resident(streamed.outside[0]):
            found |= rewritten.block(part)
    want = tensors_of(folder)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_while_a_block_runs_nothing_else_is_in_memory(llama):
    model = stream(str(llama)).loaded.model
    seen = []

    def look(_module, _args, _returned):
        seen.append({n.split(".")[2] for n, p in model.named_parameters() if not p.is_meta})

    for block in decoder_blocks(model)[1]:
        block.mlp.register_forward_hook(look)
    logits(model)
    assert seen == [{"0"}, {"1"}]


def test_the_embedding_reads_the_rows_of_its_tokens_and_no_other(llama, monkeypatch):
    asked, rows = [], Shards.rows
    monkeypatch.setattr(
        Shards, "rows", lambda self, name, ids: (asked.append(ids), rows(self, name, ids))[1]
    )
    streamed = stream(str(llama))
    with torch.no_grad():
        got = streamed.loaded.model.model.embed_tokens(torch.tensor([[5, 3, 3]]))
    want = load(str(llama)).model.model.embed_tokens.weight[[5, 3, 3]]
    assert torch.equal(got[0], want)
    assert asked[0].tolist() == [3, 5]


def test_a_padding_token_past_the_short_table_does_no_harm(tmp_path):
    folder = tiny_folder("llama", tmp_path / "model", pad_token_id=900)
    assert torch.equal(logits(stream(str(folder)).loaded.model), logits(load(str(folder)).model))


def test_blocks_that_are_stood_in_for_are_not_read(llama, monkeypatch):
    model = stream(str(llama)).loaded.model
    stack = BlockStack(model)
    states = stack.states(TOKENS[:1])
    filled, fill = [], Shards.fill
    monkeypatch.setattr(
        Shards, "fill", lambda self, names: (filled.append(names[0]), fill(self, names))[1]
    )
    assert torch.equal(stack.run(1, TOKENS[:1], states[0]), states[1])
    assert [name.split(".")[2] for name in filled] == ["1"]


@pytest.mark.parametrize("equal", [True, False])
def test_a_tied_pair_that_is_written_twice_is_taken_as_load_takes_it(equal, tmp_path):
    folder = tiny_folder("qwen2", tmp_path / "model", shards="50GB")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + (0.0 if equal else 0.5)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    streamed = stream(str(folder))
    assert torch.equal(logits(streamed.loaded.model), logits(load(str(folder)).model))
    assert ("lm_head.weight" in streamed._shards.tied) == equal


def test_a_checkpoint_of_the_body_alone_is_found_without_its_prefix(tmp_path):
    folder = tiny_folder("gpt2", tmp_path / "whole")
    load(str(folder)).model.transformer.save_pretrained(tmp_path / "body")
    tokenizer().save_pretrained(tmp_path / "body")
    assert "wte.weight" in tensors_of(tmp_path / "body")
    model = stream(str(tmp_path / "body")).loaded.model
    assert torch.equal(logits(model), logits(load(str(folder)).model))


def test_a_part_is_emptied_also_when_it_fails(llama):
    streamed = stream(str(llama))
    with pytest.raises(ZeroDivisionError), streamed.resident("model.layers.0"):
        1 / 0  # noqa: B018
    assert all(parameter.is_meta for parameter in streamed.loaded.model.parameters())


def edit(folder, change):
    """Changes tensors of an unsharded folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_a_tied_head_that_is_called_leaves_the_embedding_as_it_is(tmp_path):
    streamed = stream(str(tiny_folder("qwen2", tmp_path / "model")))
    model = streamed.loaded.model
    with streamed.resident("model.embed_tokens"):
        before = model.model.embed_tokens.weight
        model.lm_head(torch.ones(1, before.shape[1]))
        assert model.model.embed_tokens.weight is before
        assert not before.is_meta


def test_weights_that_are_not_finite_are_refused_when_they_are_read(tmp_path):
    folder = tiny_folder("llama", tmp_path / "model", shards="50GB")
    name = "model.layers.1.mlp.up_proj.weight"
    place = edit(folder, lambda tensors: tensors[name][0].fill_(float("nan")))
    with pytest.raises(ConfigError, match=f"24 weights .* NaN or infinite as float32.*{name}"):
        stream(place).layout()


def test_missing_tensors_are_refused_before_anything_is_read(tmp_path):
    folder = tiny_folder("llama", tmp_path / "model", shards="50GB")
    place = edit(folder, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ConfigError, match=r"lack 1 of the tensors .*'model.norm.weight'"):
        stream(place)


def test_a_missing_shard_is_named(llama, tmp_path):
    folder = tiny_folder("llama", tmp_path / "model")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = max(index["weight_map"].values())
    (folder / shard).unlink()
    with pytest.raises(ConfigError, match=f"{shard}: this shard is missing"):
        stream(str(folder))


def test_weights_used_outside_of_their_module_are_refused_in_a_sentence(llama, monkeypatch):
    forward = LlamaModel.forward

    def peeks(self, *args, **kwargs):
        assert self.norm.weight.sum().item() != 0
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", peeks)
    with pytest.raises(ConfigError, match="cannot be streamed, some of its weights are used"):
        stream(str(llama)).layout()


def test_blocks_that_share_a_prunable_tensor_are_refused(tmp_path, monkeypatch):
    up = "model.layers.{}.mlp.up_proj.weight"
    folder = tiny_folder("llama", tmp_path / "model", shards="50GB")
    edit(folder, lambda tensors: tensors.pop(up.format(1)))
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    tied = {up.format(1): up.format(0)}
    monkeypatch.setattr(LlamaForCausalLM, "_tied_weights_keys", tied)
    with pytest.raises(ConfigError, match=r"are one tensor, and it would be pruned under both"):
        stream(str(folder))


def test_a_model_on_the_meta_device_that_nobody_streams_has_no_layout(llama):
    with pytest.raises(ConfigError, match="not in memory"):
        layout_of(stream(str(llama)).loaded.model)
