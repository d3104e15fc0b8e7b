"""`optishear report` as a user meets it: one file, one line, sentences on what is missing."""

import json

from drawable_run import finish, make_run
from typer.testing import CliRunner

from optishear.cli import app


def invoke(*words):
    return CliRunner().invoke(app, ["report", *[str(word) for word in words]])


def test_writes_into_the_run_and_says_what_it_left_out(tmp_path):
    run = finish(make_run(tmp_path / "r", candidates=8, baselines=False))
    result = invoke(run.path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{run.path / 'report.html'}: 0.")
    assert "There is no comparison on held-out text yet" in result.stderr
    assert run.report.read_text().startswith("<!DOCTYPE html>")


def test_writes_where_it_is_told_and_answers_in_json(tmp_path):
    run = finish(make_run(tmp_path / "r", candidates=8))
    to = tmp_path / "new folder" / "page.html"
    answer = json.loads(invoke(run.path, "--to", to, "--json").stdout)
    assert answer["file"] == str(to)
    assert answer["bytes"] == to.stat().st_size
    assert len(answer["left_out"]) == 1
    assert not run.report.exists()


def test_another_ending_than_html_is_a_mistake(tmp_path):
    run = finish(make_run(tmp_path / "r", candidates=2))
    result = invoke(run.path, "--to", tmp_path / "page.pdf")
    assert result.exit_code == 2
    assert "name a file ending in .html" in result.stderr


def test_a_place_without_a_run_is_a_mistake(tmp_path):
    result = invoke(tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "there is no such run" in result.stderr
