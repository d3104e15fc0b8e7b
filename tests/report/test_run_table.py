"""Runs side by side: what is in the table is what their files say, and nothing of a dirty tree."""

import json

import pytest
from drawable_run import finish, held_out_rows, make_run

from optishear.records.run_directory import read_json, write_json
from optishear.report.run_table import brief_table, finished_runs, markdown, run_table


def made(folder, seed=3, dirty=False, status="finished", name="made up", **rows):
    run = finish(make_run(folder, candidates=5), name=name, status=status, **rows)
    manifest = read_json(run.manifest)
    manifest |= {"evaluations": 5, "failed": 0, "seconds": 1.5, "hash": folder.name}
    manifest["code"]["dirty"] = dirty
    manifest["experiment"]["search"]["seed"] = seed
    manifest["experiment"]["memory"] = {"ranks": seed}
    write_json(run.manifest, manifest)
    return run


@pytest.fixture
def three(tmp_path):
    runs = [made(tmp_path / "one" / f"r{seed}", seed) for seed in (0, 1)]
    return [*runs, made(tmp_path / "two" / "other", name="another")]


def test_runs_are_found_by_experiment_wherever_they_lie(three, tmp_path):
    found = finished_runs([tmp_path])
    assert {name: len(runs) for name, runs in found.items()} == {"made up": 2, "another": 1}


def test_unfinished_runs_and_those_of_a_changed_checkout_stay_out(tmp_path):
    made(tmp_path / "a" / "dirty", dirty=True)
    made(tmp_path / "a" / "running", status="running")
    assert finished_runs([tmp_path]) == {}
    assert [r.path.name for r in finished_runs([tmp_path], dirty=True)["made up"]] == ["dirty"]


def test_columns_are_what_differs_and_memory_is_no_difference(three):
    table = run_table(three[:2])
    assert table["search.seed"].tolist() == [0, 1]
    assert not [c for c in table.columns if "memory" in c or c == "search.driver"]
    assert "search.seed" not in run_table(three[:1]).columns


def test_numbers_are_those_of_the_evaluation(three):
    rows = read_json(three[0].evaluation)["rows"]
    table = run_table(three[:1])
    by_name = {row["name"]: row for row in rows}
    for text, numbers in by_name["wanda"]["texts"].items():
        short = text.partition(",")[0]
        assert table[f"{short}: wanda"][0] == numbers["perplexity"]
        assert table[f"{short}: wanda ±"][0] == numbers["error"]
        gain = numbers["fewer_nats"]["found"]
        assert table[f"{short}: gain over wanda"][0] == -gain["mean"]
    for name, value in by_name["found"]["search"].items():
        assert table[f"found.{name}"][0] == value


def test_the_brief_one_names_the_best_baseline_of_each_text(three):
    rows = held_out_rows()
    [row] = brief_table(three[:1]).to_dict(orient="records")
    [text] = rows[0]["texts"]
    fixed = {
        r["name"]: r["texts"][text]["perplexity"]
        for r in rows
        if r["name"] in ("magnitude", "wanda")
    }
    best = min(fixed, key=fixed.get)
    assert row["best baseline"].startswith(f"{best} {fixed[best]:.2f}")
    assert row["held-out text"] == text.partition(",")[0]


def test_as_markdown_a_value_and_its_error_share_a_cell(three):
    lines = markdown(run_table(three[:2])).splitlines()
    assert len(lines) == 4
    assert len({line.count(" | ") for line in lines}) == 1
    assert " ± " in lines[2]
    assert "± |" not in lines[0]


def test_the_command_writes_what_it_prints(three, tmp_path):
    from typer.testing import CliRunner

    from optishear.cli import app

    def invoke(*words):
        return CliRunner().invoke(app, [str(word) for word in ("table", tmp_path, *words)])

    printed = json.loads(invoke("--json").stdout)
    assert {name: len(rows) for name, rows in printed.items()} == {"made up": 2, "another": 1}
    assert invoke("--to", tmp_path / "t.csv").exit_code == 0
    assert (tmp_path / "t.csv").read_text().count("\n") == 4
    assert invoke("--to", tmp_path / "t.md").exit_code == 0
    assert "## another" in (tmp_path / "t.md").read_text()
    assert invoke("--to", tmp_path / "t.txt").exit_code == 2
    assert "best baseline" in invoke().stdout
