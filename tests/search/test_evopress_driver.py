"""EvoPress moves sparsity and keeps its total, follows its best, and asks for nothing twice."""

import numpy as np
import pytest
from driver_loop import generations
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import llama_layout, small_layout

from optishear.errors import ConfigError
from optishear.recipe.profile import Rule
from optishear.search.driver import DriverSettings
from optishear.search.drivers import make_driver
from optishear.search.exchange import fewest_steps
from optishear.search.genes import Choice, Integer, Real
from optishear.search.seeds import seed_genomes
from optishear.search.space_file import SpaceSpec, build_space


LAYOUT = small_layout(blocks=4, scale=4)
RULES = {"uniform": Rule(dict.fromkeys(LAYOUT.sizes, 1.0), dict.fromkeys(LAYOUT.sizes, 0.0))}
LEVELS = tuple(Integer(f"level{i}", -8, 8) for i in range(6))
REALS = tuple(Real(f"share{i}", 0.2, 0.9) for i in range(6))
OPTIONS = tuple(Choice(f"option{i}", (0.4, 0.5, 0.6, 0.7)) for i in range(6))
ALIKE = (1000,) * 6


def evopress(genes=LEVELS, exchangeable=ALIKE, population=10, **changes):
    made = DriverSettings(genes, 1, population, exchangeable=exchangeable, **changes)
    return make_driver("evopress", made)


def space(metric=None, pattern="row", **sparsity):
    spec = {"pattern": pattern, "metric": metric or {"name": "wanda"}, "sparsity": sparsity}
    return build_space(SpaceSpec.model_validate(spec), LAYOUT, RULES)


def bowl(row):
    return (float(((row - np.linspace(row.min(), row.max(), len(row))) ** 2).sum()),)


class TestSwitches:
    @pytest.mark.parametrize("genes", [LEVELS, REALS, OPTIONS])
    @settings(deadline=None, max_examples=6)
    @given(st.integers(0, 2**31))
    def test_the_total_stays_and_every_gene_keeps_its_bounds(self, genes, seed):
        rows = np.concatenate(generations(evopress(genes, seed=seed), 12, bowl))
        assert np.allclose(rows.sum(axis=1), rows[0].sum(), rtol=0, atol=1e-9)
        low, high = genes[0].low, genes[0].high
        assert rows.min() >= low
        assert rows.max() <= high
        assert len(np.unique(rows, axis=0)) == len(rows) > 50

    def test_one_to_three_switches_make_an_offspring_and_one_is_the_most_frequent(self):
        genes = tuple(Integer(str(i), -8, 8) for i in range(40))
        driver = evopress(genes, (1000,) * 40, population=2000)
        rows = driver.ask()
        assert not rows[0].any()
        moves = np.abs(rows[1:]).sum(axis=1) / 2  # steps up
        assert set(moves) == {1, 2, 3}
        # P(min(u, v) = 1, 2, 3) = 5/9, 3/9, 1/9; single switches repeat and are not asked again.
        assert 0.4 < (moves == 2).mean() / (moves > 1).mean() < 0.85
        single = rows[1:][moves == 1]
        assert len(single) > 600
        assert (single.min(axis=1) == -1).all()
        assert (single.max(axis=1) == 1).all()

    def test_a_real_gene_moves_by_a_32nd_of_its_range_and_comes_back_to_the_bit(self):
        genes, start = REALS[:2], np.array([[0.6, 0.6]])
        driver = evopress(genes, (32000, 32000), initial=start, population=6)
        rows = np.concatenate(generations(driver, 9, lambda row: (-row[0],)))
        steps = (rows[:, 0] - 0.6) / (0.7 / 32)
        assert np.allclose(steps, np.rint(steps), atol=1e-6)
        assert max(steps) > 12.9  # 0.9 is 13.7 steps away
        assert len(rows) == len(np.unique(np.rint(steps)))

    def test_genes_that_exchange_nothing_mutate_rarely_and_the_others_never_by_mutation(self):
        levels = tuple(Integer(str(i), -8, 8) for i in range(40))
        genes = (*levels, Choice("metric", tuple("abc")), Real("x", 1.0, 1.0), Real("y", 0.0, 1.0))
        for prob, rate in ((None, 1 / 42), (0.25, 0.25), (0.0, 0.0)):
            weights = (1000,) * 40 + (0, 0, 0)
            rows = evopress(genes, weights, population=600, mutation_prob=prob).ask()
            assert np.allclose((rows[:, [40, 42]] != rows[0, [40, 42]]).mean(0), rate, atol=0.05)
            assert ((rows[:, [40, 42]] != rows[0, [40, 42]]).any()) == (rate > 0)
            assert (rows[:, 41] == 1).all()
            assert (np.abs(rows[:, :40]).sum(axis=1) <= 6).all()
            assert np.array_equal(rows, np.where(np.arange(43) < 40, np.rint(rows), rows))


