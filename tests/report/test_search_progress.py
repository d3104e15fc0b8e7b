"""A search's numbers: against the functions that define them, and against the search itself."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_run import begin, go_on

from optishear.config.sections import SearchConfig
from optishear.report.progress import RECENT, Goal, Progress, goal_of
from optishear.report.watching import RunWatch
from optishear.search.front import hypervolume, knee, non_dominated
from optishear.search.ladder import Ladder


def goal(objectives=2, most=40, population=8, rungs=(64,), driver="nsga2", prefer=None):
    names = ("sparsity", "kl", "bytes")[:objectives]
    maximise = dict(zip(names, (True, False, False)))
    return Goal(maximise, prefer, most, population, driver, rungs, 0.25)


def entry(index, values, rung=64, seconds=1.0, **more):
    return {"key": f"r{index}", "rung": rung, "values": values, "seconds": seconds, **more}


def told(progress, rows, **more):
    """The progress after one evaluation a row of objective values; None is a failure."""
    names = list(progress.goal.objectives)
    for index, row in enumerate(rows):
        values = None if row is None else dict(zip(names, row, strict=True))
        assert progress.add(entry(index, values, **more))
    return progress


def minimised(rows):
    """Of rows of (sparsity, ...), of which sparsity alone is maximised."""
    return np.array(rows) * [-1.0, *[1.0] * (len(rows[0]) - 1)]


ROWS = st.integers(2, 3).flatmap(
    lambda n: st.lists(
        st.none() | st.tuples(*[st.integers(0, 6).map(float)] * n), min_size=1, max_size=40
    ).filter(lambda rows: any(rows))
)


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_front_knee_and_hypervolume_are_those_of_all_evaluations_so_far(rows):
    width = len(next(row for row in rows if row))
    state = told(Progress(goal(width)), rows).state()
    places = [index for index, row in enumerate(rows) if row is not None]
    values = minimised([rows[index] for index in places])
    front = non_dominated(values)
    assert set(state.front) == {f"r{places[index]}" for index in front}
    assert state.best == f"r{places[knee(values)]}"
    assert (state.asked, state.failed) == (len(rows), rows.count(None))
    first = [row for row in rows[:8] if row is not None] or [rows[places[0]]]
    if len(rows) < 8:
        assert state.hypervolume is None
    else:
        worst, extent = minimised(first).max(axis=0), np.ptp(minimised(first), axis=0)
        box = np.prod(np.where(extent > 0, extent, 1.0))
        assert state.hypervolume == pytest.approx(hypervolume(values, worst) / box)
        assert list((state.reference or {}).values()) == (worst * [-1, *[1] * (width - 1)]).tolist()


def test_the_hypervolume_only_grows_once_it_is_there():
    rng, progress, before = np.random.default_rng(0), Progress(goal(most=99)), 0.0
    for index, row in enumerate(rng.random((99, 2))):
        progress.add(entry(index, {"sparsity": row[0], "kl": row[1]}))
        volume = progress.state().hypervolume
        assert (volume is None) == (index < 7)
        assert (volume or 0.0) >= before
        before = volume or 0.0
    assert before > 0.5
    rows = np.random.default_rng(0).random((99, 2)).tolist()
    assert before == told(Progress(goal(most=99)), rows).state().hypervolume


def test_with_one_objective_the_best_value_is_what_there_is():
    state = told(Progress(goal(1)), [(0.1 * n,) for n in (3, 9, 2, 1, 5, 6, 7, 8, 4)]).state()
    assert (state.best, state.hypervolume, state.front) == ("r1", None, ("r1",))


def test_what_the_experiment_picks_by_decides_what_is_best():
    progress = Progress(goal(prefer="perplexity"))
    for index, perplexity in enumerate((9.0, 7.0, 8.0)):
        progress.add(entry(index, {"sparsity": 0.5, "kl": index, "perplexity": perplexity}))
    assert progress.state().best == "r1"


def test_the_front_is_of_the_highest_rung_that_has_a_success():
    progress = told(Progress(goal(rungs=(64, 256))), [(0.1 * n, 1.0 + n) for n in range(40)])
    assert (progress.state().front_rung, len(progress.state().front)) == (64, 40)
    assert progress.add(entry(7, None, rung=256))
    assert progress.state().front_rung == 64
    assert progress.add(entry(8, {"sparsity": 0.8, "kl": 9.0}, rung=256))
    state = progress.state()
    assert (state.front_rung, state.front, state.failed) == (256, ("r8",), 1)


def test_the_time_left_counts_every_rung_at_its_own_cost():
    """40 recipes at 1 s each; a quarter, which is 10 and more than the population, go on."""
    progress = told(Progress(goal(rungs=(64, 256))), [(0.1, 1.0)] * 20)
    state = progress.state()
    assert state.expected == {64: 40, 256: 10}
    assert state.seconds_left == 20 * 1.0 + 10 * 4.0  # four times the tokens, not yet measured
    assert state.share == pytest.approx(20 * 64 / (40 * 64 + 10 * 256))
    for index in range(20, 40):
        progress.add(entry(index, {"sparsity": 0.1, "kl": 1.0}))
    for index in range(4):
        assert progress.add(entry(index, {"sparsity": 0.1, "kl": 1.0}, rung=256, seconds=2.5))
    assert progress.state().seconds_left == 6 * 2.5
    assert progress.state(over=True).seconds_left == 0


def test_those_who_fail_do_not_go_on():
    rows = [(0.1, 1.0) if index % 2 else None for index in range(80)]
    progress = told(Progress(goal(most=160, rungs=(64, 256))), rows)
    assert progress.state().expected == {64: 160, 256: 20}


def test_a_search_that_climbs_before_its_budget_is_spent_has_no_recipe_left_to_ask_for():
    progress = told(Progress(goal(most=40, rungs=(64, 256))), [(0.1, 1.0)] * 12)
    assert progress.state().expected == {64: 40, 256: 10}
    progress.add(entry(0, {"sparsity": 0.1, "kl": 1.0}, rung=256, seconds=3.0))
    assert progress.state().expected == {64: 12, 256: 8}
    assert progress.state().seconds_left == 7 * 3.0


def test_a_staged_driver_climbs_in_every_generation():
    """Of 8, 2 go on, and 1 of these; of the 4 that are left at the end 1, and 1 again."""
    progress = Progress(goal(1, most=20, driver="evopress", rungs=(64, 128, 256)))
    assert progress.state().expected == {64: 20, 128: 5, 256: 3}
    assert progress.state().seconds_left is None


def test_the_rate_is_the_recent_one_and_what_was_remembered_costs_nothing():
    progress = told(Progress(goal(most=200)), [(0.1, 1.0)] * 50, seconds=10.0)
    for index in range(50, 50 + RECENT):
        progress.add(entry(index, {"sparsity": 0.1, "kl": 1.0}, seconds=0.5))
    for index in range(3):
        known = entry(100 + index, {"sparsity": 0.1, "kl": 1.0}, seconds=0.0, memo=True)
        progress.add(known)
    state = progress.state()
    assert state.per_second == pytest.approx(2.0)
    assert state.remembered == 3
    assert state.seconds_left == pytest.approx((200 - 53 - RECENT) * 0.5)


def test_an_evaluation_takes_as_many_steps_however_many_there_were():
    """Of Python: what numpy does to a whole front at once is some microseconds."""
    angles = np.linspace(0.01, 1.5, 2000)
    rows = np.stack([np.sin(angles), 1 - np.cos(angles)], axis=1)  # all on the front
    np.random.default_rng(0).shuffle(rows)
    progress = Progress(goal(most=5000))
    entries = [entry(i, dict(zip(("sparsity", "kl"), row))) for i, row in enumerate(rows.tolist())]
    steps = {}
    for index, each in enumerate(entries):
        if index in (100, 1000, 1999):
            steps[index] = bytecodes(progress.add, each)
        else:
            progress.add(each)
    assert len(set(steps.values())) == 1, steps
    assert steps[1999] < 10_000
    assert len(progress.state().front) == 2000


def bytecodes(function, *arguments):
    """How many the interpreter runs for this call."""
    count, before = 0, sys.gettrace()

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("driver", ["nsga2", "evopress", "random"])
@pytest.mark.parametrize("rungs", [(512,), (128, 512), (64, 128, 512)])
def test_baselines_in_the_journal_are_none_of_the_search(tmp_path, driver, rungs):
    directory = begin(tmp_path, driver, rungs)
    found = go_on(directory, finish=False)
    watch = RunWatch(directory)
    state = watch.snapshot().state
    assert {rung: len(there) for rung, there in found.rungs.items()} == state.rungs
    assert len(watch._read) == len(watch.entries) + 3
    if driver != "evopress":  # whose last generations depend on what is left to ask for
        assert state.expected == state.rungs
        assert state.seconds_left == 0


def test_a_manifest_that_leaves_out_what_is_usual_is_read_as_the_search_would():
    assert SearchConfig().keep == Ladder.promoted
    experiment = {
        "objectives": ["kl", "sparsity"],
        "pick": "lowest:kl",
        "text": {"search": {"sequences": 4, "seq_len": 64}},
        "search": {"driver": "nsga2", "population": 4, "evaluations": 9, "rungs": [64]},
    }
    found = goal_of(experiment)
    assert found == Goal({"kl": False, "sparsity": True}, "kl", 9, 4, "nsga2", (64, 256), 0.25)
    experiment["text"]["search"]["sequences"] = 0
    assert goal_of(experiment).rungs is None
