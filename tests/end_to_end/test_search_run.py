"""Whole searches of a small model: one seed one result, kill -9, refusals."""

import json
import shutil
import signal
import subprocess
import sys
from inspect import getsource

import pytest
import torch
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.config import load_experiment
from optishear.errors import ConfigError
from optishear.evaluation.perplexity import held_out
from optishear.records.journal import Journal, read_journal
from optishear.records.run_files import layout_of_run
from optishear.report.figures import draw_figures
from optishear.report.run_table import run_table
from optishear.runs.results import open_run
from optishear.runs.search import search
from optishear.runs.watcher import Silent


BASE = {**EMBEDDED, "search": {"population": 4, "evaluations": 8}}


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory):
    """Searched instead of the embedded model, where nothing is promised of that."""
    tiny = str(tiny_folder("llama", tmp_path_factory.mktemp("models") / "llama"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASE, "model", tiny)
        yield


def config(folder, **changes):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(BASE | changes))
    return path


def experiment(folder, **changes):
    return load_experiment(str(config(folder, **changes)))


def journal_values(run):
    _, entries, _ = read_journal(run.directory.journal)
    return [(e["key"], e["values"]) for e in entries]


@pytest.mark.parametrize("driver", ["nsga2", "nsga3", "tpe"])
def test_one_seed_is_one_result_bit_for_bit(tmp_path, driver, monkeypatch):
    plan = experiment(tmp_path, search={**BASE["search"], "driver": driver}, baselines=["wanda"])
    one, two = (with_own_cache(plan, tmp_path / where, monkeypatch) for where in ("a", "b"))
    assert journal_values(one) == journal_values(two)
    assert one.directory.front.read_bytes() == two.directory.front.read_bytes()
    assert one.directory.evaluation.read_bytes() == two.directory.evaluation.read_bytes()


def test_the_same_measure_is_never_paid_for_twice_between_runs(tmp_path, unbroken):
    first = copied(unbroken, tmp_path / "r")
    bigger = experiment(tmp_path, search={"population": 4, "evaluations": 12})
    second = search(bigger, tmp_path / "r", Silent())
    before = journal_values(first)
    new = {key for key, _ in journal_values(second)} - {key for key, _ in before}
    assert second.manifest["measured_now"] == len(new) < 12
    assert journal_values(first) == before


def test_the_manifest_says_how_much_of_the_blocks_can_be_pruned(unbroken):
    weights = layout_of_run(unbroken.directory).total
    assert unbroken.manifest["coverage"] == {
        "weights": weights,
        "prunable": weights,
        "left_out": {},
    }


def with_own_cache(plan, out, monkeypatch):
    """With nothing remembered of what other tests have measured."""
    monkeypatch.setenv("OPTISHEAR_CACHE", str(out / "cache"))
    return search(plan, out, Silent())


FEW = {"population": 4, "evaluations": 4}


class TestHeldOutMemo:
    @pytest.fixture
    def counted(self, monkeypatch):
        """The texts that were really measured, in order."""
        seen = []

        def counting(model, text, batch_tokens):
            seen.append(text.source)
            return held_out(model, text, batch_tokens)

        monkeypatch.setattr("optishear.runs.held_out.held_out", counting)
        return seen

    @pytest.fixture(scope="class")
    def first(self, tmp_path_factory):
        """A run whose measurements are all that its cache remembers, and its folder."""
        folder = tmp_path_factory.mktemp("first")
        with pytest.MonkeyPatch.context() as patch:
            return with_own_cache(experiment(folder, search=FEW), folder, patch), folder

    def test_what_runs_share_is_measured_once_and_comes_out_the_same(
        self, tmp_path, monkeypatch, counted, first
    ):
        plan = experiment(tmp_path, search=FEW)
        run = with_own_cache(plan, tmp_path, monkeypatch)
        assert len(run.evaluation) == 7  # dense, and two baselines and found, twice
        assert len(counted) == 6  # magnitude reads no statistics, so both modes are one
        monkeypatch.setenv("OPTISHEAR_CACHE", str(first[1] / "cache"))
        again = search(plan, tmp_path / "b", Silent())
        assert len(counted) == 6
        assert again.directory.evaluation.read_bytes() == run.directory.evaluation.read_bytes()

    @pytest.mark.parametrize(
        ("changes", "new"),
        [
            ({"baselines": ["magnitude", "wanda", "ria"]}, 2),
            ({"batch_tokens": 64}, 6),  # sums in another order
            ({"search": {**FEW, "seed": 2}}, 6),  # other texts
        ],
    )
    def test_what_is_not_the_same_is_measured(
        self, tmp_path, monkeypatch, counted, first, changes, new
    ):
        shutil.copytree(first[1] / "cache", tmp_path / "cache")
        monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
        plan = experiment(tmp_path, **{"search": FEW, **changes})
        search(plan, tmp_path / "r", Silent())
        assert len(counted) == new


