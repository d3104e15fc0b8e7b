"""Several processes on one study: what one has measured the others know, and all end together."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_experiment import EMBEDDED
from tiny_folders import tiny_folder
from typer.testing import CliRunner

from optishear.cli import app
from optishear.records.journal import read_journal
from optishear.runs.results import open_run
from optishear.search.front import non_dominated
from optishear.search.shared_study import SharedStudy


SEARCH = {"driver": "tpe", "population": 4, "evaluations": 10}


# Obeys commands that it is given a line each, and answers with their exit codes; where it joins a
# study it says so, and waits for whoever else does.
MATE = """
import json, sys
from optishear.cli import app
from optishear.runs import search
from optishear.search.shared_study import SharedStudy
search.draw_figures = lambda directory: []
join, answers, sys.stdout = SharedStudy.join, sys.stdout, sys.stderr
def together(study, driver):
    join(study, driver)
    print("joined", file=answers, flush=True)
    sys.stdin.readline()
SharedStudy.join = together
while words := sys.stdin.readline():
    try:
        app(json.loads(words))
    except SystemExit as end:
        print(end.code, file=answers, flush=True)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder("llama", tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture
def config(model, tmp_path):
    path = tmp_path / "shared.yaml"
    path.write_text(yaml.safe_dump({**EMBEDDED, "model": model, "search": SEARCH}))
    return path


@pytest.fixture(scope="module")
def mate():
    """Another process, one for all: to start it takes longer than to search."""
    command = [sys.executable, "-c", MATE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def words(config, out, study, *more):
    return ["search", str(config), "--out", str(out), "--study", str(study), *more]


@pytest.fixture
def both(config, mate, tmp_path, monkeypatch):
    """Lets two processes, of which this is one, search a study at once; their runs."""
    join = SharedStudy.join

    def together(self, driver):
        join(self, driver)
        assert mate.stdout.readline() == "joined\n"
        mate.stdin.write("\n")

    def searched(study):
        monkeypatch.setattr(SharedStudy, "join", together)
        outs = [tmp_path / name for name in ("one", "two")]
        mate.stdin.write(json.dumps(words(config, outs[0], study)) + "\n")
        result = CliRunner().invoke(app, words(config, outs[1], study))
        assert (result.exit_code, mate.stdout.readline()) == (0, "0\n"), result.output
        return [open_run(out / "shared") for out in outs]

    return searched


def recipes(run):
    _, entries, _ = read_journal(run.directory.journal)
    return {entry["key"]: entry for entry in entries}


def is_one_search(runs):
    """One budget, and a front of everything for whoever ended last. That what is known is not
    measured again is held below: here both may measure one recipe at the same moment."""
    known = [recipes(run) for run in runs]
    together = known[0] | known[1]
    more = 2 + 2 * 2  # each may ask for one too many, and measures its own two baselines
    assert SEARCH["evaluations"] <= len(together) <= SEARCH["evaluations"] + more
    # How they share it out depends on who begins first; but one is told what the other measured.
    assert any(entry.get("memo") for own in known for entry in own.values())
    last = max(runs, key=lambda run: run.manifest["finished"])
    assert "the shared study holds" in last.manifest["ended"]
    for run in runs:
        assert {e.recipe.key for e in run.front.entries} <= recipes(run).keys()


def test_two_processes_search_one_study_in_a_file(both, tmp_path):
    is_one_search(both(tmp_path / "study.log"))


def test_a_third_process_finds_all_there_is(config, tmp_path):
    study = tmp_path / "study.log"
    for name in ("one", "two"):
        result = CliRunner().invoke(app, words(config, tmp_path / name, study))
        assert result.exit_code == 0, result.output
    first, second = (open_run(tmp_path / name / "shared") for name in ("one", "two"))
    # Nothing but its own baselines, and one that it may ask for before it knows all: which that is
    # hangs on the moment, and it may be better than one of the first's front.
    assert second.manifest["measured_now"] <= 3
    assert recipes(first).keys() <= recipes(second).keys()
    objectives = first.front.objectives.items()
    found = {
        e.recipe.key: [-e.values[name] if up else e.values[name] for name, up in objectives]
        for run in (second, first)
        for e in run.front.entries
    }
    best = [[*found][index] for index in non_dominated(np.array([*found.values()]))]
    assert set(best) == {e.recipe.key for e in second.front.entries}


@pytest.mark.parametrize(
    ("changes", "study", "message"),
    [
        ({"driver": "nsga2"}, "s.log", "needs a driver of Optuna's"),
        ({"rungs": [64]}, "s.log", "rungs are not climbed together"),
        ({}, "nonsense://x", "cannot be opened"),
        ({}, "postgresql://me:secret@127.0.0.1:1/none", "//…@127.0.0.1:1"),
    ],
)
def test_what_cannot_be_shared_is_refused(tmp_path, monkeypatch, changes, study, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**EMBEDDED, "search": SEARCH | changes}))
    result = CliRunner().invoke(app, words(path, tmp_path / "out", study))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "secret" not in result.stderr


def test_another_measure_is_refused(config, tmp_path):
    study = tmp_path / "study.log"
    few = ["--set", "search.evaluations=6"]
    assert CliRunner().invoke(app, words(config, tmp_path / "a", study, *few)).exit_code == 0
    text = study.read_text()
    assert '"batch_tokens":2048' in text
    study.write_text(text.replace('"batch_tokens":2048', '"batch_tokens":512'))
    result = CliRunner().invoke(app, words(config, tmp_path / "b", study, *few))
    assert result.exit_code == 2
    assert "its batch_tokens is 512, here it is 2048" in result.stderr


@pytest.fixture
def database(tmp_path):
    """A real PostgreSQL in a folder of its own, reached through a socket there."""
    pytest.importorskip("psycopg", reason="psycopg is an extra: pip install optishear[postgres]")
    found = shutil.which("initdb") or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
    )
    if found is None:
        pytest.skip("no PostgreSQL server is installed")
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to be root
    place = Path(subprocess.check_output(["mktemp", "-d", "/tmp/pg.XXXXXX"], text=True).strip())
    if user is not None:
        shutil.chown(place, user)

    def run(tool, *arguments):
        command = [str(Path(found).with_name(tool)), "-D", str(place / "data"), *arguments]
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, cwd=place)

    try:
        run("initdb", "--auth=trust", "--username=optishear", "--no-sync")
        options = f"-k {place} -c listen_addresses='' -c fsync=off"
        run("pg_ctl", "-w", "-l", str(place / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://optishear@/postgres?host={place}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_two_processes_search_one_study_in_postgresql(both, database):
    is_one_search(both(database))