class TestSelection:
    def test_the_first_generation_holds_the_seeds_and_offspring_of_the_first(self):
        start = np.array([[2.0, 2, 2, 2, 2, 2], [-8, 8, -8, 8, -8, 8]])
        rows = evopress(initial=start).ask()
        assert len(rows) == 10
        assert np.array_equal(rows[:2], start)
        assert (np.abs(rows[2:] - 2).sum(axis=1) <= 6).all()

    def test_every_generation_descends_from_the_best_so_far(self):
        driver, best, value = evopress(population=6), None, np.inf
        for _ in range(30):
            asked = driver.ask()
            if best is not None:
                assert (np.abs(asked - best).sum(axis=1) <= 6).all()
            told = [bowl(row + np.arange(6)) for row in asked]
            driver.tell(told)
            index = int(np.argmin(told))
            if told[index][0] <= value:
                best, value = asked[index], told[index][0]

    def test_the_better_of_two_decides_and_failures_do_not(self):
        driver = evopress(population=6)
        first = driver.ask()
        driver.tell([None, None, (3.0,), None, (2.0,), None])
        for told in ([None] * 6, [(2.5,)] * 6, [None] * 6):
            asked = driver.ask()
            assert (np.abs(asked - first[4]).sum(axis=1) <= 6).all()
            driver.tell(told)
        equal = driver.ask()
        driver.tell([None, (2.0,), None, None, None, None])  # a tie goes to the offspring
        assert (np.abs(driver.ask() - equal[1]).sum(axis=1) <= 6).all()

    def test_it_finds_the_optimum_of_a_quadratic_error_on_a_budget(self):
        weight = np.array([1.0, 2, 4, 8, 16, 32])

        def error(row):
            return (float((weight * (row + 8) ** 2).sum()),)

        driver = evopress(population=16)
        rows = np.concatenate(generations(driver, 40, error))
        best = min(rows, key=error)
        for down in range(6):  # no single switch is better any more
            for up in range(6):
                other = best.copy()
                other[down] -= 1
                other[up] += 1
                legal = down != up and other.min() >= -8 and other.max() <= 8
                assert not legal or error(other) >= error(best)

    def test_what_it_can_reach_is_asked_for_once_and_then_nothing(self):
        genes = (Integer("a", 0, 3), Integer("b", 0, 3), Integer("c", 0, 3))
        start = np.array([[1.0, 1.0, 2.0]])
        driver = evopress(genes, (9, 9, 9), population=5, initial=start)
        rows = np.concatenate(generations(driver, 30, lambda row: (0.0,)))
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert len(driver.ask()) == 0
        assert (rows.sum(axis=1) == 4).all()
        assert len(rows) == 12  # all of total 4 there are


class TestExchangeable:
    def test_blocks_exchange_and_settings_of_the_metric_do_not(self):
        chosen = space({"name": "power", "alpha": {"real": [0.5, 2.0]}}, by="block")
        assert chosen.exchangeable == (0, 1728, 1728, 1728, 1728)

    def test_layers_exchange_whatever_their_sizes(self):
        assert space(by="layer").exchangeable == (768, 960) * 4

    @pytest.mark.parametrize(
        "sparsity",
        [{"by": "uniform"}, {"by": "curve"}, {"by": "block", "options": (0.3, 0.5, 0.6)}],
    )
    def test_other_genes_and_uneven_options_do_not_and_are_refused(self, sparsity):
        chosen = space(**sparsity)
        assert not any(chosen.exchangeable)
        with pytest.raises(ConfigError, match=r"that can exchange it. Use sparsity.by 'block' or"):
            evopress(chosen.genes, chosen.exchangeable)

    def test_one_alone_is_refused_too(self):
        with pytest.raises(ConfigError, match="no two genes that can exchange it"):
            evopress(LEVELS[:2], (0, 1000))

    def test_two_objectives_are_refused_before_anything_is_made(self):
        with pytest.raises(ConfigError, match="has 2 objectives, but evopress takes 1 only"):
            make_driver("evopress", DriverSettings(LEVELS, 2, 10, exchangeable=ALIKE))


