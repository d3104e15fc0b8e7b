"""Knapsack search opens with the best split of a budget and goes on near the best it was told."""

from dataclasses import replace

import numpy as np
import pytest
from driver_loop import generations
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.recipe.profile import Rule
from optishear.search.curves import Curves, GeneCurve, fixed_drop, gene_curves
from optishear.search.driver import DriverSettings
from optishear.search.drivers import make_driver
from optishear.search.genes import Choice, Integer, Real
from optishear.search.knapsack import solve
from optishear.search.knapsack_driver import sum_of_ranks
from optishear.search.knapsack_front import halved, seen
from optishear.search.seeds import seed_genomes
from optishear.search.space_file import SpaceSpec, build_space


LEVELS = np.arange(13)
SCALES = np.array([1.0, 3.0, 9.0, 2.0, 6.0, 0.5, 4.0, 1.5])
CURVES = tuple(GeneCurve(LEVELS * 1.0, LEVELS * 10, s * 1.3**LEVELS) for s in SCALES)
GENES = (Choice("metric", tuple("abc")), *(Integer(f"level{i}", 0, 12) for i in range(8)))
GIVEN = DriverSettings(GENES, 1, 10, seed=4, curves=(None, *CURVES), budget=480)


def knapsack(**changes):
    return make_driver("knapsack", replace(GIVEN, **changes))


def additive(row):
    return float((SCALES * 1.3 ** row[1:]).sum())


def coupled(row):
    """What the curves do not say: the first half of the genes costs four times as much."""
    return (float((np.repeat([4.0, 1.0], 4) * SCALES * 1.3 ** row[1:]).sum()),)


