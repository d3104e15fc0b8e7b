"""`optishear plan` as one reads it, and its exit codes."""

import json

import pytest
import yaml
from small_experiment import EMBEDDED
from typer.testing import CliRunner

from optishear.cli import app
from optishear.cli.plan_page import seconds_text


def invoke(folder, *words, **changes):
    small = {**EMBEDDED, "space": "blocks", "search": {"population": 4, "evaluations": 8}}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(small | changes))
    return CliRunner().invoke(app, ["plan", str(path), "--out", str(folder / "out"), *words])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.7, "1 min 0 s"),
        (200.0, "3 min 20 s"),
        (18_600.0, "5 h 10 min"),
        (187_300.0, "2 d 4 h"),
    ],
)
def test_times_have_two_units(seconds, text):
    assert seconds_text(seconds) == text


def test_a_page_has_every_part_and_ends_with_the_problems(tmp_path):
    result = invoke(tmp_path)
    assert result.exit_code == 0, result.output
    parts = ["model: embedded", "space: 6 continuous genes", "kept in the cache", "memory at its"]
    parts += ["time, an estimate", "8 candidates on 128 tokens", "all that is to come", "run: "]
    places = [result.stdout.index(part) for part in [*parts, "problems: none found"]]
    assert places == sorted(places)
    assert not (tmp_path / "out").exists()


def test_a_search_that_would_be_refused_is_exit_code_2_with_a_page_and_with_json(tmp_path):
    changes = {"baselines": ["wnada"], "pick": "kneee"}
    page = invoke(tmp_path, **changes)
    assert page.exit_code == 2
    assert page.stdout.count("mistake: ") == 2
    told = invoke(tmp_path, "--json", **changes)
    assert told.exit_code == 2
    findings = json.loads(told.stdout)["findings"]
    assert [f"mistake: {text}" in page.stdout for text in findings["mistakes"]] == [True, True]


def test_no_room_on_the_disk_is_exit_code_1(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTISHEAR_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    result = invoke(tmp_path)
    assert result.exit_code == 1
    assert "failure: " in result.stdout
