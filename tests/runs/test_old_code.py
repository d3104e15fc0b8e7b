"""A search asked for again after code was mended: nothing comes from the old code's files."""

from collections import Counter
from dataclasses import replace
from importlib import import_module

import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder

from optishear.allocation import RULES
from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.records import cache
from optishear.records.journal import read_journal
from optishear.records.run_directory import read_json, write_json
from optishear.runs.results import open_run
from optishear.runs.search import search
from optishear.runs.watcher import Silent


pytestmark = pytest.mark.usefixtures("searches_draw_nothing")

WORK = {
    "statistics": "optishear.calibration.store.collect_in_parts",
    "gradients": "optishear.calibration.gradient_store.write_gradients",
    "levels": "optishear.pruning.levels.solved_level",
    "held_out": "optishear.runs.held_out.held_out",
}
"""What makes the values of each cache."""


class Told(Silent):
    def __init__(self):
        self.stages = []

    def stage(self, text):
        self.stages.append(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old_code")
    tiny_folder("llama", folder / "model", shards="1GB")
    settings = {
        **EMBEDDED,
        "model": str(folder / "model"),
        "gradient_sequences": 2,
        "record": ["taylor"],
        "baselines": ["wanda"],
        "space": {
            "metric": {"name": "wanda"},
            "solver": {"name": "refit", "of": "mask"},
            "sparsity": {"by": "block", "steps": 2, "low": 0.25, "high": 0.75},
        },
        "search": {"population": 2, "evaluations": 2},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def worked(place, monkeypatch):
    """A search in a results folder; how often each cache's values were made for it."""
    monkeypatch.setenv("OPTISHEAR_CACHE", str(place / "cache"))
    monkeypatch.setattr("optishear.runs.search.draw_figures", lambda directory: None)
    count: Counter[str] = Counter()

    def counted(kind, real):
        def working(*given, **more):
            count[kind] += 1
            return real(*given, **more)

        return working

    for kind, path in WORK.items():
        module, _, name = path.rpartition(".")
        monkeypatch.setattr(path, counted(kind, getattr(import_module(module), name)))
    for name, rule in RULES.items():
        monkeypatch.setitem(RULES, name, counted("rules", rule))

    def run(out, *settings):
        count.clear()
        search(load_experiment(str(place / "mine.yaml"), settings), out, Silent())
        return set(count)

    return run


@pytest.fixture(scope="module")
def first(place):
    """The cache after one search, which the tests below share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTISHEAR_CACHE", str(place / "cache"))
        patch.setattr("optishear.runs.search.draw_figures", lambda directory: None)
        return search(load_experiment(str(place / "mine.yaml")), place / "out", Silent())


def mend(monkeypatch, kind):
    known = cache.KINDS[kind]
    monkeypatch.setitem(cache.KINDS, kind, replace(known, version=known.version + 1))


@pytest.mark.parametrize(
    ("mended", "made_again"),
    [
        (None, set()),
        ("statistics", {"statistics", "rules", "levels", "held_out"}),
        ("gradients", {"gradients", "levels", "held_out"}),
        ("rules", {"rules"}),
        ("levels", {"levels", "held_out"}),  # solvers, metrics
        ("held_out", {"held_out"}),
        ("measure", set()),
    ],
)
def test_only_what_the_mended_code_has_a_part_in_is_made_again(
    first, worked, mended, made_again, tmp_path, monkeypatch
):
    if mended is not None:
        mend(monkeypatch, mended)
    assert worked(tmp_path) == made_again


@pytest.mark.parametrize("mended", [None, "statistics", "gradients", "levels", "measure"])
def test_journals_of_the_old_code_are_no_memo_of_the_new(
    first, worked, mended, place, tmp_path, monkeypatch
):
    (tmp_path / "mine").mkdir()
    old = first.directory.path
    (tmp_path / "mine" / old.name).symlink_to(old)
    if mended is not None:
        mend(monkeypatch, mended)
    worked(tmp_path, "search.evaluations=4")
    [run] = [path for path in (tmp_path / "mine").iterdir() if not path.is_symlink()]
    entries = read_journal(run / "journal.jsonl")[1]
    known = read_journal(first.directory.journal)[1]
    measured = len(entries) if mended else len(entries) - len(known)
    assert open_run(run).manifest["measured_now"] == measured


@pytest.mark.parametrize("mended", [None, "levels"])
def test_a_finished_run_says_that_other_code_made_it(first, place, mended, monkeypatch):
    if mended is not None:
        mend(monkeypatch, mended)
    told = Told()
    search(load_experiment(str(place / "mine.yaml")), place / "out", told)
    assert "nothing to do" in told.stages[0]
    assert ("the code that measured it was" in told.stages[0]) == (mended is not None)


def test_an_unfinished_run_of_the_old_code_is_refused_by_name(first, worked, tmp_path, monkeypatch):
    worked(tmp_path)
    run = open_run(tmp_path / "mine")
    write_json(run.directory.manifest, read_json(run.directory.manifest) | {"status": "running"})
    before = run.directory.journal.read_bytes()
    mend(monkeypatch, "levels")
    now = cache.KINDS["levels"].version
    with pytest.raises(ConfigError, match=rf"code was '.*levels {now - 1}.*now '.*levels {now}"):
        worked(tmp_path)
    assert run.directory.journal.read_bytes() == before