def struck(blow):
    """The blow falls while the sixth candidate is there as a value, and nowhere else yet."""
    append = Journal.append

    def fall(self, *evaluation):
        if len(self.entries) == 5:
            signal.raise_signal(blow)
        return append(self, *evaluation)

    Journal.append = fall


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The finished run of `BASE`, for all who only read it or change a copy."""
    folder = tmp_path_factory.mktemp("unbroken")
    return search(experiment(folder), folder / "r", Silent())


def copied(run, results):
    """The same run as a search that writes to `results` left it."""
    folder = results / run.directory.path.parent.name / run.directory.path.name
    shutil.copytree(run.directory.path, folder)
    return open_run(folder)


def killed(words, monkeypatch):
    """In a process of its own."""
    blow = f"import signal\nfrom optishear.records.journal import Journal\n{getsource(struck)}"
    code = f"{blow}\nstruck(signal.SIGKILL)\nfrom optishear.cli import app\napp({words!r})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


def interrupted(words, monkeypatch):
    """Here; shells start background jobs with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", Journal.append)  # put back afterwards
            struck(signal.SIGINT)
            done = CliRunner().invoke(app, words)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.exit_code == 130
    assert "nothing that was finished is lost" in done.stderr


@pytest.mark.parametrize("stopped", [killed, interrupted])
def test_a_killed_run_resumes_pays_for_nothing_twice_and_ends_with_the_same_front(
    tmp_path, stopped, unbroken, monkeypatch
):
    path = config(tmp_path)
    stopped(["search", str(path), "--out", str(tmp_path / "killed")], monkeypatch)
    [journal] = tmp_path.glob("killed/*/*/journal.jsonl")
    lost = journal.read_bytes()[:-7]  # and the tail of the last line with it
    journal.write_bytes(lost)
    kept = lost.count(b"\n") - 1
    assert kept == 4
    got = search(load_experiment(str(path)), tmp_path / "killed", Silent())
    assert got.manifest["measured_now"] == len(journal_values(unbroken)) - kept
    assert journal_values(got) == journal_values(unbroken)
    assert got.directory.front.read_bytes() == unbroken.directory.front.read_bytes()


def test_a_damaged_file_of_a_finished_run_is_written_again_as_it_was(tmp_path, unbroken):
    """From the journal alone: nothing is measured, and what was whole is what it was."""
    plan, run = experiment(tmp_path), copied(unbroken, tmp_path / "r")
    paths = {name: getattr(run.directory, name) for name in ("front", "evaluation", "layout")}
    before = {name: path.read_bytes() for name, path in paths.items()}
    for path in paths.values():
        path.write_bytes(path.read_bytes()[:40])
    run.directory.manifest.write_text("{")
    told = Told()
    again = search(plan, tmp_path / "r", told)
    assert {name: path.read_bytes() for name, path in paths.items()} == before
    assert (again.manifest["status"], again.manifest["measured_now"]) == ("finished", 0)
    assert "manifest.json: is not JSON" in told.stages[0]
    told = Told()
    search(plan, tmp_path / "r", told)
    assert "nothing to do" in told.stages[0]


class Told(Silent):
    def __init__(self):
        self.stages = []

    def stage(self, text):
        self.stages.append(text)


def test_a_run_of_another_measure_is_refused_and_keeps_what_it_has(tmp_path):
    plan = experiment(tmp_path, threads=None, search={"population": 2, "evaluations": 2})
    run = search(plan, tmp_path / "r", Silent())
    manifest = json.loads(run.directory.manifest.read_text())
    run.directory.manifest.write_text(json.dumps(manifest | {"status": "running"}))
    header, *lines = run.directory.journal.read_text().splitlines()
    other = json.loads(header)
    other["measure"]["threads"] = 99
    changed = "\n".join([json.dumps(other), *lines]) + "\n"
    run.directory.journal.write_text(changed)
    with pytest.raises(ConfigError, match="threads was 99"):
        search(plan, tmp_path / "r", Silent())
    assert run.directory.journal.read_text() == changed


def test_a_run_in_use_is_refused_before_the_model_is_loaded(tmp_path):
    plan = experiment(tmp_path, model="org/never-loaded")
    folder = tmp_path / "r" / "mine" / plan.hash
    folder.mkdir(parents=True)
    with Journal(folder / "journal.jsonl", {}, []):
        with pytest.raises(ConfigError, match="another process is writing"):
            search(plan, tmp_path / "r", Silent())


def test_texts_that_share_words_are_refused(tmp_path):
    words = " ".join(f"word{i}" for i in range(3000))
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(words)
    texts = {
        purpose: {
            "source": str(tmp_path / f"{n}.txt"),
            "split": "all",
            "sequences": 0,
            "seq_len": 64,
        }
        for purpose, n in (("calibration", "a"), ("search", "b"), ("evaluation", "c"))
    }
    with pytest.raises(ConfigError, match="calibration"):
        search(experiment(tmp_path, text=texts), tmp_path / "r", Silent())


