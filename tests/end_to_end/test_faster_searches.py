"""Whole searches of a small model by the faster ways: rungs, level database, prefixes."""

import shutil

import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder

from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.recipe.canonical import MASK
from optishear.records.journal import read_journal
from optishear.runs.search import search
from optishear.runs.watcher import Silent


SEARCH_TEXT = {"source": "embedded", "split": "search", "sequences": 4, "seq_len": 64}
BASE = EMBEDDED | {
    "text": EMBEDDED["text"] | {"search": SEARCH_TEXT},
    "space": "blocks",
    "search": {"population": 4, "evaluations": 8, "rungs": [64, 128], "keep": 0.25},
}
LEVELS = {
    "pattern": "row",
    "metric": {"name": "wanda"},
    "sparsity": {"by": "block", "steps": 4, "low": 0.4, "high": 0.8, "budget": 0.6},
    "solver": {"name": "refit", "of": "mask"},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory):
    tiny = str(
        tiny_folder("llama", tmp_path_factory.mktemp("models") / "llama", num_hidden_layers=4)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASE, "model", tiny)
        yield


class Told(Silent):
    """Remembers what it was told of levels."""

    def __init__(self):
        self.totals = set()

    def levels(self, done, total, seconds):
        self.totals.add(total)


def experiment(folder, **changes):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(BASE | changes))
    return load_experiment(str(path))


def entries(run):
    return read_journal(run.directory.journal)[1]


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """A finished search with rungs; who changes it changes a copy."""
    folder = tmp_path_factory.mktemp("climbed")
    return search(experiment(folder), folder / "r", Silent())


def test_with_rungs_all_are_asked_few_climb_and_the_front_is_from_the_top(climbed):
    run = climbed
    on = {rung: {e["key"] for e in entries(run) if e["rung"] == rung} for rung in (64, 128, 256)}
    assert len(on[64]) == run.manifest["evaluations"] == 8
    assert len(on[128]) == 4
    baselines = {row["name"] for row in run.evaluation} - {"dense", "found"}
    assert 4 <= len(on[256]) <= 4 + len(baselines)
    top = {e["key"]: e["values"] for e in entries(run) if e["rung"] == 256}
    front = run.front.entries
    assert front
    assert all(dict(entry.values) == top[entry.recipe.key] for entry in front)


def test_a_search_with_rungs_that_is_begun_again_asks_and_promotes_the_same(tmp_path, climbed):
    path = climbed.directory.path
    folder = tmp_path / "a" / path.parent.name / path.name
    shutil.copytree(path, folder)
    cut = climbed.directory.journal.read_bytes().splitlines(keepends=True)[:6]
    (folder / "manifest.json").unlink()
    (folder / "journal.jsonl").write_bytes(b"".join(cut))
    before = climbed.directory.front.read_bytes()
    again = search(experiment(tmp_path), tmp_path / "a", Silent())
    assert again.directory.front.read_bytes() == before
    assert again.manifest["measured_now"] == len(entries(again)) - 5


def test_evopress_climbs_in_every_generation_on_a_level_database(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
    settings = BASE["search"] | {"driver": "evopress", "seed": 2}  # the second finds a better one
    plan = experiment(tmp_path, space=LEVELS, objectives=["kl"], search=settings)
    told = Told()
    run = search(plan, tmp_path / "r", told)
    solved = list((tmp_path / "cache" / "levels").rglob("*.safetensors"))
    assert told.totals == {len(solved)}
    on_top = [e for e in entries(run) if e["rung"] == 256 and e["solver"] != MASK]
    assert 2 <= len(on_top) < 8
    assert all(e["drop"] for e in on_top)

    again = Told()
    second = search(plan, tmp_path / "other", again)
    assert again.totals == {0}
    assert second.directory.front.read_bytes() == run.directory.front.read_bytes()


def test_what_a_search_may_remember_changes_neither_its_hash_nor_its_values(tmp_path):
    search_settings = BASE["search"] | {"variation": "prefix"}
    nothing = {"ranks": 0, "prefixes": "0", "levels": 0}
    usual = experiment(tmp_path, search=search_settings)
    without = experiment(tmp_path, search=search_settings, memory=nothing)
    assert usual.hash == without.hash
    runs = [
        search(plan, tmp_path / where, Silent()) for plan, where in ((usual, "a"), (without, "b"))
    ]
    one, two = ([(e["key"], e["rung"], e["values"]) for e in entries(run)] for run in runs)
    assert one == two


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rungs": [96]}, "96 is no number of whole sequences of 64 tokens"),
        ({"rungs": [256]}, "below all of them"),
        ({"rungs": [128, 64]}, "do not ascend"),
        ({"variation": "prefix", "driver": "tpe"}, "has no variation 'prefix'"),
        ({"driver": "evopress"}, "evopress takes 1 only"),
    ],
)
def test_impossible_settings_are_refused_before_a_model_is_loaded(tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        experiment(tmp_path, search={**BASE["search"], **changes})


def test_memory_is_written_with_units(tmp_path):
    plan = experiment(tmp_path, memory={"ranks": "500MB", "prefixes": "2GB"})
    assert (plan.memory.ranks, plan.memory.prefixes) == (500_000_000, 2_000_000_000)
    with pytest.raises(ConfigError, match=r"memory\.ranks"):
        experiment(tmp_path, memory={"ranks": "much"})
