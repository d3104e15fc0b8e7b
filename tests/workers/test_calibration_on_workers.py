"""Gradients that workers take are the file that one process writes, also where a worker dies."""

import json

import pytest
import torch
from desk import Desk
from dying import deadly
from tiny_models import TINY, tokens

from optishear.calibration.gradient_file import INDEX, NUMBERS, GradientFile
from optishear.calibration.gradient_store import load_or_collect_gradients
from optishear.errors import ConfigError, StorageError
from optishear.models.discover import layout_of
from optishear.models.load import LoadedModel
from optishear.workers.calibration import gradients_on
from optishear.workers.cluster import Cluster, Workers, running


pytest.importorskip("ray", reason="Ray is an extra: pip install optishear[ray]")

SEQUENCES = tokens(5, 4, seed=1)
TOLD = []


@pytest.fixture(scope="module")
def cluster():
    workers = Workers(2, torch.get_num_threads())
    with running(workers):
        yield Cluster(workers, TOLD.append)


@pytest.fixture
def desk():
    """For mistakes, which pools hand on by their own tests: workers would have to start anew."""
    return Desk(Workers(2, 1), TOLD.append)


def collect(cluster, model, place):
    """What is stored: all of the index but the seconds, and the numbers."""
    layout, on_workers = layout_of(model), None
    if cluster is not None:
        loaded = LoadedModel(model, None, "tiny", place, "hash", model.dtype)
        on_workers = gradients_on(cluster, loaded, layout)
    store = load_or_collect_gradients(place / "g", model, layout, SEQUENCES, None, on_workers)
    index = json.loads((store.folder / INDEX).read_text())
    return store.folder.name, index["layers"], (store.folder / NUMBERS).read_bytes()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("llama", torch.float32), ("gpt2", torch.bfloat16), ("mixtral", torch.float32)],
)
def test_two_workers_write_the_file_that_one_process_writes(kind, dtype, cluster, tmp_path):
    model = TINY[kind]().to(dtype)
    serial = collect(None, model, tmp_path / "serial")
    assert collect(cluster, model, tmp_path / "workers") == serial
    scales = [scale for layer in serial[1].values() for scale in layer["scale"]]
    assert any(scales)
    assert all(scales) == (kind != "mixtral")  # not every expert is reached by four tokens


def test_a_worker_that_dies_costs_its_sequence_a_second_try(cluster, tmp_path, monkeypatch):
    model = TINY["llama"]()
    serial = collect(None, model, tmp_path / "serial")
    written, write = [], GradientFile.write

    def listen(file, number, name, sample):
        written.append(number)
        write(file, number, name, sample)

    monkeypatch.setattr(GradientFile, "write", listen)
    ill = deadly(cluster, tmp_path / "deaths", {"1"})
    assert collect(ill, model, tmp_path / "workers") == serial
    assert ill.deaths.count == 1
    assert [text for text in TOLD if "a worker died on calibration sequence 1" in text]
    assert [written.count(number) for number in range(5)] == [14] * 5  # nobody's twice


def test_a_sequence_whose_gradients_are_not_finite_is_named(desk, tmp_path):
    model = TINY["llama"]()
    [only, *_] = set(SEQUENCES[3].tolist()) - set(SEQUENCES[[0, 1, 2, 4]].flatten().tolist())
    with torch.no_grad():
        model.model.embed_tokens.weight[only] = torch.nan
    with pytest.raises(ConfigError, match=r"Layer model\.layers.*sequence 3 is not finite"):
        collect(desk, model, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_disk_that_fills_up_is_told_as_one_process_tells_it(desk, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GradientFile, "write", full)
    with pytest.raises(StorageError, match="fewer gradient sequences than 5"):
        collect(desk, TINY["llama"](), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
