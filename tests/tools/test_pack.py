"""Packing loses nothing: every command that reads a run says the same of it packed."""

import json
import re
import shutil
import tarfile

import pytest
from drawable_run import finish, make_run
from typer.testing import CliRunner

from optishear.cli import app
from optishear.errors import ConfigError
from optishear.records.journal import Journal, memo_of
from optishear.records.packed import FILES
from optishear.records.run_directory import find_run, read_json, write_json
from optishear.runs.results import finished
from optishear.tools.pack import pack


ENDING = {"evaluations": 8, "failed": 0, "measured_now": 8, "seconds": 1.0, "rungs": [4096]}
CODE = {"commit": "0123456789abcdef", "dirty": False}


def made(folder, **changes):
    run = finish(make_run(folder, candidates=8, blocks=2), **ENDING, code=CODE, **changes)
    front = read_json(run.front)
    write_json(run.layout, front["layout"])
    write_json(run.front, front | {"made_with": {"model": "embedded"}})
    return run


@pytest.fixture
def run(tmp_path):
    return made(tmp_path / "made-up" / "abc")


@pytest.mark.parametrize(
    "words",
    [
        "front RUN --json",
        "front RUN --pick lowest:kl",
        "table RUN --json",
        "watch RUN --once",
        "export RUN --to OUT/recipe.json --json",
        "report RUN --to OUT/report.html --json",
        "dashboard RUN --no-serve --study OUT/optuna.log --json",
    ],
)
def test_a_command_says_the_same_of_a_packed_run(words, run, tmp_path):
    def said():
        out = tmp_path / "out"
        out.mkdir()
        given = words.replace("RUN", str(run.path)).replace("OUT", str(out))
        result = CliRunner().invoke(app, given.split())
        assert result.exit_code == 0, result.output
        report = out / "report.html"
        page = report.read_text().replace(".tar.xz", "") if report.exists() else ""
        shutil.rmtree(out)
        return re.sub(r"\d+ seconds? ago|just now|\"bytes\": \d+", "", result.stdout), page

    before = said()
    pack([run.path])
    assert not run.path.exists()
    assert said() == before


def test_plot_and_report_and_dashboard_leave_their_files_beside_a_packed_run(run):
    pack([run.path])
    for words in (["plot"], ["report"], ["dashboard", "--no-serve"]):
        result = CliRunner().invoke(app, [*words, str(run.path)])
        assert result.exit_code == 0, result.output
    made = {path.name for path in run.path.parent.iterdir() if not path.name.endswith(".lock")}
    assert made == {"abc.tar.xz", "abc.figures", "abc.report.html", "abc.optuna.log"}
    assert find_run(run.path.parent).path.name == "abc.tar.xz"


def test_all_finished_runs_below_a_folder_are_packed_and_the_others_stay(run, tmp_path):
    other = made(tmp_path / "other" / "def", status="running")
    result = CliRunner().invoke(app, ["pack", str(tmp_path), "--json"])
    [packed] = json.loads(result.stdout)["packed"]
    assert packed["file"] == f"{run.path}.tar.xz"
    assert packed["bytes"] < packed["unpacked"]
    assert other.manifest.exists()
    with pytest.raises(ConfigError, match="no finished run is there that is not packed"):
        pack([tmp_path])


def test_what_can_be_made_again_is_left_out_and_all_else_comes_back(run, tmp_path):
    for path in (run.finalists, run.curves, run.descent, run.slopes):  # which not every run has
        shutil.copyfile(run.journal, path)
        path.with_suffix(".lock").touch()
    held = {name: (run.path / name).read_bytes() for name in FILES}
    run.figures.mkdir()
    run.report.touch()
    [packed] = pack([run.path.parent])
    with tarfile.open(packed.path) as archive:
        archive.extractall(tmp_path / "back", filter="data")
    back = tmp_path / "back" / "abc"
    assert {path.name: path.read_bytes() for path in back.iterdir()} == held


def test_a_folder_that_holds_something_of_its_owner_is_not_packed(run):
    (run.path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"holds notes\.txt, which is no part of a run"):
        pack([run.path])
    assert run.journal.exists()


def test_a_damaged_run_is_not_packed(run):
    run.front.write_text("{")
    with pytest.raises(ConfigError, match=r"front\.json.*It is not packed"):
        pack([run.path])
    assert run.journal.exists()


def test_a_run_that_somebody_writes_to_is_not_packed(run):
    layers = [layer["name"] for layer in read_json(run.layout)]
    with Journal(run.journal, {"model": "made up"}, layers):
        with pytest.raises(ConfigError, match="another process is writing"):
            pack([run.path])
    assert run.journal.exists()


def test_of_several_runs_none_is_packed_if_one_is_damaged(run, tmp_path):
    made(tmp_path / "other" / "def").evaluation.unlink()
    with pytest.raises(ConfigError, match=r"evaluation\.json"):
        pack([tmp_path])
    assert run.journal.exists()


def test_a_packed_run_is_finished_and_a_memo_of_other_searches(run):
    layers = [layer["name"] for layer in read_json(run.layout)]
    known = memo_of([run.journal], {"model": "made up"}, layers)
    pack([run.path])
    packed = find_run(run.path)
    assert finished(packed) == (packed_manifest := read_json(packed.manifest), "")
    assert packed_manifest["status"] == "finished"
    assert len(known) == 8
    assert memo_of([packed.journal], {"model": "made up"}, layers) == known


def test_a_damaged_packed_run_is_neither_gone_on_with_nor_begun_anew(run):
    [packed] = pack([run.path])
    packed.path.write_bytes(packed.path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"is cut off .* in a folder only: unpack it \(tar xf"):
        finished(find_run(run.path))
