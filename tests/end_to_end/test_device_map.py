"""Whole searches on models that are spread over devices end as on one device, bit for bit.

Devices that are not here are pretended; weights on disk and in CPU memory are really kept there.
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import yaml
from accelerate import cpu_offload, dispatch_model
from pretend_devices import PretendDevices
from small_experiment import EMBEDDED

from optishear.config import load_experiment
from optishear.experiment import prepare
from optishear.experiment.search import search
from optishear.experiment.watcher import Silent
from optishear.kernels.use import kernels
from optishear.models.device_map import placed
from optishear.models.load import load
from optishear.records.journal import read_journal


BASE = EMBEDDED | {
    "record": ["kl", "perplexity"],
    "search": {"population": 4, "evaluations": 6},
    "baselines": ["wanda"],
    "memory": {"prefixes": "2MB"},
}
SOLVED = {
    "space": "joint",
    "gradient_sequences": 2,
    "baselines": ["sparsegpt", "wanda@owl", "wanda@alphapruning"],
}
BLOCK = "model.layers"


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Searches with a cache of its own each time; what came out of it."""
    count = iter(range(9))

    def run(changes=None, dispatch=None):
        place = tmp_path / str(next(count))
        place.mkdir()
        monkeypatch.setenv("OPTISHEAR_CACHE", str(place / "cache"))
        path = place / "mine.yaml"
        path.write_text(yaml.safe_dump(BASE | (changes or {})))

        def loaded(*args, **kwargs):
            got = load(*args, **kwargs)
            return got if dispatch is None else replace(got, model=dispatch(got.model))

        monkeypatch.setattr(prepare, "load", loaded)
        done = search(load_experiment(str(path)), place, Silent())
        assert done.manifest["measured_now"] >= 6
        assert done.manifest["failed"] == 0
        entries = [(e["key"], e["values"]) for e in read_journal(done.directory.journal)[1]]
        return entries, done.front.entries, done.evaluation

    return run


def over(device_map):
    return lambda model: dispatch_model(model, placed(device_map, model))


def test_blocks_on_two_gpus_and_the_head_on_a_third(found):
    want = found(SOLVED)
    with kernels("off"), PretendDevices() as devices:
        got = found(SOLVED, over({"": 0, f"{BLOCK}.2": 1, f"{BLOCK}.5": 1}))
    assert got == want
    assert devices.moved["cuda:0", "cuda:1"]
