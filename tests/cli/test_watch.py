"""`watch` and `dashboard` through the public door: on runs that go on, were stopped, are over."""

import json
import os
import re
import shutil
import sys
import urllib.request
from datetime import UTC, datetime

import pytest
import yaml
from made_up_run import NAMES, begin, go_on
from small_experiment import EMBEDDED
from typed import invoke
from typer.testing import CliRunner

from optishear.cli import app
from optishear.cli.progress_view import status_text
from optishear.records.journal import Journal
from optishear.records.run_directory import RunDirectory, read_json, write_json
from optishear.report.optuna_mirror import Mirror, open_storage
from optishear.report.watching import RunWatch


pytestmark = pytest.mark.usefixtures("searches_draw_nothing")


def watched(directory, code=0):
    return json.loads(invoke("watch", directory.path, "--once", "--json", code=code).stdout)


def files_of(directory):
    return {path: path.stat().st_mtime_ns for path in directory.path.rglob("*")}


def test_a_run_before_its_first_evaluation(tmp_path):
    directory = begin(tmp_path)
    look = watched(directory)
    assert (look["status"], look["has_writer"], look["last_evaluation"]) == ("running", False, None)
    assert look["state"]["asked"] == 0
    assert "no evaluation yet" in invoke("watch", directory.path, "--once").stdout


def test_a_run_that_goes_on_and_one_that_was_stopped(tmp_path):
    directory = begin(tmp_path, rungs=(128, 512))
    go_on(directory, until=25)
    before = files_of(directory)
    stopped = invoke("watch", directory.path, "--once").stdout
    assert "no process here is writing" in stopped
    assert "25/60" in stopped
    assert "25/60 on 128, 0/1" in stopped
    with Journal(directory.journal, {"model": "stand-in"}, NAMES):
        look = watched(directory)
        assert look["has_writer"]
        assert "running, last evaluation" in invoke("watch", directory.path, "--once").stdout
    assert files_of(directory) == before
    journal = directory.journal.read_text().splitlines()
    assert [e["key"] for e in look["latest"]] == [json.loads(x)["key"] for x in journal[-5:]]
    assert datetime.fromisoformat(look["last_evaluation"]).tzinfo is not None


def test_a_torn_last_line_and_a_copy_that_may_not_be_written_to(tmp_path):
    directory = begin(tmp_path)
    go_on(directory, until=10)
    want = watched(directory)
    with directory.journal.open("ab") as file:
        file.write(b'{"key": "b", "val')
    assert watched(directory)["state"] == want["state"]
    directory.journal.with_suffix(".lock").unlink()
    directory.journal.chmod(0o444)
    assert watched(directory)["state"] == want["state"]


def test_it_follows_until_the_manifest_says_finished(tmp_path, monkeypatch):
    directory = begin(tmp_path)
    naps = iter([10, 30, None])

    def meanwhile(seconds):
        assert seconds == 7
        go_on(directory, until=next(naps))

    monkeypatch.setattr("optishear.cli.watch_commands.sleep", meanwhile)
    lines = invoke("watch", directory.path, "--every", 7, "--json").stdout.splitlines()
    assert [json.loads(line)["state"]["asked"] for line in lines] == [0, 10, 30, 60]
    assert json.loads(lines[-1])["ended"]


def test_in_a_pipe_it_says_one_line_whenever_something_is_new(tmp_path, monkeypatch):
    directory = begin(tmp_path)
    naps = iter([10, 10, None])
    monkeypatch.setattr(
        "optishear.cli.watch_commands.sleep", lambda _: go_on(directory, until=next(naps))
    )
    printed = invoke("watch", directory.path).stdout
    # Whatever follows: a made-up evaluation can be too fast to have a rate.
    assert re.findall(r"^ +(\d+/60)", printed, re.MULTILINE) == ["10/60", "60/60"]


def test_a_run_that_failed_ends_with_exit_code_1(tmp_path):
    directory = begin(tmp_path)
    go_on(directory, until=10)
    write_json(directory.manifest, read_json(directory.manifest) | {"status": "failed"})
    assert watched(directory, code=1)["status"] == "failed"
    assert "made-up abc123 on none: failed" in invoke("watch", directory.path, code=1).stdout


def test_what_cannot_be_told_is_not_said(tmp_path, monkeypatch):
    directory = begin(tmp_path)
    go_on(directory, until=3)
    monkeypatch.setattr("optishear.report.watching.has_writer", lambda path: None)
    os.utime(directory.journal, (1000, 1000))
    text = status_text(RunWatch(directory).snapshot(), datetime.fromtimestamp(1090, UTC))
    assert text.startswith("last evaluation 90 s ago; whether it is still running cannot be told")


