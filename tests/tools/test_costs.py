"""The arithmetic of a plan, on costs that are known to the second."""

import pytest

from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.search.driver import DriverSettings
from optishear.search.drivers import make_driver
from optishear.search.evaluator import Evaluation
from optishear.search.ladder import Ladder
from optishear.search.loop import run
from optishear.search.space_file import SpaceSpec, build_space
from optishear.tools.plan.costs import (
    Line,
    Measured,
    price_of,
    rung_costs,
    tokens_paid,
    visits,
)
from optishear.tools.plan.layer_times import LayerTimes


def layer(name, out, width, site, block=0):
    return Layer(name, block, name, out, width, site)


def on(tokens, *seconds, kind="mask"):
    return [Measured(kind, tokens, s) for s in seconds]


def test_a_line_in_tokens_is_found_again_from_two_rungs_whatever_the_first_candidate_took():
    true = Line(0.12, 0.0013)
    low, high = true.seconds(512), true.seconds(2048)
    price = price_of(on(512, 9.0, low, low, low), on(2048, high, high), {"mask": 1.0})
    assert price.line.fixed == pytest.approx(true.fixed)
    assert price.line.per_token == pytest.approx(true.per_token)
    assert price.once == pytest.approx(9.0 - low)


def test_one_rung_is_multiplied():
    price = price_of(on(512, 5.0, 2.0, 1.0, 3.0), [], {"mask": 1.0})
    assert price.line == Line(0.0, 2.0 / 512)


@pytest.mark.parametrize("higher", [0.5, 9.0])
def test_a_slope_that_cannot_be_is_answered_by_proportion(higher):
    """More tokens in less time, or fixed seconds below zero: noise, not a line."""
    price = price_of(on(512, 1.0, 1.0), on(1024, higher), {"mask": 1.0})
    assert price.line == Line(0.0, 1.0 / 512)


def test_kinds_count_by_how_often_they_come_up():
    tried = [*on(256, 1.0, 1.0), *on(256, 7.0, 5.0, kind="alps")]
    price = price_of(tried, [], {"mask": 0.75, "alps": 0.25})
    assert price.line.seconds(256) == pytest.approx(0.75 * 1.0 + 0.25 * 5.0)
    assert price.once == pytest.approx(2.0)


def test_the_median_keeps_a_hiccup_out():
    price = price_of(on(256, 1.0, 1.0, 50.0, 1.0), [], {"mask": 1.0})
    assert price.steady == {"mask": 1.0}


def test_a_candidate_that_climbs_pays_for_its_further_tokens_only():
    assert tokens_paid([512, 2048, 8192]) == {512: 512, 2048: 1536, 8192: 6144}


def test_rungs_cost_their_candidates_less_those_that_a_journal_knows():
    costs = rung_costs(Line(1.0, 0.01), {100: 40, 300: 10}, {100: 15, 300: 99})
    assert [cost.seconds for cost in costs] == pytest.approx([25 * 2.0, 0.0])
    assert [cost.known for cost in costs] == [15, 10]


@pytest.mark.parametrize("by_generation", [False, True])
@pytest.mark.parametrize(("recipes", "generation"), [(40, 8), (43, 8), (5, 8)])
def test_visits_are_those_of_the_loop(by_generation, recipes, generation):
    least = 1 if by_generation else generation
    ladder = Ladder((64, 128, 512), 0.25, least, by_generation)
    layout = ModelLayout(tuple(layer(f"b{i}", 40, 50, f"b{i}", block=i) for i in range(3)))
    space = build_space(SpaceSpec.model_validate({"sparsity": {"by": "block"}}), layout, {})
    driver = make_driver("random", DriverSettings(space.genes, 2, generation))
    seen = dict.fromkeys(ladder.rungs, 0)

    def evaluate(recipes, rung):
        for recipe in recipes:
            seen[rung] += 1
            values = {"kl": float(recipe.drop["b0"]), "bytes": float(recipe.drop["b1"])}
            yield Evaluation(recipe, rung, values)

    run(space, driver, evaluate, recipes, ["kl", "bytes"], [False, False], ladder)
    assert visits(ladder, recipes, generation) == seen


def test_layers_of_one_shape_are_timed_once_and_their_site_is_factored_once():
    now, calls, factored = [0.0], [], set()

    def solve(which, recipe):
        calls.append(which.name)
        now[0] += which.out_features + (0 if which.site in factored else 100)
        factored.add(which.site)

    times = LayerTimes(solve, lambda: now[0])
    q, k, other = layer("q", 8, 4, "q"), layer("k", 8, 4, "q"), layer("o", 3, 4, "o")
    recipe = Recipe.of({"name": "wanda"}, {"q": 1, "k": 1, "o": 1}, "row", {"name": "refit"})
    levels = [(q, recipe), (k, recipe), (q, recipe), (other, recipe)]
    assert times.all_of(levels) == pytest.approx(3 * 8 + 3 + 2 * 100)
    assert calls == ["q", "q", "o", "o"]
    assert times.all_of(levels, factored=True) == pytest.approx(3 * 8 + 3)
    assert times.of_recipe(recipe, {"q": q, "k": k, "o": other}, True) == pytest.approx(19)
    assert calls == ["q", "q", "o", "o"]


def test_what_objectives_bring_of_their_own_is_paid_once_and_on_the_lowest_rung():
    true = Line(0.12, 0.0013, own=0.8)
    low, high = true.seconds(512) + 0.8, true.seconds(2048) + 0.8
    price = price_of(on(512, 9.0, low, low), on(2048, high, high), {"mask": 1.0}, own=0.8)
    assert price.line.fixed == pytest.approx(true.fixed)
    assert price.line.per_token == pytest.approx(true.per_token)
    assert price.line.own == 0.8
    first, second = rung_costs(price.line, {512: 10, 2048: 3}, {})
    assert first.each == pytest.approx(low)
    assert second.each == pytest.approx(true.seconds(2048 - 512))
