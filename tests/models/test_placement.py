"""Device maps are taken as written, and weights that are kept elsewhere are copied like others."""

import gc

import pytest
import torch
from accelerate import dispatch_model
from pretend_devices import PretendDevices
from tiny_folders import tiny_folder
from tiny_models import TINY, tokens

from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.models.device_map import check_device_map, devices_in, placed
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.load import load
from optishear.models.placement import offload_folder, offloaded, refuse_parted
from optishear.models.weights import read, working_weights


ON_DISK = {"": "cpu", "model.layers.1": "disk"}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))


def folder(tmp_path, kind="llama", **more):
    return str(tiny_folder(kind, tmp_path / kind, **more))


def logits(model):
    with torch.no_grad():
        return model(tokens(), use_cache=False).logits


def test_of_names_within_each_other_the_longest_counts_and_no_part_is_named_twice():
    llama = TINY["llama"]()
    found = placed({"": 0, "model": "cpu", "model.layers.1": "cuda:1", "lm_head": "disk"}, llama)
    assert found == {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": 1,
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "disk",
    }
    assert placed({"": "cuda"}, llama) == {"": 0}


@pytest.mark.parametrize(
    ("device_map", "sentence"),
    [
        ({"": 0, "model.layer.1": 1}, "no module 'model.layer.1'. Did you mean 'model.layers.1'"),
        ({"model.layers": 0}, "nothing says where model.embed_tokens is"),
        ({"": 0, "lm_head": 1}, "are one tensor, and would be on 1 and 0"),
    ],
)
def test_a_map_that_does_not_fit_the_model_is_one_sentence(device_map, sentence):
    with pytest.raises(ConfigError, match=sentence):
        placed(device_map, TINY["qwen2"]())


@pytest.mark.parametrize("device_map", ["autp", {"": -1}, {"": "gpu"}, {"": True}])
def test_what_is_no_device_map_is_refused_before_anything_is_loaded(device_map):
    with pytest.raises(ConfigError, match="device_map"):
        check_device_map(device_map)


def test_devices_that_are_not_here_are_refused(tmp_path):
    assert devices_in({"": 1, "model": "disk", "lm_head": "cpu"}) == ["cpu", "cuda:1"]
    with pytest.raises(ConfigError, match=r"'cuda:1': torch .* sees 0 CUDA devices"):
        load(folder(tmp_path), device_map={"": 1})


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({"device": "cuda"}, "device is 'cuda'"),
        ({"compile": True}, "compile is true"),
        ({"workers": 2}, "workers is 2"),
        ({"ray_address": "host:1"}, "ray_address is 'host:1'"),
    ],
)
def test_an_experiment_cannot_spread_a_model_and_do_what_needs_it_whole(others, sentence):
    settings = {"device_map": "auto", **others}
    with pytest.raises(ConfigError, match=f"device_map is given, but {sentence}"):
        load_experiment("quickstart", [f"{key}={value}" for key, value in settings.items()])


def test_a_device_map_makes_another_run_and_none_keeps_the_hash_of_before():
    plain = load_experiment("quickstart")
    spread = load_experiment("quickstart", ["device_map={'': cpu}"])
    assert plain.hash != spread.hash
    assert "device_map" not in plain.model_dump()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "gpt_oss"])
def test_a_model_with_weights_on_disk_is_the_same_model(kind, tmp_path):
    place = folder(tmp_path, kind)
    plain, spread = load(place), load(place, device_map={"": "disk"})
    layout = layout_of(plain.model)
    names = [name for name, _ in spread.model.named_parameters(remove_duplicate=False)]
    assert offloaded(spread.model) == names
    assert layout_of(spread.model) == layout
    assert (spread.hash, spread.storage(layout)) == (plain.hash, plain.storage(layout))
    assert torch.equal(logits(spread.model), logits(plain.model))
    assert all(torch.equal(read(spread.model, x), read(plain.model, x)) for x in layout.layers)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_what_is_written_into_lent_weights_on_disk_is_computed_with(kind, dtype, tmp_path):
    place = folder(tmp_path, kind)
    plain = load(place, dtype=dtype).model
    spread = load(place, dtype=dtype, device_map=ON_DISK).model
    layout, before = layout_of(plain), logits(plain)
    with working_weights(plain, layout) as near, working_weights(spread, layout) as far:
        assert torch.equal(logits(spread), before)
        for number, layer in enumerate(layout.layers):
            new = near.dense(layer.name) * (1 + number % 3)
            near.write(layer.name, new)
            far.write(layer.name, new)
        assert torch.equal(logits(spread), logits(plain))
        assert not torch.equal(logits(spread), before)
        far.restore()
        assert torch.equal(logits(spread), before)
        assert all(torch.equal(far.dense(x.name), near.dense(x.name)) for x in layout.layers)
        near.restore()
        far.write(layout.layers[-1].name, near.dense(layout.layers[-1].name) * 2)
    assert torch.equal(logits(spread), before)  # the dense ones are back


def test_the_dense_weights_are_back_after_an_exception_and_no_file_is_left(tmp_path):
    spread = load(folder(tmp_path), device_map=ON_DISK).model
    layout, before = layout_of(spread), logits(spread)
    held = {*offload_folder().iterdir()}

    def ruin(spread):
        with working_weights(spread, layout) as working:
            for layer in layout.layers:
                working.view(layer.name).zero_()
            assert {*offload_folder().iterdir()} == held
            raise KeyError

    with pytest.raises(KeyError):
        ruin(spread)
    assert torch.equal(logits(spread), before)
    del spread
    gc.collect()
    assert not any(offload_folder().iterdir())


def test_weights_on_disk_that_are_not_finite_are_found(tmp_path):
    place = tiny_folder("llama", tmp_path / "llama")
    bad = load(str(place)).model
    with torch.no_grad():
        bad.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    bad.save_pretrained(place)
    with pytest.raises(ConfigError, match=r"first 1 in 'model.layers.1.mlp.up_proj.weight'"):
        load(str(place), device_map=ON_DISK)


def test_a_block_on_two_devices_is_refused():
    llama = TINY["llama"]()
    with PretendDevices():
        spread = dispatch_model(llama, placed({"": 0, "model.layers.1.mlp": 1}, llama))
        with pytest.raises(ConfigError, match="block 1 would run on 2 devices"):
            refuse_parted(decoder_blocks(spread)[1])


def test_a_model_that_uses_a_weight_outside_of_its_module_cannot_be_offloaded(tmp_path):
    spread = load(folder(tmp_path, "jetmoe"), device_map={"": "disk"}).model
    with pytest.raises(ConfigError, match="used outside of the module that has them"):
        layout_of(spread)
