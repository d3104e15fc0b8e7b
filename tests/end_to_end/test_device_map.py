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
from optishear.calibration.statistics import Gram, InputSq
from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.kernels.use import kernels
from optishear.models.device_map import placed
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.load import LoadedModel, load
from optishear.pipeline import MeasurementSettings, Memory, measure_on
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.pattern import Row
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.records.journal import read_journal
from optishear.runs import prepare
from optishear.runs.search import search
from optishear.runs.watcher import Silent
from optishear.text.tokens import TokenBatches


BASE = EMBEDDED | {
    "space": "blocks",
    "record": ["kl", "perplexity"],
    "search": {"population": 3, "evaluations": 3},
    "baselines": ["optima"],
}
SOLVED = {
    "space": {
        "metric": {"name": "wanda"},
        "sparsity": {"by": "block", "low": 0.4, "high": 0.8, "budget": 0.6},
        "solver": [{"name": "mask"}, {"name": "refit", "of": "mask"}, {"name": "sparsegpt"}],
        "moonshot": {"by": "block"},
    },
    "objectives": ["reconstruction", "taylor"],
    "gradient_sequences": 2,
    "baselines": ["wanda@owl"],
}
BLOCK = "model.layers"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Searches with a cache of its own each time; what came out of it."""
    llama = str(tiny_folder("llama", tmp_path_factory.mktemp("llama"), num_hidden_layers=4))

    def run(spread=None, **changes):
        place = tmp_path_factory.mktemp("search")
        path = place / "mine.yaml"
        path.write_text(yaml.safe_dump(BASE | {"model": llama} | changes))

        def loaded(*args, **kwargs):
            got = load(*args, **kwargs)
            return got if spread is None else replace(got, model=spread(got.model))

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPTISHEAR_CACHE", str(place / "cache"))
            patch.setattr(prepare, "load", loaded)
            done = search(load_experiment(str(path)), place, Silent())
        assert done.manifest["measured_now"] >= 3  # nothing was known from elsewhere
        assert done.manifest["failed"] == 0
        entries = [(e["key"], e["values"]) for e in read_journal(done.directory.journal)[1]]
        return entries, done.front.entries, done.evaluation

    return run


@pytest.fixture(scope="module")
def plain(found):
    return found()


def over(device_map, **more):
    """Dispatches a model that is there. Its first tensors stay alive: accelerate knows tied ones by
    their addresses, and would take whatever comes to lie there for them."""

    def spread(model):
        model.before = [p.data for p in model.parameters()]
        return dispatch_model(model, placed(device_map, model), **more)

    return spread


def test_a_search_on_three_gpus_is_the_search_on_one_device(found):
    want = found(**SOLVED)
    with kernels("off"), PretendDevices() as devices:
        got = found(over({"": 0, f"{BLOCK}.2": 1, f"{BLOCK}.3": 1, "lm_head": 2}), **SOLVED)
    assert got == want
    assert devices.moved["cuda:0", "cuda:1"] > 0
    assert devices.moved["cuda:0", "cuda:2"] > 0


def test_a_search_on_a_gpu_with_blocks_in_memory_and_on_disk_is_the_same(found, plain, tmp_path):
    parts = {"": 0, f"{BLOCK}.1": "cpu", f"{BLOCK}.3": "disk"}
    with kernels("off"), PretendDevices() as devices:
        got = found(over(parts, offload_dir=str(tmp_path / "away")))
    assert got == plain
    assert devices.moved["cpu", "cuda:0"] > 0


def test_a_search_with_blocks_on_disk_by_the_experiments_device_map_is_the_same(found, plain):
    assert found(device_map={"": "disk", f"{BLOCK}.1": "cpu"}) == plain


def test_what_reads_gradients_is_refused_where_weights_are_offloaded(found):
    with pytest.raises(ConfigError, match=r"gradients.*needs all weights in memory, and 9 are off"):
        found(device_map={"": "cpu", f"{BLOCK}.1": "disk"}, **SOLVED)


QUANTITIES = ("reconstruction", "kl", "kl_top@5", "perplexity", "sparsity", "bytes")
LAST = 1  # block of two


def measured(model):
    """Statistics and values of three recipes: what is chosen, solved, and on prefixes kept."""
    layout = layout_of(model)
    calibration, text = (TokenBatches.of(tokens(6, 16, seed), f"{seed}") for seed in (1, 2))
    needs = frozenset({InputSq, Gram})
    stats = collect(model, layout, calibration.batches(6), needs)
    loaded = LoadedModel(model, None, "tiny", Path("nowhere"), "hash", torch.float32)
    recipes = [
        Recipe.of({"name": metric}, drops(layout, sparsity), "row", solver=solver)
        for metric, sparsity, solver in (
            ("wanda", 0.5, {"name": "mask"}),
            ("magnitude", 0.3, {"name": "mask"}),
            ("wanda", 0.5, {"name": "refit", "of": "mask"}),
        )
    ]
    before = [p.clone() for p in model.parameters() if not p.is_meta]
    data, memory = CalibrationData(stats), Memory(10**6, 10**6)
    with measure_on(
        loaded, layout, data, text, MeasurementSettings(QUANTITIES, 32), memory
    ) as measure:
        values = [measure(recipe, text.tokens.numel()) for recipe in recipes]
    assert all(map(torch.equal, before, [p for p in model.parameters() if not p.is_meta]))
    sums = [(s[InputSq].total.cpu().tolist(), s[Gram].total.cpu().tolist()) for s in stats.values()]
    return layout, sums, values


def drops(layout, sparsity):
    targets = dict.fromkeys(layout.sizes, sparsity)
    return project(targets, layout, Row(), Bounds(), round(sparsity * layout.total))


def ready(name):
    model = TINY[name]()
    model.set_experts_implementation("eager")  # as `load` has it
    return model, f"{decoder_blocks(model)[0]}.{LAST}"


@pytest.mark.parametrize(
    ("name", "last"),
    [("gemma2", 1), ("mixtral", 1), ("gpt2", "cpu"), ("gpt_oss", "disk"), ("opt", "disk")],
)
def test_architectures_measure_alike_with_their_last_block_elsewhere(name, last, tmp_path):
    model, block = ready(name)
    want = measured(model)
    model, block = ready(name)
    with kernels("off"), PretendDevices() as devices:
        spread = over({"": 0, block: last}, offload_dir=str(tmp_path / "away"))(model)
        assert measured(spread) == want
    assert any(way[1] == "cuda:0" for way in devices.moved)


def test_a_model_offloaded_to_memory_as_a_whole_measures_alike():
    want = measured(ready("llama")[0])
    assert measured(cpu_offload(ready("llama")[0], torch.device("cpu"))) == want


def test_a_candidate_moves_what_the_docs_say():
    """Each batch brings in all of what is offloaded; a changed layer comes once and goes back."""
    model, block = ready("llama")
    layout = layout_of(model)
    away = sum(p.nbytes for p in model.get_submodule(block).parameters())
    prunable = sum(4 * layer.size for layer in layout.layers if layer.block == LAST)
    text = TokenBatches.of(tokens(6, 16), "text")
    loaded = LoadedModel(model, None, "tiny", Path("nowhere"), "hash", torch.float32)
    recipes = [Recipe.of({"name": "magnitude"}, drops(layout, s), "row") for s in (0.3, 0.5)]
    with kernels("off"), PretendDevices() as devices:
        loaded = replace(loaded, model=over({"": 0, block: "cpu"})(model))
        data = CalibrationData(collect(model, layout, text.batches(6), frozenset()))
        by = MeasurementSettings(("reconstruction",), 32)
        with measure_on(loaded, layout, data, text, by) as measure:
            measure(recipes[0], text.tokens.numel())
            devices.moved.clear()
            measure(recipes[1], text.tokens.numel())
    batches = 3
    assert devices.moved["cpu", "cuda:0"] == batches * away + prunable
    assert devices.moved["cuda:0", "cpu"] == prunable
