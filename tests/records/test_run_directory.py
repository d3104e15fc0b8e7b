import json
import subprocess

import pytest

from optishear.errors import ConfigError, StorageError
from optishear.records import manifest
from optishear.records.run_directory import RunDirectory, find_run, read_json, write_json


def test_a_run_is_found_by_its_folder_or_the_one_above(tmp_path):
    run = tmp_path / "results" / "quick" / "abc"
    run.mkdir(parents=True)
    write_json(run / "manifest.json", {"status": "finished"})
    assert find_run(run).path == run
    assert find_run(run.parent).path == run


def test_a_folder_without_or_with_several_runs_gets_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no such run"):
        find_run(tmp_path / "none")
    with pytest.raises(ConfigError, match="holds no run"):
        find_run(tmp_path)
    for name in ("a", "b"):
        write_json(tmp_path / name / "manifest.json", {})
    with pytest.raises(ConfigError, match="holds 2 runs, name one"):
        find_run(tmp_path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "front.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr("os.replace", _no_space)
    with pytest.raises(StorageError, match="No space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["front.json"]


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_missing_and_damaged_files_say_what_makes_them(tmp_path):
    with pytest.raises(ConfigError, match="run the search again"):
        read_json(tmp_path / "front.json")
    (tmp_path / "front.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        read_json(tmp_path / "front.json")


def test_siblings_are_the_other_runs_journals(tmp_path):
    for name in ("one/a", "one/b", "two/c"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").touch()
    own = RunDirectory(tmp_path / "one" / "a")
    assert [p.parent.name for p in own.siblings()] == ["b", "c"]


def test_changes_under_results_do_not_make_a_tree_dirty(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *words],
            check=True,
            capture_output=True,
        )

    git("init", "-q")
    package = tmp_path / "optishear" / "records"
    package.mkdir(parents=True)
    (package / "manifest.py").touch()
    git("add", "-A")
    git("commit", "-qm", "first")
    monkeypatch.setattr(manifest, "__file__", str(package / "manifest.py"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "journal.jsonl").write_text("x")
    clean = manifest.provenance()["code"]
    assert len(clean["commit"]) == 40
    assert not clean["dirty"]
    (package / "new.py").touch()
    assert manifest.provenance()["code"]["dirty"]
