"""The table's answers are those of trying every choice, and the recipe drops what they say."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import llama_layout, small_layout

from optishear.recipe.profile import Rule
from optishear.search.curves import Curves, GeneCurve, gene_curves
from optishear.search.knapsack import solve, table_of
from optishear.search.space_file import SpaceSpec, build_space


def curve(dropped, costs, falling=False):
    codes = np.arange(len(dropped), dtype=float)
    codes = codes[::-1] if falling else codes
    return GeneCurve(codes.copy(), np.array(dropped, dtype=np.int64), np.array(costs, dtype=float))


@st.composite
def any_curve(draw):
    """Even steps as most genes have, or any counts; costs that tie now and then, or fall."""
    size = draw(st.integers(1, 5))
    first, step = draw(st.integers(0, 30)), draw(st.sampled_from([1, 3, 8, 12]))
    even = st.just([first + step * i for i in range(size)])
    uneven = st.lists(st.integers(0, 40), min_size=size, max_size=size, unique=True).map(sorted)
    dropped = draw(st.one_of(even, uneven))
    costs = draw(st.lists(st.integers(-2, 9), min_size=size, max_size=size))
    return curve(dropped, costs, draw(st.booleans()))


def brute(curves, budget):
    """(total, cost) of the cheapest choice of the largest total within the budget."""
    options = [list(zip(c.amounts.tolist(), c.costs.tolist())) for c in curves]
    found = [
        (sum(d for d, _ in chosen), sum(cost for _, cost in chosen)) for chosen in product(*options)
    ]
    return max(
        ((total, cost) for total, cost in found if total <= budget),
        key=lambda pair: (pair[0], -pair[1]),
        default=None,
    )


def value(curves, choice):
    drops = [int(c.amounts[option]) for c, option in zip(curves, choice, strict=True)]
    return sum(drops), sum(float(c.costs[o]) for c, o in zip(curves, choice, strict=True))


class TestTheTable:
    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(any_curve(), min_size=1, max_size=5), st.lists(st.integers(-5, 250), max_size=6)
    )
    def test_every_budget_s_answer_is_that_of_trying_every_choice(self, curves, budgets):
        answers = solve(curves, budgets)
        assert len(answers) == len(budgets)
        for budget, choice in zip(budgets, answers):
            want = brute(curves, budget)
            assert (None if choice is None else value(curves, choice)) == want

    @settings(deadline=None, max_examples=60)
    @given(st.lists(any_curve(), min_size=1, max_size=4))
    def test_its_totals_are_all_that_can_be_reached(self, curves):
        reached = {sum(chosen) for chosen in product(*(c.amounts.tolist() for c in curves))}
        table = table_of(curves)
        assert table.exact
        assert table.totals.tolist() == sorted(reached)

    def test_the_unit_is_the_common_divisor_of_all_differences(self):
        curves = [curve([5, 17, 41], [0, 1, 2]), curve([7, 25], [0, 3])]
        assert (table_of(curves).least, table_of(curves).unit) == (12, 6)
        assert table_of([curve([9], [1])]).totals.tolist() == [9]
        assert solve([], [3, -1]) == [[], None]

    def test_of_equal_costs_the_first_option_is_taken_and_always_the_same(self):
        curves = [curve([0, 4, 8], [0, 1, 2])] * 3
        assert solve(curves, [8, 12]) == [[2, 0, 0], [2, 1, 0]]
        assert solve(curves, [8, 12]) == solve(curves, [12, 8])[::-1]

    def test_one_table_answers_as_many_do(self):
        rng = np.random.default_rng(0)
        curves = [curve(np.arange(9) * w, rng.random(9).cumsum()) for w in (3, 1, 8, 8, 1)]
        budgets = list(range(0, 170, 7))
        assert solve(curves, budgets) == [solve(curves, [budget])[0] for budget in budgets]

    def test_what_is_dropped_may_be_bytes_or_anything_else_that_is_counted(self):
        curves = [curve([10**12, 3 * 10**12], [0, 1]), curve([0, 10**12], [0, 3])]
        assert solve(curves, [2 * 10**12, 3 * 10**12]) == [[0, 1], [1, 0]]

    def test_too_many_states_are_coarsened_and_it_says_so(self):
        rng = np.random.default_rng(1)
        curves = [
            curve(np.sort(rng.choice(10_000, 9, replace=False)), np.sort(rng.random(9) ** 2))
            for _ in range(20)
        ]
        budget = 90_000
        exact, coarse = table_of(curves), table_of(curves, states=1000)
        assert (exact.exact, coarse.exact) == (True, False)
        assert len(coarse.costs) <= 1000 + len(curves)
        one, other = exact.choice(budget), coarse.choice(budget)
        assert value(curves, one)[0] == budget
        total, cost = value(curves, other)
        assert abs(total - budget) <= coarse.unit * (1 + len(curves) / 2)
        assert cost == pytest.approx(value(curves, one)[1], rel=0.1)

    def test_a_model_of_210_layers_has_an_exact_answer(self):
        rng, weights = np.random.default_rng(0), (3, 1, 1, 3, 8, 8, 8) * 30
        curves = [curve(np.arange(60) * w, np.sort(rng.random(60)) * w) for w in weights]
        [choice] = solve(curves, [28_000])
        total, cost = value(curves, choice)
        assert total == 28_000
        for one, two in rng.integers(0, 210, size=(3000, 2)):  # no exchange of two is cheaper
            if one != two and weights[one] == weights[two]:
                for up, down in ((one, two), (two, one)):
                    if choice[up] < 59 and choice[down] > 0:
                        other = list(choice)
                        other[up] += 1
                        other[down] -= 1
                        assert value(curves, other)[1] >= cost - 1e-9


class TestLimits:
    """Budgets that need not be met: of bytes, say."""

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(any_curve(), min_size=1, max_size=5), st.lists(st.integers(-5, 250), max_size=6)
    )
    def test_every_answer_is_the_cheapest_within_the_budget(self, curves, budgets):
        table = table_of(curves, max(budgets, default=0), fill=False)
        options = [list(zip(c.amounts.tolist(), c.costs.tolist())) for c in curves]
        every = [
            (sum(cost for _, cost in chosen), -sum(amount for amount, _ in chosen))
            for chosen in product(*options)
        ]
        for budget in budgets:
            want = min(((c, total) for c, total in every if -total <= budget), default=None)
            choice = table.choice(budget)
            if choice is None:
                assert want is None
                continue
            total, cost = value(curves, choice)
            assert (cost, -total) == want  # of equally cheap ones the largest total

    @pytest.mark.parametrize("states", [50, 1000])
    def test_a_coarse_answer_is_within_the_budget_too(self, states):
        rng = np.random.default_rng(2)
        for _ in range(20):
            curves = [
                curve(np.sort(rng.choice(9_999, 9, replace=False)), np.sort(rng.random(9))[::-1])
                for _ in range(20)
            ]
            exact = table_of(curves, fill=False)
            coarse = table_of(curves, states=states, fill=False)
            assert (exact.exact, coarse.exact) == (True, False)
            for budget in rng.integers(exact.totals[0], exact.totals[-1], 5).tolist():
                total, cost = value(curves, coarse.choice(budget))
                assert total <= budget
                best = value(curves, exact.choice(budget))[1]
                assert best - 1e-9 <= cost
                # Of each gene less than a unit is lost by rounding.
                less = exact.choice(budget - 20 * coarse.unit)
                assert less is None or cost <= value(curves, less)[1] + 1e-9


LAYOUTS = {"small": small_layout(blocks=3, scale=4), "llama": llama_layout(blocks=2)}
GRIDS = [
    {"by": "layer", "steps": 32, "low": 0.3, "high": 0.8},
    {"by": "layer", "steps": 16},
    {"by": "block", "steps": 24, "low": 0.25, "high": 0.9},
    {"by": "layer", "pattern": "n:4", "high": 0.75},
    {"by": "block", "pattern": "n:4", "high": 0.75},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
class TestRecipesOfAnswers:
    def made(self, layout, grid, seed, budget=None):
        layout = LAYOUTS[layout]
        sparsity = {k: v for k, v in grid.items() if k != "pattern"}
        sparsity |= {} if budget is None else {"budget": budget}
        spec = {"pattern": grid.get("pattern", "row"), "metric": {"name": "wanda"}}
        rules = {
            "uniform": Rule(dict.fromkeys(layout.sizes, 1.0), dict.fromkeys(layout.sizes, 0.0))
        }
        chosen = build_space(SpaceSpec.model_validate(spec | {"sparsity": sparsity}), layout, rules)
        rng = np.random.default_rng(seed)
        curves = Curves(
            {
                layer.name: tuple(
                    (layer.size * i // 8, float(scale * np.exp(rate * i))) for i in range(1, 8)
                )
                for layer, scale, rate in zip(
                    layout.layers, rng.random(99) + 0.01, 2 * rng.random(99)
                )
            }
        )
        return chosen, curves, gene_curves(chosen, curves)

    @settings(deadline=None, max_examples=12)
    @given(seed=st.integers(0, 2**31), share=st.floats(0, 1))
    def test_the_recipe_drops_exactly_what_was_chosen(self, layout, grid, seed, share):
        free, _, curves = self.made(layout, grid, seed)
        table = table_of(curves)
        total = int(table.totals[int(share * (len(table.totals) - 1))])
        # By block a budget between two totals of the genes would be met by single layers' steps.
        between = 0 if grid["by"] == "block" or share == 1 else int(share * table.unit)
        budget = total + between
        size = free.layers.layout.total
        chosen, costs, curves = self.made(layout, grid, seed, budget / size)
        assert chosen.budget == budget
        choice = table_of(curves, budget).choice(budget)
        codes = [c.codes[option] for c, option in zip(curves, choice)]
        drop = chosen.decode(np.array(codes)).drop
        for layers, own, option in zip(chosen.gene_layers, curves, choice, strict=True):
            assert sum(drop[layer.name] for layer in layers) == own.amounts[option]
        assert sum(drop.values()) == total
        assert costs.total(drop) == pytest.approx(value(curves, choice)[1])


@st.composite
def loose_curve(draw):
    """Uneven counts between which a gene could take any other, at a cost that rises ever faster."""
    size = draw(st.integers(2, 6))
    counts = sorted(draw(st.lists(st.integers(0, 60), min_size=size, max_size=size, unique=True)))
    rate = draw(st.floats(0.2, 3.0))
    costs = np.exp(rate * np.array(counts) / 20)
    plain = curve(counts, costs)
    return replace(plain, slack=int(np.diff(counts).max()))


class TestSlack:
    @settings(deadline=None, max_examples=100)
    @given(st.lists(loose_curve(), min_size=1, max_size=4), st.integers(0, 240))
    def test_the_answer_is_the_cheapest_with_what_it_leaves_at_the_price(self, curves, budget):
        table = table_of(curves, budget)
        slack, price = max(c.slack for c in curves), table.price(budget)
        assert table.slack == slack
        choice = table.choice(budget)
        options = [list(zip(c.amounts.tolist(), c.costs.tolist())) for c in curves]
        every = [
            (sum(d for d, _ in chosen), sum(c for _, c in chosen)) for chosen in product(*options)
        ]
        within = [(total, cost) for total, cost in every if total <= budget]
        if not within:
            assert choice is None
            return
        most = max(total for total, _ in within)
        near = [pair for pair in within if pair[0] > budget - slack or pair[0] == most]
        worth = min(cost + price * (budget - total) for total, cost in near)
        total, cost = value(curves, choice)
        assert (total, pytest.approx(cost)) in near
        assert cost + price * (budget - total) == pytest.approx(worth)

    def test_the_price_is_the_slope_of_the_merged_hulls(self):
        curves = [curve([0, 10, 20], [0, 1, 5]), curve([5, 15, 25], [1, 9, 11])]
        found = [table_of(curves).price(budget) for budget in (0, 5, 15, 16, 25, 26, 35, 36, 99)]
        # By weight 0.1 and 0.4 of the first; of the second 0.8 lies above its hull's 0.5.
        assert found == pytest.approx([0.1, 0.1, 0.1, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5])
        assert table_of([curve([3], [1.0])]).price(3) == 0.0

    def test_ends_off_the_grid_are_no_reason_for_a_poor_split(self):
        """By block of few blocks, the largest total within a budget is often that of blocks at
        their bounds alone: 6 of 960 weights from 0.2 to 0.9, and a budget between two totals."""
        counts = [192, *range(195, 865, 15), 864]
        one = curve(counts, np.exp(np.array(counts) / 160))
        budget = round(0.6 * 960 * 6)
        alike = value([one] * 6, solve([one] * 6, [budget])[0])
        loose = [replace(one, slack=15)] * 6
        total, cost = value(loose, solve(loose, [budget])[0])
        uniform = 6 * float(np.exp(576 / 160))
        assert alike[0] == budget
        assert alike[1] > 1.1 * uniform
        assert budget - 15 < total <= budget
        assert cost <= uniform


@pytest.mark.parametrize("by", ["block", "layer"])
@pytest.mark.parametrize("bounds", [(0.2, 0.9, 0.6), (0.3, 0.8, 0.55), (0.0, 0.95, 0.5)])
def test_a_recipe_of_an_answer_costs_no_more_than_the_uniform_one(by, bounds):
    low, high, budget = bounds
    layout = small_layout(blocks=3, scale=8)
    rules = {"uniform": Rule(dict.fromkeys(layout.sizes, 1.0), dict.fromkeys(layout.sizes, 0.0))}
    sparsity = {"by": by, "low": low, "high": high, "budget": budget}
    chosen = build_space(SpaceSpec.model_validate({"sparsity": sparsity}), layout, rules)
    curves = Curves(
        {
            layer.name: tuple(
                (round(layer.size * share), (1 + 0.3 * number) * float(np.exp(6 * share)))
                for share in (0.2, 0.4, 0.6, 0.8, 0.95)
            )
            for number, layer in enumerate(layout.layers)
        }
    )
    own = gene_curves(chosen, curves)
    assert all(0 < c.slack <= chosen.layers.layout.total for c in own)
    [choice] = solve(own, [chosen.budget])
    row = np.array([c.codes[option] for c, option in zip(own, choice, strict=True)])
    uniform = chosen.decode(np.full(len(row), budget)).drop
    drop = chosen.decode(row).drop
    assert sum(drop.values()) == sum(uniform.values()) == chosen.budget
    assert curves.total(drop) < curves.total(uniform)