class TestUnderABudget:
    def test_it_opens_with_the_answer_then_the_initial_genomes_then_answers_near(self):
        initial = np.array([[2.0, *[6.0] * 8], [1.0, *[5.0, 7.0] * 4]])
        rows = knapsack(initial=initial).ask()
        [choice] = solve(CURVES, [480])
        assert rows[0].tolist() == [2.0, *map(float, choice)]
        assert np.array_equal(rows[1:3], initial)
        assert (rows[:, 1:].sum(axis=1) * 10 == 480).all()
        assert all(additive(row) > additive(rows[0]) for row in rows[1:])
        assert all(additive(row) < additive(initial[0]) for row in rows[3:])
        assert np.mean(rows[3:, 0] == 2) > 0.5  # the metric mutates now and then

    def test_without_initial_genomes_other_genes_are_in_the_middle(self):
        assert knapsack().ask()[0, 0] == 1.0

    def test_the_budget_is_met_from_below_as_closely_as_steps_can(self):
        for budget in (480, 485, 489, 961):
            rows = np.concatenate(generations(knapsack(budget=budget), 3, coupled))
            assert (rows[:, 1:].sum(axis=1) == min(budget // 10, 96)).all()

    def test_it_learns_what_the_curves_do_not_say(self):
        asked = generations(knapsack(population=16), 25, coupled)
        best = [min(coupled(row)[0] for row in rows) for rows in asked]
        [choice] = solve(
            [replace_costs(c, 4.0 if i < 4 else 1.0) for i, c in enumerate(CURVES)], [480]
        )
        ideal = coupled(np.array([0.0, *choice]))[0]
        assert coupled(asked[0][0])[0] > 1.05 * ideal
        assert min(best) < 1.01 * ideal

    def test_no_genome_is_asked_for_twice_and_its_end_is_an_empty_generation(self):
        genes, curves = GENES[1:4], CURVES[:3]
        driver = knapsack(genes=genes, curves=curves, budget=200, population=6)
        rows, asked = [], driver.ask()
        while len(asked):
            rows.extend(asked)
            driver.tell([(0.0,)] * len(asked))
            asked = driver.ask()
        assert len(rows) == len(np.unique(rows, axis=0)) > 15
        assert (np.array(rows).sum(axis=1) == 20).all()
        assert asked.shape == (0, 3)

    def test_the_best_of_several_objectives_has_the_lowest_sum_of_ranks(self):
        values = np.array([[1.0, 9.0, 1e300], [2.0, 2.0, 0.0], [2.0, 8.0, 0.0]])
        assert sum_of_ranks(values).tolist() == [4.0, 1.0, 2.0]
        rows = generations(
            knapsack(objectives=2, population=16), 25, lambda row: (*coupled(row), 1.0)
        )
        one = generations(knapsack(population=16), 25, coupled)
        assert np.array_equal(np.concatenate(rows), np.concatenate(one))

    def test_failures_are_no_parents(self):
        driver = knapsack(population=6)
        first = driver.ask()
        driver.tell([None] * 5 + [(3.0,)])
        steps = np.abs(driver.ask()[:, 1:] - first[5, 1:]).sum(axis=1)
        assert steps.mean() < 8

    def test_same_tells_same_asks(self):
        one, two = (np.concatenate(generations(knapsack(), 6, coupled)) for _ in range(2))
        other = np.concatenate(generations(knapsack(seed=5), 6, coupled))
        assert one.tobytes() == two.tobytes()
        assert one.tobytes() != other.tobytes()

    def test_it_needs_curves_and_a_budget_that_they_can_meet(self):
        with pytest.raises(ConfigError, match=r"no gene of the search space has one\. Use"):
            knapsack(curves=(None,) * 9)
        most = tuple(GeneCurve(LEVELS * 1.0, LEVELS + 9, LEVELS * 1.0) for _ in range(8))
        with pytest.raises(ConfigError, match=r"drop 72 weights at least, but .* leaves them 60"):
            knapsack(curves=(None, *most), budget=60)


def replace_costs(curve, factor):
    return GeneCurve(curve.codes, curve.amounts, curve.costs * factor)


def front(row):
    return (-float(row[1:].sum()), additive(row))


FREE = {"budget": None, "objectives": 2}


class TestWithoutABudget:
    def test_it_opens_with_answers_evenly_spread_from_least_to_most(self):
        rows = knapsack(**FREE, population=9).ask()
        assert rows[:, 1:].sum(axis=1).tolist() == list(range(0, 97, 12))
        answers = solve(CURVES, list(range(0, 961, 120)))
        assert rows[:, 1:].tolist() == answers
        assert (rows[:, 0] == 1).all()

    def test_initial_genomes_come_first_and_answers_fill_the_rest(self):
        initial = np.array([[2.0, *[6.0] * 8], [0.0, *[0.0] * 8]])
        rows = knapsack(**FREE, population=7, initial=initial).ask()
        assert np.array_equal(rows[:2], initial)
        assert rows[2:, 1:].sum(axis=1).tolist() == [0, 24, 48, 72, 96]
        assert (rows[2:, 0] == 2).all()

    def test_initial_genomes_that_fill_a_generation_leave_the_answers_to_the_next(self):
        initial = np.array([[0.0, *[float(i)] * 8] for i in range(4)])
        asked = generations(knapsack(**FREE, population=4, initial=initial), 2, front)
        assert np.array_equal(asked[0], initial)
        assert set(asked[1][:, 1:].sum(axis=1)) >= {32, 64, 96}  # 0 was an initial genome
        assert len(asked[1]) == 4

    def test_later_generations_halve_the_largest_gaps_of_the_front(self):
        asked = generations(knapsack(**FREE, population=9), 2, front)
        values = np.array([front(row) for row in asked[0]])
        span = (values - values.min(axis=0)) / np.ptp(values, axis=0)
        widest = int(np.linalg.norm(np.diff(span, axis=0), axis=1).argmax())
        low, high = asked[0][widest, 1:].sum(), asked[0][widest + 1, 1:].sum()
        assert asked[1][0, 1:].sum() == (low + high) / 2

    def test_in_the_end_every_budget_is_answered_and_noise_follows(self):
        driver = knapsack(**FREE, population=9)
        asked = np.concatenate(generations(driver, 14, front))
        assert len(np.unique(asked, axis=0)) == len(asked) == 126
        answers = {tuple(choice) for choice in solve(CURVES, list(range(0, 961, 10)))}
        assert len(answers) == 97
        assert answers <= {tuple(row) for row in asked[:, 1:].astype(int).tolist()}
        assert len(np.unique(asked[97:, 0])) > 1  # the metric mutates from then on

    def test_all_that_failed_is_passed_over(self):
        def fails(row):
            return None if row[1:].sum() > 50 else front(row)

        driver = knapsack(**FREE, population=9)
        asked = np.concatenate(generations(driver, 6, fails))
        assert len(asked) == 54
        assert np.concatenate(generations(knapsack(**FREE), 4, lambda row: None)).shape == (
            40,
            9,
        )

    def test_same_tells_same_asks(self):
        runs = [np.concatenate(generations(knapsack(**FREE), 14, front)) for _ in range(2)]
        assert runs[0].tobytes() == runs[1].tobytes()

    def test_failures_lie_between_their_neighbours(self):
        totals = np.array([0, 10, 40, 50])
        where = seen(totals, [(0.0, 4.0), None, (1.0, 2.0), (2.0, 0.0)])
        assert where == pytest.approx(np.array([[0, 1], [0.125, 0.875], [0.5, 0.5], [1, 0]]))
        assert seen(totals, [None] * 4)[:, 0].tolist() == [0, 0.2, 0.8, 1]
        huge = seen(totals[:2], [(-1e308,), (1e308,)])
        assert huge.tolist() == [[0.0], [1.0]]

    def test_places_lie_between_their_neighbours_and_are_new(self):
        totals = np.arange(100) ** 2
        known = np.array([0, 1, 50, 99])
        found = halved(known, np.array([[0.0], [0.1], [0.9], [1.0]]), totals, 200)
        assert sorted([*found, *known.tolist()]) == list(range(100))
        assert found[0] == int(np.searchsorted(totals, (1 + 2500) // 2))
        even = halved(np.array([0, 50, 99]), np.zeros((3, 1)), np.arange(100), 3)
        assert even == [25, 74, 12]  # where all are alike the widest, then the lowest


LAYOUT = small_layout(blocks=4, scale=4)
RULES = {"uniform": Rule(dict.fromkeys(LAYOUT.sizes, 1.0), dict.fromkeys(LAYOUT.sizes, 0.0))}


@pytest.mark.parametrize(
    "spec",
    [
        {"sparsity": {"by": "layer", "steps": 32, "budget": 0.6}},
        {"sparsity": {"by": "block", "low": 0.1, "high": 0.9, "budget": 0.6}},
        {"sparsity": {"by": "layer", "low": 0.1, "high": 0.9, "budget": 0.6}},
        {"sparsity": {"by": "layer", "high": 0.75, "budget": 0.5}, "pattern": "n:4"},
        {"sparsity": {"by": "layer", "budget": 0.6}, "roles": {"attn.*": {"pattern": "2:4"}}},
        {"sparsity": {"by": "layer", "steps": 16}},
        {"sparsity": {"by": "block", "options": [0.2, 0.5, 0.8]}},
    ],
    ids=str,
)
class TestSpaces:
    def test_every_answer_is_a_recipe_that_meets_the_budget(self, spec):
        chosen = build_space(
            SpaceSpec.model_validate({"metric": {"name": "wanda"}, **spec}), LAYOUT, RULES
        )
        costs = Curves(
            {
                layer.name: tuple((layer.size * i // 4, (1 + n) * 3.0**i) for i in range(1, 4))
                for n, layer in enumerate(LAYOUT.layers)
            }
        )
        curves = gene_curves(chosen, costs)
        budget = None if chosen.budget is None else chosen.budget - fixed_drop(chosen)
        seeds = seed_genomes(chosen, [{"name": "wanda"}])
        driver = make_driver(
            "knapsack",
            DriverSettings(chosen.genes, 2, 8, initial=seeds, curves=curves, budget=budget),
        )

        def measure(row):
            drop = chosen.decode(row).drop
            return (-float(sum(drop.values())), costs.total(drop))

        rows = np.concatenate(generations(driver, 3, measure))
        recipes = {chosen.decode(row).key for row in rows}
        assert len(recipes) > 15 or "options" in spec["sparsity"]
        if chosen.budget is not None:
            totals = {sum(chosen.decode(row).drop.values()) for row in rows}
            step = min(np.diff(curve.amounts).min() for curve in curves if curve is not None)
            assert all(chosen.budget - step < total <= chosen.budget for total in totals)
            exact, uniform = measure(rows[0])[1], measure(seeds[0])[1]
            assert exact < uniform


def test_a_real_gene_s_answer_is_on_its_grid():
    curve = GeneCurve(np.linspace(0.1, 0.9, 9), np.arange(9), 2.0 ** np.arange(9))
    genes = tuple(Real(f"share{i}", 0.1, 0.9) for i in range(4))
    rows = make_driver(
        "knapsack", DriverSettings(genes, 1, 6, curves=(curve,) * 4, budget=18)
    ).ask()
    assert np.isin(rows, curve.codes).all()
