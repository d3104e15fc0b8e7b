"""The loop with a stand-in for pruning and measuring: resume, failures, one seed one result."""

import math

import numpy as np
import pytest
from layouts import small_layout

from optishear.errors import NumericalError
from optishear.recipe.profile import Rule
from optishear.records.journal import Journal, memo_of
from optishear.search.driver import Driver, DriverSettings
from optishear.search.drivers import DRIVERS, make_driver
from optishear.search.evaluator import Evaluator, minimised
from optishear.search.loop import run
from optishear.search.seeds import seed_genomes
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=3, scale=4)
NAMES = list(LAYOUT.sizes)
RULES = {"uniform": Rule(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.0))}
OBJECTIVES, MAXIMISE = ("sparsity", "error"), (True, False)
SPEC = {
    "metric": [{"name": "magnitude"}, {"name": "power", "alpha": {"real": [0.5, 2]}}],
    "sparsity": {"by": "block", "low": 0.2, "high": 0.9},
}
FEW = {
    "metric": {"name": "meta", "weight_transform": {"choice": ["no_op", "exp", "log", "softmax"]}},
    "sparsity": {"by": "block", "options": [0.4, 0.5, 0.6]},
}


class Killed(BaseException):
    pass


class Measure:
    """Stands in for a model; counts what it is asked, fails where layers lose too much."""

    def __init__(self, dies_after=math.inf):
        self.calls, self.dies_after = 0, dies_after

    def __call__(self, recipe):
        if self.calls == self.dies_after:
            raise Killed
        self.calls += 1
        lost = np.array([recipe.drop[name] / LAYOUT.sizes[name] for name in NAMES])
        if lost[0] > 0.8:
            raise NumericalError("blocks.0.attn.q: not positive definite")
        error = float((lost**2 * np.arange(1, 7)).sum()) + recipe.metric.get("alpha", 1.0)
        return {"sparsity": LAYOUT.sparsity(recipe.drop), "error": error, "kl": error / 2}


def search(path, measure, driver="nsga2", seed=0, evaluations=60, spec=SPEC, memo=None):
    chosen = build_space(SpaceSpec.model_validate(spec), LAYOUT, RULES)
    seeds = seed_genomes(chosen, [{"name": "magnitude"}])
    settings = DriverSettings(chosen.genes, 2, 12, seed, seeds)
    with Journal(path, {"model": "stand-in"}, NAMES) as journal:
        evaluator = Evaluator(measure, journal, rung=512, memo=memo)
        return run(
            chosen, make_driver(driver, settings), evaluator, evaluations, OBJECTIVES, MAXIMISE
        )


def everything(found):
    return [(key, e.values, e.reason) for key, e in found.evaluations.items()]


@pytest.mark.parametrize("driver", [name for name in DRIVERS if name != "exhaustive"])
class TestEverySearch:
    def test_a_killed_search_ends_where_an_unbroken_one_does(self, driver, tmp_path):
        unbroken, first, second = Measure(), Measure(dies_after=25), Measure()
        want = search(tmp_path / "a.jsonl", unbroken, driver)
        with pytest.raises(Killed):
            search(tmp_path / "b.jsonl", first, driver)
        got = search(tmp_path / "b.jsonl", second, driver)
        assert everything(got) == everything(want)
        assert first.calls + second.calls == unbroken.calls  # nothing was paid for twice

    def test_a_finished_search_is_found_again_without_measuring(self, driver, tmp_path):
        want = search(tmp_path / "a.jsonl", Measure(), driver)
        got = search(tmp_path / "a.jsonl", Measure(dies_after=0), driver)
        assert everything(got) == everything(want)

    def test_another_seed_is_another_search(self, driver, tmp_path):
        one = search(tmp_path / "a.jsonl", Measure(), driver, seed=0)
        two = search(tmp_path / "b.jsonl", Measure(), driver, seed=1)
        assert everything(one) != everything(two)

    def test_the_budget_counts_distinct_recipes(self, driver, tmp_path):
        found = search(tmp_path / "a.jsonl", Measure(), driver)
        assert len(found.evaluations) == 60
        assert found.ended == "the evaluation budget is spent"

    def test_failures_are_recorded_with_their_reason(self, driver, tmp_path):
        found = search(tmp_path / "a.jsonl", Measure(), driver)
        failed = [e for e in found.evaluations.values() if e.failed]
        assert all("not positive definite" in e.reason for e in failed)
        assert len(failed) + len(found.good) == len(found.evaluations)


def test_another_run_s_journal_is_a_memo_and_is_copied(tmp_path):
    search(tmp_path / "a.jsonl", Measure())
    memo = memo_of([tmp_path / "a.jsonl"], {"model": "stand-in"}, NAMES)
    found = search(tmp_path / "b.jsonl", Measure(dies_after=0), memo=memo)
    assert len(found.evaluations) == 60
    again = search(tmp_path / "b.jsonl", Measure(dies_after=0))  # stands on its own now
    assert [(k, e.values) for k, e in again.evaluations.items()] == [
        (k, e.values) for k, e in found.evaluations.items()
    ]


@pytest.mark.parametrize("driver", ["exhaustive", "nsga2"])
def test_a_small_space_is_used_up_and_the_search_ends(driver, tmp_path):
    measure = Measure()
    found = search(tmp_path / "a.jsonl", measure, driver, evaluations=10_000, spec=FEW)
    # Four transforms, of which softmax ranks as exp; 27 profiles.
    assert measure.calls == len(found.evaluations) <= 3 * 27
    assert len(found.evaluations) == 3 * 27
    assert found.ended == "the space holds no further recipe"


def test_a_driver_that_keeps_asking_for_known_recipes_does_not_run_for_ever(tmp_path):
    class Stubborn(Driver):
        def ask(self):
            return np.array([[0.0, 1.0, 0.5, 0.5, 0.5]])

        def tell(self, values):
            assert len(values) == 1

    chosen = build_space(SpaceSpec.model_validate(SPEC), LAYOUT, RULES)
    with Journal(tmp_path / "a.jsonl", {"model": "stand-in"}, NAMES) as journal:
        evaluator = Evaluator(Measure(), journal, rung=512)
        found = run(chosen, Stubborn(), evaluator, 60, OBJECTIVES, MAXIMISE)
    assert len(found.evaluations) == 1
    assert "held no new recipe" in found.ended


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_never_reaches_the_driver(tmp_path, bad):
    def measure(recipe):
        return {"sparsity": 0.5, "error": bad}

    found = search(tmp_path / "a.jsonl", measure, evaluations=12)
    assert all(e.failed and "error" in e.reason for e in found.evaluations.values())
    assert minimised(list(found.evaluations.values()), OBJECTIVES, MAXIMISE) == [None] * 12


def test_out_of_memory_stops_the_run_and_is_no_property_of_a_recipe(tmp_path):
    def measure(recipe):
        raise MemoryError

    with pytest.raises(MemoryError):
        search(tmp_path / "a.jsonl", measure)
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1  # the header alone
