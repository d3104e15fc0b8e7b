"""What a search says while it runs: to a person in a pipe, and to a program."""

import json
import logging

import pytest
import typer
from layouts import small_layout
from made_up_run import begin, go_on

from optishear.cli.json_log import JsonWatcher, json_on_stderr
from optishear.cli.progress import LiveWatcher
from optishear.cli.progress_view import duration_text
from optishear.errors import StorageError
from optishear.recipe.recipe import Recipe
from optishear.records.journal import read_journal
from optishear.records.run_directory import read_json
from optishear.report.progress import Goal, goal_of
from optishear.report.watching import RunWatch
from optishear.search.evaluator import Evaluation
from optishear.search.loop import Found


def followed(rungs, evaluations, capsys):
    """The lines of a watcher which is told of these (rung, index, error or None)."""
    goal = Goal({"error": False}, None, 4, 2, "nsga2", rungs, 0.25)
    watcher, found = LiveWatcher(goal), Found({rung: {} for rung in rungs})
    watcher.stage("searching")
    for rung, index, error in evaluations:
        drop = dict.fromkeys(small_layout().sizes, index)
        values = None if error is None else {"error": error}
        recipe = Recipe.of({"name": "magnitude"}, drop, "layer")
        evaluation = Evaluation(recipe, rung, values, "lost", 2.0, remembered=index == 1)
        found.rungs[rung][evaluation.recipe.key] = evaluation
        watcher.evaluated(found, evaluation, total=4)
    return capsys.readouterr().err.splitlines()


def test_every_rung_is_counted_and_the_front_says_which_it_is_of(capsys):
    low = [(64, 0, 1.0), (64, 1, 0.5), (64, 2, None), (64, 3, 0.25)]
    lines = followed((64, 256), [*low, (256, 1, 9.0), (256, 3, 8.0)], capsys)
    assert lines[0] == (
        "  1/4  0.50/s  22 s left  front on 64 tokens 1, best error 1, 1/4 on 64, 0/2 on 256 tokens"
    )
    assert "climbing to 256 search tokens" in lines[4]
    assert lines[-1] == (
        "  4/4  0.50/s  front on 256 tokens 1, best error 8, 4 on 64, 2 on 256 tokens, "
        "1 failed, 2 known from other runs"
    )


def test_without_rungs_it_says_the_front_and_how_many_failed(capsys):
    lines = followed((256,), [(256, 0, None), (256, 1, 3.0), (256, 2, 2.0)], capsys)
    assert lines[0].endswith("left  1 failed")
    assert lines[-1].endswith("left  front 1, best error 2, 1 failed, 1 known from other runs")


@pytest.mark.parametrize(("driver", "rungs"), [("nsga2", (128, 512)), ("evopress", (128, 512))])
def test_the_live_numbers_are_those_that_the_journal_gives(tmp_path, capsys, driver, rungs):
    directory = begin(tmp_path, driver, rungs, pick="lowest:kl")
    watcher = LiveWatcher(goal_of(read_json(directory.manifest)["experiment"]))
    go_on(directory, watcher, until=70)
    assert watcher.progress.state() == RunWatch(directory).snapshot().state
    go_on(directory, watcher, finish=False)  # resumed
    state = watcher.progress.state()
    assert state == RunWatch(directory).snapshot().state
    assert state.asked == 60
    assert len(capsys.readouterr().err.splitlines()) < 60


def test_what_another_run_knew_is_counted_live_and_in_the_journal(tmp_path, capsys):
    first = begin(tmp_path / "first")
    go_on(first, until=20)
    _, entries, _ = read_journal(first.journal)
    second = begin(tmp_path / "second")
    watcher = LiveWatcher(goal_of(read_json(second.manifest)["experiment"]))
    go_on(second, watcher, memo={(e["key"], e["rung"]): e for e in entries})
    assert watcher.progress.state().remembered == 20
    assert RunWatch(second).snapshot().state.remembered == 20
    assert "20 known from other runs" in capsys.readouterr().err


def test_a_terminal_shows_the_last_numbers_when_the_search_is_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    directory = begin(tmp_path)
    watcher = LiveWatcher(goal_of(read_json(directory.manifest)["experiment"]))
    go_on(directory, watcher)
    watcher.stage("drawing figures")
    text = capsys.readouterr().err
    assert "60/60" in text
    assert f"front {len(RunWatch(directory).snapshot().state.front)}, hypervolume" in text


def test_the_log_has_every_evaluation_and_ends_with_the_journals_numbers(tmp_path, capsys):
    directory = begin(tmp_path, rungs=(128, 512))
    watcher = JsonWatcher(goal_of(read_json(directory.manifest)["experiment"]))
    go_on(directory, watcher)
    watcher.stage("measuring the baselines")
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all(event["time"].endswith("+00:00") for event in events)
    made = [event for event in events if event["event"] == "evaluation"]
    _, entries, _ = read_journal(directory.journal)
    keys = ("rung", "values", "reason", "seconds")
    wanted = [{"recipe": e["key"], **{key: e[key] for key in keys}} for e in entries[:-3]]
    assert [{key: event[key] for key in ("recipe", *keys)} for event in made] == wanted
    assert any(event["values"] is None and event["reason"] for event in made)
    state = RunWatch(directory).snapshot().state
    [last] = [event for event in events if event["event"] == "progress"][-1:]
    assert events[-2] == last
    assert {key: last[key] for key in state.to_json()} == state.to_json()
    assert (made[-1]["asked"], made[-1]["front"]) == (60, len(state.front))
    on = {event["recipe"] for event in made if event["on_front"] and event["rung"] == 512}
    assert set(state.front) <= on


def test_warnings_and_errors_are_events_too(capsys):
    def fails():
        with json_on_stderr():
            logging.getLogger("optishear").warning("beware of %s", "this")
            raise StorageError("the disk is full")

    with pytest.raises(typer.Exit) as stopped:
        fails()
    assert stopped.value.exit_code == 1
    warning, error = map(json.loads, capsys.readouterr().err.splitlines())
    assert (warning["event"], warning["text"]) == ("warning", "beware of this")
    assert (error["event"], error["text"], error["exit_code"]) == ("error", "the disk is full", 1)


def test_durations_are_short_to_read():
    assert [duration_text(x) for x in (0.4, 45.0, 99.4, 600.0, 20_000.0)] == [
        "0 s", "45 s", "99 s", "10 min", "5.6 h",
    ]  # fmt: skip
