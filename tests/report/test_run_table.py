"""Runs side by side: what is in the table is what their files say, and nothing of a dirty tree."""

import json
from pathlib import Path

import pandas as pd
import pytest
from drawable_run import finish, held_out_rows, make_run

from optishear.errors import ConfigError
from optishear.records.run_directory import read_json, write_json
from optishear.report.chosen_table import chosen_table
from optishear.report.filled_page import filled
from optishear.report.run_table import (
    as_text,
    brief_table,
    cells,
    finished_runs,
    markdown,
    run_table,
)


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


def test_what_found_nothing_better_gains_0_and_not_minus_0(three):
    saved = read_json(three[0].evaluation)
    for row in saved["rows"]:
        for numbers in row["texts"].values():
            for gain in numbers.get("fewer_nats", {}).values():
                gain |= {"mean": 0.0, "error": 0.0}
    write_json(three[0].evaluation, saved)
    for table in (run_table(three[:1]), brief_table(three[:1])):
        assert "-0" not in markdown(table)


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


class TestChosen:
    @pytest.fixture
    def runs(self, tmp_path):
        made_ones = []
        for seed in (0, 1, 2):
            for driver in ("random", "nsga2"):
                run = made(tmp_path / f"{driver}{seed}", seed)
                manifest, evaluation = read_json(run.manifest), read_json(run.evaluation)
                manifest["experiment"]["search"]["driver"] = driver
                for row in evaluation["rows"]:
                    for numbers in row["texts"].values():
                        numbers["perplexity"] += seed
                write_json(run.manifest, manifest)
                write_json(run.evaluation, evaluation)
                made_ones.append(run)
        return made_ones

    def test_seeds_are_averaged_with_their_range_and_pooled_error(self, runs):
        table, whole = chosen_table(runs, over=["search.seed"]), run_table(runs)
        assert table["search.driver"].tolist() == ["nsga2", "random"]
        assert table["runs"].tolist() == [3, 3]
        found = next(c for c in whole.columns if c.endswith(": found"))
        own = whole[whole["search.driver"] == "random"]
        row = table.iloc[1]
        assert row[found] == pytest.approx(own[found].mean())
        assert (row[f"{found} low"], row[f"{found} high"]) == (own[found].min(), own[found].max())
        pooled = (own[f"{found} ±"] ** 2).sum() ** 0.5 / 3
        assert row[f"{found} ±"] == pytest.approx(pooled)
        assert "search.seed" not in table.columns

    def test_rows_and_columns_are_those_asked_for(self, runs):
        table = chosen_table(
            runs, {"search.driver": "nsga2", "search.seed": "1"}, (), ["*: found", "run"]
        )
        assert len(table) == 1
        text = next(c for c in table.columns if c.endswith(": found"))
        assert list(table.columns) == [text, f"{text} ±", "run"]

    def test_what_there_is_not_is_refused(self, runs):
        with pytest.raises(ConfigError, match=r"'search.sed'. Did you mean 'search.seed'"):
            chosen_table(runs, over=["search.sed"])
        with pytest.raises(ConfigError, match=r"No column matches '\*nothing'"):
            chosen_table(runs, columns=["*nothing"])

    def test_an_error_says_how_many_digits_are_shown(self, runs):
        table = pd.DataFrame({"a.b": [1.23456], "a.b ±": [0.0123], "c": [2 / 3]})
        assert markdown(table).splitlines()[2] == "| 1.235 ± 0.012 | 0.6667 |"
        spread = table.assign(**{"a.b low": [1.2], "a.b high": [1.3]})
        assert "1.235 ± 0.012 (1.200 to 1.300)" in markdown(spread)


class TestFilledPage:
    PAGE = "# Title\n\n<!-- optishear table {} -->\nold\n<!-- end of table -->\n\nAfter.\n"

    def test_a_marked_table_is_what_its_command_says(self, three, tmp_path):
        words = f"'{tmp_path / 'one'}' --columns run,search.seed"
        page = filled(self.PAGE.format(words), "page.md")
        table = markdown(run_table(three[:2])[["run", "search.seed"]])
        assert page == self.PAGE.format(words).replace("old\n", f"\n{table}\n")
        assert filled(page, "page.md") == page

    @pytest.mark.parametrize(
        ("page", "message"),
        [
            ("# Nothing\n", "holds no line"),
            ("<!-- optishear table x -->\nold\n", "has no end"),
            ("<!-- optishear table x -->\n<!-- end of table -->\n", "no such folder"),
            ("<!-- optishear table x --colums y -->\n<!-- end of table -->\n", "--colums"),
            ("<!-- optishear table 'x -->\n<!-- end of table -->\n", "quotation"),
        ],
    )
    def test_a_wrong_page_is_refused_with_its_name(self, page, message):
        with pytest.raises(ConfigError, match=rf"page\.md.*{message}"):
            filled(page, "page.md")


def test_the_tables_of_the_results_are_what_their_files_say(monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root)
    pages = {path: path.read_text() for path in (root / "results").glob("*.md")}
    marked = {path: page for path, page in pages.items() if "<!-- optishear table" in page}
    assert len(marked) >= 3
    for path, page in marked.items():
        assert filled(page, path.name) == page, f"run: optishear table --into {path}"


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
    page = tmp_path / "page.md"
    page.write_text(f"<!-- optishear table {tmp_path / 'two'} -->\n<!-- end of table -->\n")

    def into(*words):
        return CliRunner().invoke(app, ["table", "--into", str(page), *words])

    assert "renewed" in into().stdout
    assert "as they were" in into().stdout
    assert "| run |" in page.read_text()
    assert into("--over", "search.seed").exit_code == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (0.123456, "0.1235"),
        (3, "3"),
        (True, "true"),
        ("wanda", "wanda"),
        (["kl", "taylor"], "kl, taylor"),
        ([{"name": "mask"}, {"name": "refit", "of": "mask"}], "mask, refit(of=mask)"),
        ({"name": "power", "alpha": {"real": [0.5, 2.0]}, "mix": 0.5}, "power(alpha, mix=0.5)"),
        ({"real": [0.5, 2.0]}, "(real=0.5, 2)"),
    ],
)
def test_a_setting_is_written_as_a_person_would(value, text):
    assert as_text(value) == text


def test_a_cell_is_empty_where_a_run_has_no_such_number():
    gap = float("nan")
    table = pd.DataFrame([{"x": gap, "x ±": gap, "x low": gap, "x high": gap}])
    assert cells(table) == [["x"], [""]]
