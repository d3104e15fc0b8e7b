"""The whole line on a CUDA device: what it measures and prunes there against the CPU's answers.

Run with OPTISHEAR_TEST_DEVICE=cuda, which leaves Triton its compiler; skipped everywhere else.
"""

import json
import os

import pytest
import torch
import yaml
from small_experiment import EMBEDDED

from optishear.config import load_experiment
from optishear.kernels.use import kernels
from optishear.models.discover import layout_of
from optishear.models.load import load
from optishear.models.weights import read
from optishear.records.journal import read_journal
from optishear.runs.search import search
from optishear.runs.watcher import Silent
from optishear.solvers.methods import METHODS
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to


pytestmark = pytest.mark.skipif(
    os.environ.get("OPTISHEAR_TEST_DEVICE") != "cuda" or not torch.cuda.is_available(),
    reason="needs a GPU and OPTISHEAR_TEST_DEVICE=cuda",
)

TEXT = TextSpec("embedded", "train", 8, 128)
CHOSEN = {"magnitude": 1.0, "random": 1.0, "wanda": 0.999, "ria": 0.999, "moonshot-wanda": 0.999}


@pytest.mark.parametrize("sequential", [True, False], ids=["block by block", "one-shot"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_prunes_on_a_gpu_as_on_a_cpu(method, sequential, tmp_path):
    """Equal counts everywhere; masks up to the rounding of statistics, which solvers amplify."""
    kept = {}
    for device in ("cpu", "cuda"):
        how = How(TEXT, device=device, sequential=sequential, gradient_sequences=2)
        prune_to("embedded", NamedMethod(method, 0.5).on, tmp_path / device, how)
        model = load(str(tmp_path / device)).model
        layout = layout_of(model)
        kept[device] = {layer.name: read(model, layer) != 0 for layer in layout.layers}
    counts = [{n: int(k.sum()) for n, k in kept[device].items()} for device in kept]
    assert counts[0] == counts[1]
    same = sum(int((kept["cpu"][n] == kept["cuda"][n]).sum()) for n in kept["cpu"])
    assert same / sum(k.numel() for k in kept["cpu"].values()) >= CHOSEN.get(method, 0.9)


def plan(folder, **changes):
    path = folder / "mine.yaml"
    settings = {"search": {"population": 8, "evaluations": 24}, "device": "cuda"}
    path.write_text(yaml.safe_dump(EMBEDDED | settings | changes))
    return load_experiment(str(path))


def values(run):
    _, entries, _ = read_journal(run.directory.journal)
    return {entry["key"]: entry["values"] for entry in entries}


def run_in(folder, monkeypatch, **changes):
    folder.mkdir()
    monkeypatch.setenv("OPTISHEAR_CACHE", str(folder / "cache"))
    return search(plan(folder, **changes), folder / "results", Silent())


def test_one_seed_is_one_result_bit_for_bit_on_a_gpu(tmp_path, monkeypatch):
    one, two = (run_in(tmp_path / where, monkeypatch) for where in ("a", "b"))
    assert values(one) == values(two)
    assert one.directory.front.read_bytes() == two.directory.front.read_bytes()


def test_a_gpu_measures_what_a_cpu_measures(tmp_path, monkeypatch):
    gpu = values(run_in(tmp_path / "gpu", monkeypatch))
    cpu = values(run_in(tmp_path / "cpu", monkeypatch, device="cpu"))
    first = list(gpu)[:8]  # the first generation, which asks the same of both
    assert first == list(cpu)[:8]
    for key in first:
        for name, value in gpu[key].items():
            assert value == pytest.approx(cpu[key][name], rel=1e-2, abs=1e-5), name


@pytest.mark.parametrize("changes", [{"cuda_graphs": True}, {"dtype": "bfloat16"}], ids=str)
def test_settings_for_gpus_run_to_the_end(changes, tmp_path, monkeypatch):
    run = run_in(tmp_path / "a", monkeypatch, **changes)
    assert json.loads(run.directory.front.read_text())["entries"]


def test_a_search_finds_the_same_masks_without_kernels(tmp_path, monkeypatch):
    with_kernels = values(run_in(tmp_path / "on", monkeypatch))
    with kernels("off"):
        without = values(run_in(tmp_path / "off", monkeypatch))
    first = list(with_kernels)[:8]
    assert first == list(without)[:8]
    for key in first:
        for name, value in with_kernels[key].items():
            assert value == pytest.approx(without[key][name], rel=1e-4, abs=1e-6), name
