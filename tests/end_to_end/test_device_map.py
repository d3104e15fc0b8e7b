"""Searches on models that are spread over devices end as on one device, bit for bit.

Devices that are not here are pretended; weights on disk and in CPU memory are really kept there.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import cpu_offload, dispatch_model
from pretend_devices import PretendDevices
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from tiny_models import TINY, tokens

from optishear.calibration.collect import collect
from optishear.calibration.statistics import Need
from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.experiment import prepare
from optishear.experiment.search import search
from optishear.experiment.watcher import Silent
from optishear.kernels.use import kernels
from optishear.models.device_map import placed
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.load import LoadedModel, load
from optishear.pipeline import Memory, measure_on
from optishear.pruning.evidence import Evidence
from optishear.recipe.pattern import Row
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.records.journal import read_journal
from optishear.text.tokens import TokenBatches


BASE = EMBEDDED | {
    "space": "blocks",
    "record": ["kl", "perplexity"],
    "search": {"population": 4, "evaluations": 8},
    "baselines": ["sparsegpt", "wanda@owl", "wanda@alphapruning"],
}
JOINT = {"space": "joint", "gradient_sequences": 2}
BLOCK = "model.layers"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(tiny_folder("llama", tmp_path_factory.mktemp("llama"), num_hidden_layers=4))


@pytest.fixture
def found(llama, tmp_path, monkeypatch):
    """Searches with a cache of its own each time; what came out of it."""
    count = iter(range(9))

    def run(spread=None, **changes):
        place = tmp_path / str(next(count))
        place.mkdir()
        monkeypatch.setenv("OPTISHEAR_CACHE", str(place / "cache"))
        path = place / "mine.yaml"
        path.write_text(yaml.safe_dump(BASE | {"model": llama} | changes))

        def loaded(*args, **kwargs):
            got = load(*args, **kwargs)
            return got if spread is None else replace(got, model=spread(got.model))

        monkeypatch.setattr(prepare, "load", loaded)
        done = search(load_experiment(str(path)), place, Silent())
        assert done.manifest["measured_now"] >= 8  # nothing was known from elsewhere
        assert done.manifest["failed"] == 0
        entries = [(e["key"], e["values"]) for e in read_journal(done.directory.journal)[1]]
        return entries, done.front.entries, done.evaluation

    return run


def over(device_map, **more):
    return lambda model: dispatch_model(model, placed(device_map, model), **more)


def test_a_search_on_three_gpus_is_the_search_on_one_device(found):
    want = found(**JOINT)
    with kernels("off"), PretendDevices() as devices:
        got = found(over({"": 0, f"{BLOCK}.2": 1, f"{BLOCK}.3": 1, "lm_head": 2}), **JOINT)
    assert got == want
    assert devices.moved["cuda:0", "cuda:1"] > 0
    assert devices.moved["cuda:0", "cuda:2"] > 0


def test_a_search_on_a_gpu_with_blocks_in_memory_and_on_disk_is_the_same(found, tmp_path):
    want = found()
    parts = {"": 0, f"{BLOCK}.1": "cpu", f"{BLOCK}.3": "disk"}
    with kernels("off"), PretendDevices() as devices:
        got = found(over(parts, offload_dir=str(tmp_path / "away")))
    assert got == want
    assert devices.moved["cpu", "cuda:0"] > 0


@pytest.mark.parametrize("rest", ["cpu", "disk"])
def test_a_search_with_blocks_on_disk_by_the_experiments_device_map_is_the_same(found, rest):
    device_map = {"": rest, f"{BLOCK}.1": "disk", f"{BLOCK}.2": "cpu"}
    assert found(device_map=device_map) == found()


def test_a_search_offloaded_to_memory_as_a_whole_is_the_same(found):
    assert found(lambda model: cpu_offload(model, torch.device("cpu"))) == found()


def test_what_reads_gradients_is_refused_where_weights_are_offloaded(found):
    with pytest.raises(ConfigError, match=r"gradients.*needs all weights in memory, and 9 are off"):
        found(device_map={"": "cpu", f"{BLOCK}.1": "disk"}, **JOINT)


QUANTITIES = ("reconstruction", "kl", "kl_top@5", "perplexity", "sparsity", "bytes")
LAST = 1  # block of two


def measured(model):
    """Statistics and values of three recipes: what is chosen, solved, and on prefixes kept."""
    layout = layout_of(model)
    calibration, text = (TokenBatches.of(tokens(6, 16, seed), f"{seed}") for seed in (1, 2))
    needs = frozenset({Need.INPUT_SQ, Need.GRAM})
    stats = collect(model, layout, calibration.batches(6), needs)
    loaded = LoadedModel(model, None, "tiny", Path("nowhere"), "hash", torch.float32)
    recipes = [
        Recipe({"name": metric}, drops(layout, sparsity), "row", solver=solver)
        for metric, sparsity, solver in (
            ("wanda", 0.5, {"name": "mask"}),
            ("magnitude", 0.3, {"name": "mask"}),
            ("wanda", 0.5, {"name": "refit", "of": "mask"}),
        )
    ]
    before = [p.clone() for p in model.parameters() if not p.is_meta]
    evidence, memory = Evidence(stats), Memory(10**6, 10**6)
    with measure_on(loaded, layout, evidence, text, QUANTITIES, 32, (), memory) as measure:
        values = [measure(recipe, text.tokens.numel()) for recipe in recipes]
    assert all(map(torch.equal, before, [p for p in model.parameters() if not p.is_meta]))
    sums = [(s.input_sq.cpu().tolist(), s.gram.cpu().tolist()) for s in stats.values()]
    return layout, sums, values


def drops(layout, sparsity):
    wish = dict.fromkeys(layout.sizes, sparsity)
    return project(wish, layout, Row(), Bounds(), round(sparsity * layout.total))


def ready(name):
    model = TINY[name]()
    model.set_experts_implementation("eager")  # as `load` has it
    return model, f"{decoder_blocks(model)[0]}.{LAST}"


@pytest.mark.parametrize("name", sorted(TINY))
@pytest.mark.parametrize("last", [1, "cpu", "disk"])
def test_every_architecture_measures_alike_with_its_last_block_elsewhere(name, last, tmp_path):
    model, block = ready(name)
    want = measured(model)
    model, block = ready(name)
    with kernels("off"), PretendDevices() as devices:
        spread = over({"": 0, block: last}, offload_dir=str(tmp_path / "away"))(model)
        assert measured(spread) == want
    assert any(way[1] == "cuda:0" for way in devices.moved)
