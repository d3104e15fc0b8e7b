"""The table's answers are those of trying every choice, and the recipe drops what they say."""

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
    options = [list(zip(c.dropped.tolist(), c.costs.tolist())) for c in curves]
    found = [
        (sum(d for d, _ in chosen), sum(cost for _, cost in chosen)) for chosen in product(*options)
    ]
    return max(
        ((total, cost) for total, cost in found if total <= budget),
        key=lambda pair: (pair[0], -pair[1]),
        default=None,
    )


def value(curves, choice):
    drops = [int(c.dropped[option]) for c, option in zip(curves, choice, strict=True)]
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
        reached = {sum(chosen) for chosen in product(*(c.dropped.tolist() for c in curves))}
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
            assert sum(drop[layer.name] for layer in layers) == own.dropped[option]
        assert sum(drop.values()) == total
        assert costs.total(drop) == pytest.approx(value(curves, choice)[1])