# SmolLM2's shapes, whose steps are as 3 : 1 : 8, with steps and options, or as real numbers.
LLAMA = llama_layout(blocks=4)
GRIDS = {
    "any number": {"budget": 0.5, "low": 0.1, "high": 0.9},
    "any number, no budget": {"low": 0.0, "high": 0.9},
    "steps": {"budget": 0.5, "steps": 32},
    "options": {"options": (0.25, 0.375, 0.5, 0.625, 0.75)},
}


class TestExchangesBetweenSizes:
    """The authors' pruning search draws both layers of a switch from all layers."""

    @pytest.fixture(scope="class", params=GRIDS)
    def asked(self, request):
        spec = {"metric": {"name": "wanda"}, "sparsity": {"by": "layer", **GRIDS[request.param]}}
        rules = {"uniform": Rule(dict.fromkeys(LLAMA.sizes, 1.0), dict.fromkeys(LLAMA.sizes, 0.0))}
        chosen = build_space(SpaceSpec.model_validate(spec), LLAMA, rules)
        [start] = seed_genomes(chosen, [{"name": "wanda"}])[:1]
        made = {"exchangeable": chosen.exchangeable, "initial": start[None], "seed": 5}
        rows = evopress(chosen.genes, population=200, **made).ask()
        return chosen, made, rows, [chosen.decode(row).drop for row in rows]

    def test_all_drop_exactly_as_many_weights(self, asked):
        chosen, _, _, drops = asked
        totals = {sum(drop.values()) for drop in drops}
        assert len(totals) == 1
        assert chosen.budget in (None, *totals)

    def test_attention_gives_to_mlp_and_takes_as_often_as_uniform_draws_say(self, asked):
        start, *drops = asked[-1]
        mlp = [layer.name for layer in LLAMA.layers if layer.role.startswith("mlp")]
        moved = np.array([sum(drop[name] - start[name] for name in mlp) for drop in drops])
        # 4 of 7 layers are attention, so a flip goes between both in 24 / 49 of the cases, half of
        # them either way; min(u, v) is 1, 2, 3 with probability 5/9, 3/9, 1/9. Two opposite ones
        # leave nothing if they are equally heavy, and something if they are not.
        way, stay = 12 / 49, 25 / 49
        crosses = 1 - (5 * stay + 3 * stay**2 + stay**3) / 9
        cancels = (3 * 2 * way**2 + 6 * way**2 * stay) / 9
        assert crosses - cancels - 0.08 < np.mean(moved != 0) < crosses + 0.08
        assert 0.37 < np.mean(moved[moved != 0] > 0) < 0.63

    def test_one_seed_asks_the_same(self, asked):
        chosen, made, rows, _ = asked
        assert np.array_equal(evopress(chosen.genes, population=200, **made).ask(), rows)

    @pytest.mark.parametrize(
        ("pattern", "sparsity"),
        [
            ("row", {"by": "block", "options": (0.4, 0.5, 0.6)}),
            ("row", {"by": "layer", "budget": 0.5, "steps": 48}),
            ("n:4", {"by": "layer", "low": 0.0, "high": 0.75}),
        ],
    )
    def test_a_switch_keeps_the_number_of_dropped_weights(self, pattern, sparsity):
        chosen = space(pattern=pattern, **sparsity)
        seeds = seed_genomes(chosen, [{"name": "wanda"}])[:1]
        driver = evopress(chosen.genes, chosen.exchangeable, population=40, initial=seeds)
        totals = {sum(chosen.decode(row).drop.values()) for row in driver.ask()}
        assert len(totals) == 1

    @pytest.mark.parametrize(
        ("weights", "down", "up", "steps"),
        [
            ((7, 7), 0, 1, (-1, 1)),
            ((192, 240), 0, 1, (-5, 4)),
            ((192, 240), 1, 0, (5, -4)),
            ((110592, 331776, 884736), 0, 1, (-3, 1, 0)),
            ((110592, 331776, 884736), 2, 0, (2, 2, -1)),
            ((16, 43), 1, 0, (43, -16)),
        ],
    )
    def test_the_fewest_steps_that_weigh_the_same(self, weights, down, up, steps):
        found = fewest_steps(weights, down, up)
        assert found == steps
        assert np.dot(found, weights) == 0
