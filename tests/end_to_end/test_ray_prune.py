"""A prune whose layers two workers solve writes the serial one's files, byte for byte."""

from contextlib import contextmanager, nullcontext
from hashlib import sha256

import pytest
import torch
from desk import Desk
from dying import deadly
from tiny_folders import tiny_folder
from tiny_models import TINY
from typer.testing import CliRunner
from waiting import until

from optishear.calibration.statistics import InputSq, LayerStats
from optishear.cli import app
from optishear.errors import ConfigError, NumericalError
from optishear.models.discover import layout_of
from optishear.models.weights import working_weights
from optishear.pruning import oneshot
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.recipe import Recipe
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to, workers_for
from optishear.tools.prune_streamed import prune_streamed
from optishear.workers import layers as worker_layers
from optishear.workers.cluster import Cluster, Workers, running
from optishear.workers.layers import pruning_on


ray = pytest.importorskip("ray", reason="Ray is an extra: pip install optishear[ray]")

TWO = Workers(2, 1)
MODES = [True, False]
METHODS = {
    "wanda": NamedMethod("wanda", 0.5),
    "sparsegpt": NamedMethod("sparsegpt", 0.5),
    "alps": NamedMethod("alps", 0.5),
    "refit": NamedMethod("wanda", pattern="2:4", refit=True),
    "moonshot": NamedMethod("moonshot-sparsegpt", 0.5, moonshot_roles="all"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As each worker has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def session():
    """One for all: a prune that finds Ray running leaves it so. Room for the shared workers, and
    for those of a prune that begins its own."""
    with running(Workers(4, 1)):
        yield


@pytest.fixture(scope="module")
def told():
    """What the shared workers had to say."""
    return []


@pytest.fixture(scope="module")
def replicas(session, told):
    """Two workers that serve one test after the other: to start them takes seconds."""
    return Cluster(TWO, told.append)


@pytest.fixture
def shared(replicas, monkeypatch):
    """A prune takes these workers, and may not solve a layer on its own."""

    @contextmanager
    def spread(workers=replicas):
        with monkeypatch.context() as patch:
            patch.setattr(worker_layers, "cluster", lambda *_: nullcontext(workers))
            patch.setattr(oneshot, "solve_layer", None)
            yield

    return spread


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    place = tmp_path_factory.mktemp("dense") / "llama"
    return tiny_folder("llama", place, torch.bfloat16, num_hidden_layers=3)


def how(sequential=True, workers=TWO):
    text = TextSpec("embedded", "train", 3, 64)
    return How(text, sequential=sequential, gradient_sequences=2, workers=workers)


def hashes(folder):
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def alone(sequential=True):
    return how(sequential, Workers(1, 1))


@pytest.mark.parametrize(
    ("method", "sequential"),
    [(method, True) for method in METHODS] + [(method, False) for method in ("wanda", "moonshot")],
)
def test_two_workers_write_the_same_files(method, sequential, dense, shared, tmp_path):
    recipe_for = METHODS[method].on
    prune_to(str(dense), recipe_for, tmp_path / "one", alone(sequential))
    with shared():
        _, written = prune_to(str(dense), recipe_for, tmp_path / "two", how(sequential))
    assert written
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_transposed_weights_and_experts_come_out_the_same(kind, shared, tmp_path):
    dense = tiny_folder(kind, tmp_path / "dense")
    recipe_for = METHODS["sparsegpt"].on
    prune_to(str(dense), recipe_for, tmp_path / "one", alone())
    with shared():
        prune_to(str(dense), recipe_for, tmp_path / "two", how())
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")


def test_a_given_mask_is_refitted_by_workers(dense, shared, tmp_path):
    prune_to(str(dense), METHODS["wanda"].on, tmp_path / "mask", alone())
    mask_from = (str(tmp_path / "mask"), True)
    prune_to(str(dense), None, tmp_path / "one", alone(), mask_from)
    with shared():
        prune_to(str(dense), None, tmp_path / "two", how(), mask_from)
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")


@pytest.mark.parametrize("sequential", MODES, ids=["sequential", "one-shot"])
def test_a_model_that_is_streamed_takes_workers_too(sequential, dense, shared, tmp_path):
    recipe_for = METHODS["sparsegpt"].on
    prune_streamed(str(dense), recipe_for, tmp_path / "one", alone(sequential))
    with shared():
        prune_streamed(str(dense), recipe_for, tmp_path / "two", how(sequential))
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")


def test_a_layer_that_cannot_be_solved_is_named_and_the_next_recipe_begins_dense():
    """That a pool gives the others up and goes on is held by its own tests: it costs a start."""
    model = TINY["llama"]()
    layout = layout_of(model)
    recipe = Recipe.of({"name": "wanda"}, dict.fromkeys(layout.sizes, 48))
    more, fewer = (
        Recipe.of({"name": "magnitude"}, dict.fromkeys(recipe.drop, n), "row") for n in (96, 48)
    )
    bad = layout.layers[3]
    stats = {x.site: LayerStats.of(9, 1, InputSq(torch.ones(x.in_features))) for x in layout.layers}
    stats[bad.site] = LayerStats.of(9, 1, InputSq(torch.full((bad.in_features,), torch.nan)))
    data = CalibrationData(stats)
    prune_layers = pruning_on(Desk(TWO, lambda text: None))
    with working_weights(model, layout) as working:
        with pytest.raises(NumericalError, match=f"^{bad.name}: 768 of 768 scores are nan"):
            oneshot.apply(layout.layers, working, data, recipe, prune_layers)
        for recipe in (more, fewer):  # each of the dense weights, whatever was done before
            reports = oneshot.apply(layout.layers, working, data, recipe, prune_layers)
        assert [report.name for report in reports] == list(layout.sizes)
        assert all(int((working.view(name) == 0).sum()) == 48 for name in layout.sizes)


def test_a_worker_killed_in_the_middle_of_a_layer_changes_nothing(
    dense, replicas, shared, told, tmp_path
):
    recipe_for, layer = METHODS["alps"].on, "model.layers.1.mlp.up_proj"
    prune_to(str(dense), recipe_for, tmp_path / "one", alone())
    told.clear()
    ill = deadly(replicas, tmp_path / "deaths", {layer})
    with shared(ill):
        prune_to(str(dense), recipe_for, tmp_path / "two", how())
    assert ill.deaths.count == 1
    [notice] = told
    assert notice.startswith(f"a worker died on layer {layer} ")
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")


def test_the_command_begins_workers_and_ends_them(dense, session, tmp_path):
    words = ["prune", "--model", dense, "--method", "sparsegpt", "--sparsity", 0.5]
    words += ["--text", "embedded", "--sequences", 3, "--seq-len", 64, "--to"]
    runner = CliRunner()
    one = runner.invoke(app, [str(word) for word in [*words, tmp_path / "one"]])
    before = ray.available_resources()["CPU"]
    two = runner.invoke(app, [str(w) for w in [*words, tmp_path / "two", "--workers", 2]])
    assert (one.exit_code, two.exit_code) == (0, 0)
    assert "sparsity 50.00 %" in two.stdout
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")
    until(lambda: ray.available_resources().get("CPU", 0) == before)


def test_workers_share_the_cores_and_use_no_more_threads_than_this_process(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert workers_for(2, "cpu", "") == Workers(2, 3)
    assert workers_for(4, "cuda", "head:6379") == Workers(4, 2, "cuda", "head:6379")
    with pytest.raises(ConfigError, match=r"--ray-address: one worker .* Give --workers"):
        workers_for(1, "cpu", "head:6379")