@pytest.mark.parametrize("command", ["watch", "dashboard"])
def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, command):
    assert "holds no run" in invoke(command, tmp_path, code=2).stderr


def test_the_dashboard_needs_its_package_and_says_which(tmp_path, monkeypatch):
    directory = begin(tmp_path)
    go_on(directory, until=5)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    said = invoke("dashboard", directory.path, code=2).stderr
    assert 'pip install "optishear[dashboard]"' in said
    assert not directory.study.exists()
    told = json.loads(invoke("dashboard", directory.path, "--no-serve", "--json").stdout)
    assert (told["trials"], told["url"]) == (5, None)
    assert directory.study.exists()
    other = tmp_path / "other" / "study.db"
    text = invoke("dashboard", directory.path, "--no-serve", "--study", other).stdout
    assert "study: made-up abc123, 512 tokens" in text
    assert other.exists()


def test_the_dashboard_shows_the_study_and_what_comes_while_it_is_open(tmp_path, monkeypatch):
    pytest.importorskip("optuna_dashboard", reason="needs the extra `dashboard`")
    from optishear.report.dashboard import Dashboard

    directory, show, urls, studies = begin(tmp_path), Dashboard.show, [], []
    servers = []
    go_on(directory, until=20)

    def remember(self, storage, study_id):
        servers.append(self._server)
        urls.append(show(self, storage, study_id))
        return urls[0]

    def meanwhile(_):
        with urllib.request.urlopen(urls[0].replace("/dashboard/", "/api/")) as answer:
            studies.append(json.load(answer))
        if len(studies) == 2:
            raise KeyboardInterrupt
        go_on(directory)

    monkeypatch.setattr(Dashboard, "show", remember)
    monkeypatch.setattr("optishear.cli.watch_commands.sleep", meanwhile)
    result = invoke("dashboard", directory.path, "--port", 0)
    assert urls[0] in result.stdout
    assert "40 new, 60 in all" in result.stderr
    assert studies[0]["name"] == "made-up abc123, 512 tokens"
    assert [len(study["trials"]) for study in studies] == [20, 60]
    assert servers[0].socket.fileno() == -1  # closed; its port may be somebody else's by now


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A small real search followed by a program; the folder, the run's, and what it said."""
    folder = tmp_path_factory.mktemp("watch")
    settings = {"population": 4, "evaluations": 8, "rungs": [64]}
    path = folder / "real.yaml"
    text = yaml.safe_dump({**EMBEDDED, "search": settings})
    path.write_text("# Hypothesis: it can be followed.\n" + text)
    words = ["search", str(path), "--out", str(folder / "results"), "--log-json", "--json"]
    with pytest.MonkeyPatch.context() as patch:  # nothing is known of its held-out comparison
        patch.setenv("OPTISHEAR_CACHE", str(folder / "cache"))
        result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout), result.stderr


def test_a_real_search_says_all_in_json_and_watch_the_same_afterwards(searched, tmp_path):
    printed, said = searched
    events = [json.loads(line) for line in said.splitlines()]
    kinds = [event["event"] for event in events]
    assert {"stage", "evaluation", "progress", "block", "finished"} <= set(kinds)
    assert kinds[-1] == "finished"
    assert events[-1]["run"] == printed["run"]
    assert kinds.count("evaluation") == 8 + 4
    look = json.loads(invoke("watch", printed["run"], "--once", "--json").stdout)
    last = [event for event in events if event["event"] == "progress"][-1]
    for key in ("front", "best", "values", "hypervolume", "rungs", "failed", "per_second"):
        assert last[key] == look["state"][key]
    front = json.loads(invoke("front", printed["run"], "--json").stdout)
    directory = RunDirectory(tmp_path / "copy")
    shutil.copytree(printed["run"], directory.path)
    keys = {entry["key"] for entry in front["entries"]}
    assert set(RunWatch(directory).snapshot().state.front) == keys
    mirror = Mirror(directory, open_storage(directory.study))
    mirror.update()
    [study] = mirror.storage.get_all_studies()
    assert study.study_name == mirror.name
    assert (mirror.trials, mirror.failed) == (4, 0)
    other = invoke("search", "nowhere.yaml", "--log-json", code=2)
    error = json.loads(other.stderr)
    assert (error["event"], error["exit_code"]) == ("error", 2)
    assert not other.stdout
