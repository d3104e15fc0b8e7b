"""The loop with a stand-in for pruning and measuring: resume, failures, one seed one result."""

import math
import shutil
from functools import cache

import numpy as np
import pytest
from layouts import small_layout

from optishear.errors import NumericalError
from optishear.recipe.profile import Rule
from optishear.records.journal import Journal, memo_of
from optishear.search.curves import Curves, gene_curves
from optishear.search.driver import Driver, DriverSettings
from optishear.search.drivers import DRIVERS, make_driver
from optishear.search.evaluator import Evaluator, minimised, one_by_one
from optishear.search.ladder import Ladder
from optishear.search.loop import run
from optishear.search.seeds import seed_genomes
from optishear.search.slopes import gene_slopes
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=3, scale=4)
NAMES = list(LAYOUT.sizes)
RULES = {"uniform": Rule(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.0))}
OBJECTIVES, MAXIMISE = ("sparsity", "error"), (True, False)
POPULATION, ONE = 12, Ladder((512,))
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
        self.calls, self.dies_after, self.asked = 0, dies_after, []

    def __call__(self, recipe, rung):
        if self.calls == self.dies_after:
            raise Killed
        self.calls += 1
        self.asked.append((recipe.key, rung))
        lost = np.array([recipe.drop[name] / LAYOUT.sizes[name] for name in NAMES])
        if lost[0] > 0.8:
            raise NumericalError("blocks.0.attn.q: not positive definite")
        # Every rung sees another text: its own weights, the same for all recipes.
        text = np.random.default_rng(rung).normal(1, 20 / rung**0.5, 6)
        error = float((lost**2 * np.arange(1, 7) * text).sum()) + recipe.default.metric.get(
            "alpha", 1.0
        )
        return {"sparsity": LAYOUT.sparsity(recipe.drop), "error": error, "kl": error / 2}

    def slopes(self, space):
        """By gene, for a driver that goes by them."""

        def of(recipe, rung):
            lost = np.array([recipe.drop[name] / LAYOUT.sizes[name] for name in NAMES])
            text = np.random.default_rng(rung).normal(1, 20 / rung**0.5, 6)
            own = dict(zip(NAMES, 2 * lost * np.arange(1, 7) * text, strict=True))
            return None if lost[0] > 0.8 else gene_slopes(space, own)

        return lambda recipes, rung: [of(recipe, rung) for recipe in recipes]


def goal_of(driver):
    one = driver in ("evopress", "gradient")
    return (("error",), (False,)) if one else (OBJECTIVES, MAXIMISE)