def test_a_text_too_short_says_how_much_there_is(tmp_path):
    (tmp_path / "short.txt").write_text("A short text. " * 20)
    text = {"source": str(tmp_path / "short.txt"), "split": "all", "sequences": 99, "seq_len": 64}
    plan = experiment(tmp_path, text={**BASE["text"], "search": text})
    with pytest.raises(ConfigError, match="windows of 64, but 99 were asked for"):
        search(plan, tmp_path / "r", Silent())


def test_a_front_of_three_objectives_is_drawn_and_picked(tmp_path, monkeypatch):
    monkeypatch.setattr("optishear.runs.search.draw_figures", draw_figures)
    plan = experiment(
        tmp_path,
        objectives=["sparsity", "reconstruction", "kl"],
        search={"driver": "nsga3", "population": 8, "evaluations": 8},
    )
    run = search(plan, tmp_path / "r", Silent())
    assert len(run.front.pick("knee").values) >= 4
    assert {p.suffix for p in run.directory.figures.iterdir()} == {".png", ".svg"}


def test_an_exact_budget_holds_for_every_recipe(tmp_path):
    plan = experiment(tmp_path, space="blocks")
    run = search(plan, tmp_path / "r", Silent())
    _, entries, _ = read_journal(run.directory.journal)
    assert len({sum(entry["drop"]) for entry in entries}) == 1
    best = run.front.pick()
    assert best.values["kl"] == min(e["values"]["kl"] for e in entries if e["values"])


def test_a_baseline_is_the_published_method_in_the_mode_of_the_row_it_stands_beside(tmp_path):
    space = {"pattern": "layer", "sparsity": {"by": "block", "budget": 0.6}}
    settings = {"population": 4, "evaluations": 4}
    names = ["magnitude", "wanda", "wanda:layer"]
    plan = experiment(tmp_path, space=space, search=settings, baselines=names)
    run = search(plan, tmp_path / "r", Silent())
    rows = {row["name"]: row for row in run.evaluation}
    once = [*names, "found"]
    assert [*rows] == ["dense", *once, *(f"{name}, block by block" for name in once)]
    for mode, ending in (("one-shot", ""), ("sequential", ", block by block")):
        told = [rows[f"{name}{ending}"] for name in once]
        assert {row["mode"] for row in told} == {mode}
        assert [row["pattern"] for row in told] == ["layer", "row", "layer", "layer"]
        assert len({row["sparsity"] for row in told}) == 1
    [text] = rows["dense"]["texts"]
    numbers = {name: row["texts"][text] for name, row in rows.items()}
    perplexity = {name: found["perplexity"] for name, found in numbers.items()}
    assert perplexity["wanda"] != perplexity["wanda:layer"]
    assert perplexity["wanda"] != perplexity["wanda, block by block"]
    assert perplexity["magnitude"] == perplexity["magnitude, block by block"]
    gain = numbers["wanda, block by block"]["fewer_nats"]["found, block by block"]["mean"]
    table = run_table([run.directory])
    column = "embedded/evaluation: gain over wanda, block by block"
    assert table[column].tolist() == [pytest.approx(-gain)]


def test_n_of_m_recipes_are_searched_pruned_and_checked(tmp_path):
    plan = experiment(tmp_path, space="n_of_4")
    run = search(plan, tmp_path / "r", Silent())
    front = run.front
    for entry in front.entries:
        entry.recipe.check(front.layout)
        assert 0.499 < front.layout.sparsity(entry.recipe.drop) <= 0.5


def test_random_is_a_floor_and_magnitude_loses_to_wanda_on_the_embedded_model(tmp_path):
    """What the model card claims, at 60 % a row: dense < Wanda < magnitude < random."""
    text = {**BASE["text"]}
    text["calibration"] = {**text["calibration"], "sequences": 16, "seq_len": 128}
    text["evaluation"] = {**text["evaluation"], "sequences": 24, "seq_len": 128}
    plan = experiment(
        tmp_path,
        model="embedded",
        text=text,
        space={"sparsity": {"by": "block", "budget": 0.6}},
        search={"population": 2, "evaluations": 2},
        baselines=["random", "magnitude", "wanda"],
    )
    rows = {row["name"]: row for row in search(plan, tmp_path / "r", Silent()).evaluation}
    [text] = rows["dense"]["texts"]
    dense, wanda, magnitude, floor = (
        rows[name]["texts"][text]["perplexity"]
        for name in ("dense", "wanda", "magnitude", "random")
    )
    assert dense * 1.1 < wanda < magnitude < floor / 3
    gap = rows["wanda"]["texts"][text]["fewer_nats"]["magnitude"]
    assert gap["mean"] > 2 * gap["error"]


def test_open_run_reads_what_search_wrote(unbroken):
    again = open_run(unbroken.directory.path.parent)
    assert again.front == unbroken.front
    assert torch.get_num_threads() >= 1
