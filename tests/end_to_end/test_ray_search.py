"""A search on several workers, some of them killed, ends as the serial one does, bit for bit."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import yaml
from dying import deadly
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder

from optishear.config import load_experiment
from optishear.errors import ConfigError, WorkerError
from optishear.records.journal import read_journal
from optishear.runs import search as searching
from optishear.runs.search import search
from optishear.runs.watcher import Silent
from optishear.solvers.refit import Refit
from optishear.solvers.sparsegpt import SparseGPT
from optishear.workers.candidates import Job
from optishear.workers.cluster import Cluster, Workers, running


ray = pytest.importorskip("ray", reason="Ray is an extra: pip install optishear[ray]")

GUARD = 1800  # seconds: Ray asks for some limit
RUNGS = {"population": 4, "evaluations": 8, "rungs": [64]}


@pytest.fixture(scope="module", autouse=True)
def remove_a_host():
    """Two real Ray nodes of one core each, joined once for all: a search that finds Ray running
    leaves it so. What comes back takes the second one away."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes(timeout=GUARD)
        with running(Workers(2, 1, address=cluster.address)):
            yield lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder("llama", tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="module")
def plan(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "ray.yaml"
    path.write_text(yaml.safe_dump({**EMBEDDED, "model": model, "search": RUNGS}))
    return load_experiment(str(path))


@pytest.fixture(scope="module")
def serial(plan, tmp_path_factory):
    return search(plan, tmp_path_factory.mktemp("serial"), Silent())


@pytest.fixture(scope="module")
def spare():
    """Workers that serve one test after the other: to start one takes seconds."""
    return []


@pytest.fixture
def shared(spare, monkeypatch):
    """What a test makes of the workers of its search is set in what is returned."""
    made = SimpleNamespace(by=lambda cluster: cluster)

    @contextmanager
    def cluster(workers, notice):
        if workers.number == 1:
            yield None
            return
        with running(workers):
            yield made.by(Cluster(workers, notice, spare))

    monkeypatch.setattr(searching, "cluster", cluster)
    return made


@pytest.fixture
def two(plan, shared):
    return plan.model_copy(update={"workers": 2})


class Notes(Silent):
    def __init__(self):
        self.texts = []

    def stage(self, text):
        self.texts.append(text)


def same(run, serial):
    names = ("front", "evaluation")
    files = [(getattr(r.directory, n).read_bytes() for n in names) for r in (run, serial)]
    return all(mine == theirs for mine, theirs in zip(*files, strict=True))


def keys(run):
    """In the order in which they were asked for."""
    _, entries, _ = read_journal(run.directory.journal)
    return [entry["key"] for entry in entries]


def values(run):
    _, entries, _ = read_journal(run.directory.journal)
    return {(e["key"], e["rung"]): (e["values"], e["reason"]) for e in entries}


def test_two_workers_find_what_one_process_finds(serial, two, tmp_path):
    run = search(two, tmp_path, Silent())
    assert same(run, serial)
    assert values(run) == values(serial)
    assert run.directory.path.name == serial.directory.path.name  # workers are no part of the hash


def test_workers_that_always_die_stop_the_run_which_goes_on_later_and_survives_a_death(
    serial, two, shared, tmp_path, monkeypatch
):
    """One death is too many at first, three are held by the pool's own tests. Later one costs its
    candidate a second try."""
    victim = keys(serial)[6]
    with monkeypatch.context() as patch:
        patch.setattr("optishear.workers.pool.MOST_DEATHS", 1)
        shared.by = lambda cluster: deadly(cluster, tmp_path / "stops", {victim}, kind=Job)
        with pytest.raises(WorkerError, match=f"1 workers died on recipe {victim}"):
            search(two, tmp_path / "run", Silent())
    [journal] = tmp_path.glob("run/*/*/journal.jsonl")
    _, before, _ = read_journal(journal)
    assert len(before) >= 4  # the generation before it
    assert all(e["values"] is not None for e in before)  # nobody's death is a failed recipe
    notes = Notes()
    shared.by = lambda cluster: deadly(cluster, tmp_path / "goes on", {victim}, kind=Job)
    run = search(two, tmp_path / "run", notes)
    [told] = [text for text in notes.texts if "a worker died on recipe" in text]
    assert told.split()[5] == victim
    assert same(run, serial)
    assert values(run) == values(serial)


def test_curves_and_slopes_of_two_workers_are_those_of_one_process(model, shared, tmp_path):
    """Curves a recipe each, slopes by batches, of which one worker has two and one a single one."""
    path = tmp_path / "slopes.yaml"
    texts = {**EMBEDDED["text"], "search": {**EMBEDDED["text"]["search"], "sequences": 3}}
    changes = {
        "model": model,
        "text": texts,
        "batch_tokens": 64,
        "space": {"sparsity": {"by": "block", "low": 0.2, "high": 0.9, "budget": 0.6}},
        "objectives": ["kl"],
        "baselines": [],
        "search": {
            "driver": "gradient",
            "population": 2,
            "evaluations": 4,
            "seeds": ["knapsack", "gradient"],
            "curves": {"tokens": 64, "levels": 2},
            "descent": {"tokens": 192, "steps": 2},
        },
    }
    path.write_text(yaml.safe_dump({**EMBEDDED, **changes}))
    plan = load_experiment(str(path))
    one = search(plan, tmp_path / "one", Silent())
    asked = []

    class Seen(Cluster):
        def pool(self, payload):
            asked.append(type(payload))
            return super().pool(payload)

    shared.by = lambda cluster: Seen(cluster.workers, cluster.notice, cluster.spare)
    other = search(plan.model_copy(update={"workers": 2}), tmp_path / "two", Silent())
    assert asked.count(Job) == 3  # curves, descent, and the search with its slopes
    assert same(other, one)
    for name in ("curves", "descent", "slopes", "journal"):
        told = []
        for run in (one, other):
            header, found, _ = read_journal(getattr(run.directory, name))
            entries = {e["key"]: {k: v for k, v in e.items() if k != "seconds"} for e in found}
            told.append((header, entries))
        assert told[0] == told[1], name
        if name in ("descent", "slopes"):
            assert all(len(entry["slopes"]) == 14 for entry in told[0][1].values())
    assert one.manifest["search_tokens"] == other.manifest["search_tokens"]


LEVELS = {
    "metric": [{"name": "wanda"}],
    "sparsity": {"by": "block", "low": 0.25, "high": 0.75, "steps": 4, "budget": 0.5},
    "solver": [{"name": "refit", "of": "mask"}, {"name": "sparsegpt"}],
}


@pytest.mark.usefixtures("shared")
def test_statistics_gradients_and_layers_are_shared_out_and_come_out_the_same(
    model, tmp_path, monkeypatch
):
    """Both searches with a cache of their own, so that both collect and solve all there is: the
    levels, and for the held-out comparison the pick and a baseline."""
    path = tmp_path / "levels.yaml"
    search_settings = {"population": 4, "evaluations": 4}
    changes = {
        "model": model,
        "space": LEVELS,
        "calibration_parts": 2,
        "search": search_settings,
        "objectives": ["sparsity", "reconstruction", "taylor"],
        "gradient_sequences": 3,
        "baselines": ["sparsegpt"],
    }
    path.write_text(yaml.safe_dump({**EMBEDDED, **changes}))
    plan = load_experiment(str(path))
    runs = []

    def refused(solver, problem):
        raise AssertionError("this process solves nothing")

    for workers in (1, 2):
        if workers == 2:
            for solver in (Refit, SparseGPT):
                monkeypatch.setattr(solver, "solve", refused)
            here = "optishear.calibration.gradient_store.sequence_by_sequence"
            monkeypatch.setattr(here, lambda *_: pytest.fail("gradients are taken here"))
        monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / f"cache {workers}"))
        mine = plan.model_copy(update={"workers": workers})
        runs.append(search(mine, tmp_path / f"runs {workers}", Silent()))
    assert same(*runs)
    stored = [
        {
            p.name: p.read_bytes()
            for p in (tmp_path / f"cache {n}" / "levels").rglob("*.safetensors")
        }
        for n in (1, 2)
    ]
    solved = 2 * 3 + 1  # solvers x levels, and the baseline at the pick's own sparsity
    assert len(stored[0]) == solved * len(runs[0].front.layout.layers)
    assert stored[0] == stored[1]
    gradients = [[*(tmp_path / f"cache {n}" / "gradients").glob("*/*.f16")] for n in (1, 2)]
    assert gradients[0][0].relative_to(tmp_path / "cache 1") == gradients[1][0].relative_to(
        tmp_path / "cache 2"
    )
    assert gradients[0][0].read_bytes() == gradients[1][0].read_bytes()


def test_an_address_where_nobody_answers_is_refused(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # the session of the other tests
    two = plan.model_copy(update={"workers": 2, "ray_address": "127.0.0.1:1"})
    with pytest.raises(ConfigError, match=r"--ray-address 127\.0\.0\.1:1: no Ray cluster answers"):
        search(two, tmp_path, Silent())


def test_a_host_that_leaves_changes_nothing(serial, two, remove_a_host, tmp_path):
    """Taken away while candidates are measured. Whether a worker of it is at one by then, and so is
    said to have died, is the machine's doing. The last test: it does not come back."""

    class Leaving(Notes):
        """Takes the node away when two are done, of a generation of four."""

        def __init__(self):
            super().__init__()
            self.done = 0

        def evaluated(self, found, evaluation, total):
            self.done += 1
            if self.done == 2:
                remove_a_host()

    watcher = Leaving()
    run = search(two, tmp_path, watcher)
    assert watcher.done > 2
    assert same(run, serial)