def search(path, measure, driver="nsga2", seed=0, evaluations=60, spec=SPEC, memo=None, ladder=ONE):
    if driver in ("gradient", "knapsack"):
        spec = {**spec, "sparsity": {**spec["sparsity"], "budget": 0.5}}
    chosen = build_space(SpaceSpec.model_validate(spec), LAYOUT, RULES)
    seeds = seed_genomes(chosen, [{"name": "magnitude"}])
    goal = goal_of(driver)
    curves = Curves({x.name: ((x.size // 2, 1.0), (x.size, 3.0 + x.block)) for x in LAYOUT.layers})
    settings = DriverSettings(
        chosen.genes,
        len(goal[0]),
        POPULATION,
        seed,
        seeds,
        exchangeable=chosen.exchangeable,
        gene_sizes=chosen.gene_sizes,
        curves=gene_curves(chosen, curves) if driver == "knapsack" else None,
        budget=chosen.budget,
    )
    with Journal(path, {"model": "stand-in"}, NAMES) as journal:
        evaluator, made = (
            Evaluator(one_by_one(measure), journal, memo),
            make_driver(driver, settings),
        )
        slopes = measure.slopes(chosen) if driver == "gradient" else None
        return run(chosen, made, evaluator, evaluations, *goal, ladder, slopes=slopes)


def everything(found):
    return [(key, e.values, e.reason) for key, e in found.evaluations.items()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The unbroken search of each driver and ladder, made once, for all who only read it: what it
    found, its journal and its measure."""

    @cache
    def made(driver, ladder=ONE):
        path, measure = tmp_path_factory.mktemp("unbroken") / "a.jsonl", Measure()
        return search(path, measure, driver, ladder=ladder), path, measure

    return made


@pytest.mark.parametrize("driver", [name for name in DRIVERS if name != "exhaustive"])
class TestEverySearch:
    def test_a_killed_search_ends_where_an_unbroken_one_does(self, driver, tmp_path, unbroken):
        want, _, whole = unbroken(driver)
        first, second = Measure(dies_after=25), Measure()
        with pytest.raises(Killed):
            search(tmp_path / "b.jsonl", first, driver)
        got = search(tmp_path / "b.jsonl", second, driver)
        assert everything(got) == everything(want)
        assert first.calls + second.calls == whole.calls  # nothing was paid for twice

    def test_a_finished_search_is_found_again_without_measuring(self, driver, tmp_path, unbroken):
        want, path, _ = unbroken(driver)
        shutil.copy(path, tmp_path / "a.jsonl")
        got = search(tmp_path / "a.jsonl", Measure(dies_after=0), driver)
        assert everything(got) == everything(want)

    def test_another_seed_is_another_search(self, driver, tmp_path, unbroken):
        one, _, _ = unbroken(driver)
        two = search(tmp_path / "b.jsonl", Measure(), driver, seed=1)
        assert everything(one) != everything(two)

    def test_the_budget_counts_distinct_recipes(self, driver, unbroken):
        found, _, _ = unbroken(driver)
        assert len(found.evaluations) == 60
        assert found.ended == "the evaluation budget is spent"

    def test_failures_are_recorded_with_their_reason(self, driver, unbroken):
        found, _, _ = unbroken(driver)
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
        evaluator = Evaluator(one_by_one(Measure()), journal)
        found = run(chosen, Stubborn(), evaluator, 60, OBJECTIVES, MAXIMISE, ONE)
    assert len(found.evaluations) == 1
    assert "held no new recipe" in found.ended


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_never_reaches_the_driver(tmp_path, bad):
    def measure(recipe, rung):
        return {"sparsity": 0.5, "error": bad}

    found = search(tmp_path / "a.jsonl", measure, evaluations=12)
    assert all(e.failed and "error" in e.reason for e in found.evaluations.values())
    assert minimised(list(found.evaluations.values()), OBJECTIVES, MAXIMISE) == [None] * 12


def test_out_of_memory_stops_the_run_and_is_no_property_of_a_recipe(tmp_path):
    def measure(recipe, rung):
        raise MemoryError

    with pytest.raises(MemoryError):
        search(tmp_path / "a.jsonl", measure)
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1  # the header alone


LADDER = Ladder((128, 512, 2048), promoted=0.25, least=6)
CLIMBING = Ladder((128, 512, 2048), promoted=0.25, by_generation=True)


def told_to(driver, tells):
    """The driver, whose tells are also written down."""

    class Heard(Driver):
        def ask(self):
            self.genomes = driver.ask()
            return self.genomes

        def tell(self, values):
            tells.append((self.genomes, list(values)))
            driver.tell(values)

    return Heard()


def heard_search(tmp_path, ladder, driver="nsga2"):
    chosen = build_space(SpaceSpec.model_validate(SPEC), LAYOUT, RULES)
    goal, tells, measure = goal_of(driver), [], Measure()
    settings = DriverSettings(
        chosen.genes, len(goal[0]), POPULATION, 0, exchangeable=chosen.exchangeable
    )
    with Journal(tmp_path / "a.jsonl", {"model": "stand-in"}, NAMES) as journal:
        made = told_to(make_driver(driver, settings), tells)
        found = run(chosen, made, Evaluator(one_by_one(measure), journal), 60, *goal, ladder)
    told = [(chosen.decode(g).key, value) for genomes, v in tells for g, value in zip(genomes, v)]
    return found, told, measure, goal


@pytest.mark.parametrize("ladder", [LADDER, CLIMBING], ids=["at the end", "by generation"])
@pytest.mark.parametrize("driver", ["nsga2", "tpe", "evopress"])
class TestEveryLadder:
    @pytest.mark.parametrize("dies_after", [25, 64])
    def test_a_killed_climb_ends_where_an_unbroken_one_does(
        self, driver, ladder, dies_after, tmp_path, unbroken
    ):
        want, _, whole = unbroken(driver, ladder)
        first, second = Measure(dies_after=dies_after), Measure()
        with pytest.raises(Killed):
            search(tmp_path / "b.jsonl", first, driver, ladder=ladder)
        got = search(tmp_path / "b.jsonl", second, driver, ladder=ladder)
        for rung, there in want.rungs.items():
            assert [(k, e.values) for k, e in got.rungs[rung].items()] == [
                (k, e.values) for k, e in there.items()
            ]
        assert first.asked + second.asked == whole.asked  # nothing twice, and in one order

    def test_who_is_on_a_rung_was_a_success_on_every_rung_below(self, driver, ladder, unbroken):
        found, _, _ = unbroken(driver, ladder)
        low, middle, top = found.rungs.values()
        assert len(low) == found.asked == 60
        assert top.keys() <= middle.keys() < low.keys()
        assert top
        assert not any(low[key].failed for key in middle)
        assert found.good == list(top.values())
        assert list(found.evaluations) == list(low)
        assert [e.rung for k, e in found.evaluations.items() if k in top] == [2048] * len(top)
        assert len(found.failed) == sum(e.failed for e in low.values())


def values_on(found, rung, goal):
    values = {key: minimised([e], *goal)[0] for key, e in found.rungs[rung].items()}
    return {key: np.array(value) for key, value in values.items() if value is not None}


def test_a_driver_is_told_the_lowest_rung_and_the_best_climb_when_the_search_is_over(tmp_path):
    found, told, measure, goal = heard_search(tmp_path, LADDER)
    on_lowest = values_on(found, 128, goal)
    more = round(len(on_lowest) / 4)
    rungs = [rung for _, rung in measure.asked]
    assert rungs == [128] * len(measure.asked[: -more - 6]) + [512] * more + [2048] * 6
    for key, value in told:
        assert value == minimised([found.rungs[128][key]], *goal)[0]
    beaten = {
        key
        for key, value in on_lowest.items()
        if any((o <= value).all() and (o < value).any() for o in on_lowest.values())
    }
    front = on_lowest.keys() - beaten
    assert found.rungs[512].keys() <= front or front <= found.rungs[512].keys()


def test_by_generation_a_driver_is_told_the_top_rung_and_the_rest_has_failed(tmp_path):
    found, told, measure, goal = heard_search(tmp_path, CLIMBING, "evopress")
    for key, value in told:
        top = found.rungs[2048].get(key)
        assert value == (None if top is None else minimised([top], *goal)[0])
    rungs = [rung for _, rung in measure.asked]
    generation = measure.asked[: rungs.index(2048) + 1]
    at = [rung for _, rung in generation]
    assert at == [128] * at.count(128) + [512] * round(at.count(128) / 4) + [2048]
    for lower, rung in ((128, 512), (512, 2048)):
        went_on = {key for key, on in generation if on == rung}
        stayed = {key for key, on in generation if on == lower} - went_on
        errors = {key: e.values["error"] for key, e in found.rungs[lower].items() if e.values}
        assert max(errors[k] for k in went_on) <= min(errors[k] for k in stayed if k in errors)


def test_where_all_fail_nobody_climbs(tmp_path):
    def measure(recipe, rung):
        raise NumericalError("blocks.0.attn.q: not positive definite")

    found = search(tmp_path / "a.jsonl", measure, evaluations=12, ladder=LADDER)
    assert [len(there) for there in found.rungs.values()] == [12, 0, 0]
    assert found.good == []
    assert len(found.failed) == 12
