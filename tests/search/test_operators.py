"""The operators keep genes typed and legal, and every one of them can move every gene."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import small_layout

from optishear.recipe.profile import Rule
from optishear.search.curves import Curves, GeneCurve, gene_curves
from optishear.search.driver import DriverSettings
from optishear.search.genes import Choice, Integer, Real, cleaned
from optishear.search.guided_moves import Moves
from optishear.search.operators import (
    GuidedMutation,
    TypedCrossover,
    TypedMutation,
    crossed,
    drawn_cuts,
    gene_table,
    mutated,
    rebalanced,
    sampled,
    varied_from,
)
from optishear.search.space_file import SpaceSpec, build_space


GENES = (
    Choice("metric", ("wanda", "magnitude", "ria")),
    Integer("blocks", -2, 3),
    Real("ratio", 0.25, 0.75),
    Choice("only", ("this",)),
    Integer("seven", 7, 7),
    Real("fixed", 0.5, 0.5),
    Real("wide", -1e6, 1e6),
)
TABLE = gene_table(GENES)


def is_legal(genes, rows):
    return all(np.array_equal(cleaned(genes, row), row) for row in rows)


@st.composite
def any_genes(draw):
    low = st.integers(-50, 50)
    gene = st.one_of(
        st.integers(1, 6).map(lambda n: Choice("c", tuple(range(n)))),
        st.tuples(low, st.integers(0, 40)).map(lambda t: Integer("i", t[0], t[0] + t[1])),
        st.tuples(low, st.floats(0, 1e3)).map(lambda t: Real("r", float(t[0]), t[0] + t[1])),
    )
    return tuple(draw(st.lists(gene, min_size=1, max_size=9)))


class TestEveryOperator:
    @settings(deadline=None, max_examples=80)
    @given(any_genes(), st.integers(0, 2**31), st.sampled_from([0.0, 0.2, 1.0]))
    def test_every_result_is_inside_the_bounds_and_on_its_grid(self, genes, seed, prob):
        table, rng = gene_table(genes), np.random.default_rng(seed)
        rows = sampled(table, 14, rng)
        children = crossed(table, rows.reshape(2, 7, len(genes)), 3.0, rng).reshape(rows.shape)
        mutants = mutated(table, children, prob, 5.0, rng)
        for result in (rows, children, mutants):
            assert result.shape == (14, len(genes))
            assert is_legal(genes, result)
            assert not np.signbit(result[result == 0]).any()

    @settings(deadline=None, max_examples=50)
    @given(any_genes(), st.lists(st.floats(-1e9, 1e9), min_size=9, max_size=9))
    def test_cleaning_a_generation_is_cleaning_each_genome(self, genes, codes):
        row = np.array(codes[: len(genes)])
        assert np.array_equal(gene_table(genes).clean(row[None])[0], cleaned(genes, row))

    def test_one_seed_gives_one_result_and_parents_are_untouched(self):
        rows = sampled(TABLE, 10, np.random.default_rng(0))
        kept = rows.copy()
        pairs = rows.reshape(2, 5, len(GENES))
        once, again = (np.random.default_rng(3) for _ in range(2))
        assert np.array_equal(crossed(TABLE, pairs, 15.0, once), crossed(TABLE, pairs, 15.0, again))
        assert np.array_equal(
            mutated(TABLE, rows, 0.5, 20.0, once), mutated(TABLE, rows, 0.5, 20.0, again)
        )
        assert np.array_equal(rows, kept)


class TestSampling:
    def test_whole_numbers_are_equally_likely_ends_included(self):
        rows = sampled(TABLE, 6000, np.random.default_rng(0))
        for column, values in ((0, range(3)), (1, range(-2, 4))):
            shares = [(rows[:, column] == value).mean() * len(values) for value in values]
            assert np.allclose(shares, 1, atol=0.12)
        assert 0.25 <= rows[:, 2].min() < 0.26
        assert 0.74 < rows[:, 2].max() <= 0.75


class TestCrossover:
    def test_children_of_categories_have_the_options_of_their_parents_one_each(self):
        rng = np.random.default_rng(1)
        table = gene_table((Choice("c", tuple(range(40))), Integer("n", 0, 3)))
        pairs = sampled(table, 400, rng).reshape(2, 200, 2)
        children = crossed(table, pairs, 2.0, rng)
        assert np.array_equal(np.sort(children[..., 0], axis=0), np.sort(pairs[..., 0], axis=0))
        assert 0.4 < (children[..., 0] != pairs[..., 0]).mean() < 0.6

    def test_equal_parents_have_equal_children(self):
        row = sampled(TABLE, 1, np.random.default_rng(2))
        children = crossed(TABLE, np.stack([row, row]), 15.0, np.random.default_rng(0))
        assert np.array_equal(children, np.stack([row, row]))

    def test_numbers_are_blended_and_not_only_exchanged(self):
        rng = np.random.default_rng(1)
        pairs = sampled(TABLE, 80, rng).reshape(2, 40, len(GENES))
        children = crossed(TABLE, pairs, 15.0, rng)
        new = (children[..., 2] != pairs[0, :, 2]) & (children[..., 2] != pairs[1, :, 2])
        assert 0.3 < new.mean() < 0.7
        middle = children[..., 2].mean(axis=0) - pairs[..., 2].mean(axis=0)
        assert np.median(np.abs(middle)) < 0.02


class TestMutation:
    def test_what_is_chosen_changes_and_what_cannot_change_does_not(self):
        rng = np.random.default_rng(4)
        rows = sampled(TABLE, 300, rng)
        changed = mutated(TABLE, rows, 1.0, 20.0, rng) != rows
        assert changed[:, [0, 1, 2, 6]].all()
        assert not changed[:, [3, 4, 5]].any()

    def test_nothing_changes_with_probability_zero(self):
        rows = sampled(TABLE, 20, np.random.default_rng(4))
        assert np.array_equal(mutated(TABLE, rows, 0.0, 20.0, np.random.default_rng(0)), rows)

    def test_an_integer_moves_by_one_to_either_side(self):
        genes = (Integer("n", 0, 10), Real("x", 0.0, 1.0))
        rows = np.tile([5.0, 0.5], (400, 1))
        moves = mutated(gene_table(genes), rows, 1.0, 20.0, np.random.default_rng(0))[:, 0] - 5
        assert {-1.0, 1.0} <= set(moves)
        assert 0.35 < (moves < 0).mean() < 0.65

    def test_an_integer_at_an_end_moves_inwards(self):
        genes = (Integer("n", 0, 1), Integer("m", 0, 30))
        rows = np.tile([1.0, 30.0], (50, 1))
        moved = mutated(gene_table(genes), rows, 1.0, 20.0, np.random.default_rng(0))
        assert (moved[:, 0] == 0).all()
        assert (moved[:, 1] < 30).all()

    def test_every_other_category_is_equally_likely(self):
        genes = (Choice("c", tuple("abcd")), Integer("n", 0, 3))
        rows = np.tile([2.0, 0.0], (3000, 1))
        moved = mutated(gene_table(genes), rows, 1.0, 20.0, np.random.default_rng(0))[:, 0]
        assert np.allclose(
            [(moved == code).mean() for code in range(4)], [1 / 3, 1 / 3, 0, 1 / 3], atol=0.04
        )

    def test_the_default_changes_one_free_gene_on_average(self):
        operator = TypedMutation(TABLE, None, 20.0)
        rows = sampled(TABLE, 2000, np.random.default_rng(5))
        changed = operator._do(None, rows, random_state=np.random.default_rng(6)) != rows
        assert abs(changed.sum(axis=1).mean() - 1.0) < 0.08


LAYOUT = small_layout(blocks=6, scale=16)
RULES = {
    "uniform": Rule(dict.fromkeys(LAYOUT.sizes, 1.0), dict.fromkeys(LAYOUT.sizes, 0.0)),
}
POWER = {"name": "power", "alpha": {"real": [0.5, 2.0]}, "mix": {"real": [0.0, 1.0]}}


def space(metric=None, moonshot=None, pattern="row", **sparsity):
    spec = {"metric": metric or {"name": "wanda"}, "moonshot": moonshot, "sparsity": sparsity}
    return build_space(SpaceSpec.model_validate({"pattern": pattern, **spec}), LAYOUT, RULES)


SPACES = {
    "blocks": space(by="block", low=0.2, high=0.9),
    "metric and layers": space(POWER, by="layer", low=0.2, high=0.9),
    "n of 4": space(pattern="n:4", by="layer", low=0.25, high=0.75),
    "lambdas": space(moonshot={"by": "block", "roles": "all"}, by="block"),
    "a lambda a role": space(moonshot={"by": "role", "roles": "all"}, by="block"),
    "curve": space(by="curve"),
}
BUDGETED = {
    "blocks": space(by="block", low=0.2, high=0.9, budget=0.6),
    "metric and layers": space(POWER, by="layer", low=0.2, high=0.9, budget=0.6),
    "n of 4": space(pattern="n:4", by="block", low=0.0, high=0.75, budget=0.5),
}


def settings_of(chosen, **changes):
    plain = DriverSettings(
        chosen.genes, 2, 12, gene_blocks=chosen.gene_blocks, gene_sizes=chosen.gene_sizes
    )
    return replace(plain, variation="prefix", **changes)


def family(chosen, cut, seed=0, matings=40, **changes):
    """Pairs of parents and their children from this cut."""
    table, rng = gene_table(chosen.genes), np.random.default_rng(seed)
    parents = sampled(table, 2 * matings, rng).reshape(2, matings, -1)
    cuts = np.full((matings, 1), cut)
    return parents, varied_from(cuts, table, parents, settings_of(chosen, **changes), rng)


def before(recipe, block):
    """All that a recipe does before a block; nothing before block 0."""
    names = [layer.name for layer in LAYOUT.layers if layer.block < block]
    lambdas = {name: recipe.lambdas.get(name, 1.0) for name in names}
    drop = {name: recipe.drop[name] for name in names}
    return (recipe.default, drop, lambdas) if block else ()


class TestPrefixVariation:
    @pytest.mark.parametrize("name", SPACES)
    @pytest.mark.parametrize("cut", [1, 4])
    def test_a_child_does_as_its_parent_before_the_cut(self, name, cut):
        chosen = SPACES[name]
        parents, children = family(chosen, cut)
        for parent, child in zip(parents.reshape(-1, len(chosen.genes)), np.concatenate(children)):
            assert before(chosen.decode(child), cut) == before(chosen.decode(parent), cut)
        assert is_legal(chosen.genes, np.concatenate(children))

    @pytest.mark.parametrize("name", SPACES)
    def test_a_gene_acts_on_its_block_and_on_none_before(self, name):
        chosen = SPACES[name]
        table, rng = gene_table(chosen.genes), np.random.default_rng(1)
        for gene, block in enumerate(chosen.gene_blocks):
            for row in sampled(table, 5, rng):
                other = row.copy()
                other[gene] = sampled(table, 1, rng)[0, gene]
                one, two = chosen.decode(row), chosen.decode(other)
                assert before(one, block) == before(two, block)
        last = chosen.gene_blocks[-1]
        assert last == (0 if name in ("curve", "a lambda a role") else 5)

    @pytest.mark.parametrize("cut", [0, 3])
    def test_everything_from_the_cut_on_can_change(self, cut):
        chosen = SPACES["metric and layers"]
        parents, children = family(chosen, cut, matings=300, crossover_prob=0.0)
        changed = (children != parents).any(axis=(0, 1))
        assert np.array_equal(changed, np.array(chosen.gene_blocks) >= cut)
        assert abs((children != parents).sum(axis=2).mean() - 1.0) < 0.15  # one gene a child

    def test_children_of_a_later_cut_swap_their_tails(self):
        chosen = SPACES["blocks"]
        parents, children = family(chosen, 2, crossover_prob=1.0, mutation_prob=0.0)
        assert np.array_equal(children[..., :2], parents[..., :2])
        assert np.array_equal(children[..., 2:], parents[::-1, :, 2:])

    def test_a_cut_at_0_is_the_usual_crossover(self):
        chosen = SPACES["blocks"]
        parents, children = family(chosen, 0, crossover_prob=1.0, mutation_prob=0.0)
        rng = np.random.default_rng(0)
        sampled(gene_table(chosen.genes), 80, rng)
        rng.random((40, 1))
        assert np.array_equal(children, crossed(gene_table(chosen.genes), parents, 15.0, rng))

    def test_cuts_are_at_0_at_times_and_anywhere_else_alike(self):
        cuts = drawn_cuts(np.array([0, 0, 2, 3, 3, 7]), 4000, np.random.default_rng(0))
        shares = [(cuts == block).mean() for block in (0, 2, 3, 7)]
        assert np.allclose(shares, [0.1, 0.3, 0.3, 0.3], atol=0.03)
        assert not drawn_cuts(np.array([0, 0]), 9, np.random.default_rng(0)).any()

    @pytest.mark.parametrize("name", BUDGETED)
    def test_under_a_budget_a_child_keeps_its_parent_s_sum_of_targets(self, name):
        chosen = BUDGETED[name]
        parents, children = family(chosen, 3)
        sizes, late = np.array(chosen.gene_sizes), np.array(chosen.gene_blocks) >= 3
        assert (sizes > 0).any()
        assert is_legal(chosen.genes, np.concatenate(children))
        missed = np.abs(((children - parents) * sizes).sum(axis=2))
        whole = all(isinstance(gene, Integer) for gene in chosen.genes)
        equal = len(set(sizes[sizes > 0])) == 1
        assert missed.max() <= (1e-6 if equal or not whole else sizes.max() / 2)
        assert (children[..., late] != parents[..., late]).any()
        assert np.array_equal(children[..., ~late], parents[..., ~late])

    def test_under_a_budget_most_children_keep_the_counts_of_their_parent_s_first_blocks(self):
        chosen, unaware = BUDGETED["blocks"], replace(BUDGETED["blocks"], sparsity=None)
        kept = []
        for known in (chosen, unaware):  # whose sizes are given, and are not
            parents, children = family(known, 3)
            pairs = zip(np.concatenate(parents), np.concatenate(children))
            kept.append(
                np.mean(
                    [
                        before(chosen.decode(one), 3) == before(chosen.decode(two), 3)
                        for one, two in pairs
                    ]
                )
            )
        assert kept[0] > 0.5
        assert kept[1] < 0.2

    def test_equal_parents_have_equal_children_to_the_bit(self):
        chosen = BUDGETED["metric and layers"]
        table, rng = gene_table(chosen.genes), np.random.default_rng(2)
        one = sampled(table, 20, rng)
        parents = np.stack([one, one])
        settings = settings_of(chosen, mutation_prob=0.0)
        cuts = rng.integers(0, 6, size=(20, 1))
        assert np.array_equal(varied_from(cuts, table, parents, settings, rng), parents)


class TestRebalancing:
    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 2**31), st.integers(1, 8), st.booleans())
    def test_the_sum_is_met_inside_the_bounds_and_only_by_genes_with_a_size(self, seed, n, whole):
        rng = np.random.default_rng(seed)
        gene = Integer("i", 1, 9) if whole else Real("r", 0.2, 0.9)
        table = gene_table((gene,) * n + (Choice("c", tuple("abc")),))
        rows, aim = sampled(table, 5, rng), sampled(table, 5, rng)
        sizes = np.tile(np.append(rng.integers(0, 2, n) * 480.0, 0.0), (5, 1))
        total = (sizes * aim).sum(axis=1, keepdims=True)
        got = rebalanced(table, rows, total, sizes)
        assert np.allclose((sizes * got).sum(axis=1, keepdims=True), total)
        assert np.array_equal(got[:, sizes[0] == 0], rows[:, sizes[0] == 0])
        assert is_legal((gene,) * n, got[:, :-1])

    def test_the_shift_is_one_constant(self):
        table = gene_table((Real("r", 0.0, 1.0),) * 3)
        got = rebalanced(
            table, np.array([[0.1, 0.4, 0.9]]), np.array([[18.0]]), np.full((1, 3), 10.0)
        )
        assert np.allclose(got, [[0.25, 0.55, 1.0]])


COSTS = Curves(
    {
        layer.name: tuple((layer.size * i // 8, (1 + n % 5) * 2.0**i) for i in range(1, 8))
        for n, layer in enumerate(LAYOUT.layers)
    }
)
GUIDED = {
    "layers in steps": space(by="layer", steps=32, low=0.2, high=0.9, budget=0.6),
    "blocks in steps": space(by="block", steps=32, low=0.2, high=0.9),
    "n of 4": space(pattern="n:4", by="layer", low=0.0, high=0.75),
    "options": space(by="layer", options=[0.3, 0.4, 0.5, 0.6, 0.7]),
    "any number": space(by="layer", low=0.25, high=0.875, budget=0.6),
    "metric and layers": space(POWER, by="layer", steps=16),
}


def dropped(curves, row):
    """Weights that the options nearest to a genome's codes drop in all, and what they cost."""
    own = [(c, np.abs(c.codes - code).argmin()) for c, code in zip(curves, row) if c is not None]
    return sum(int(c.amounts[i]) for c, i in own), sum(float(c.costs[i]) for c, i in own)


@pytest.mark.parametrize("name", GUIDED)
class TestGuidedMoves:
    def middling(self, chosen, count, rng):
        """Genomes whose sparsities have room to both sides."""
        low, high = gene_table(chosen.genes).low, gene_table(chosen.genes).high
        rows = low + (0.35 + 0.3 * rng.random((count, len(low)))) * (high - low)
        return gene_table(chosen.genes).clean(rows)

    def test_an_exchange_keeps_the_sum_as_nearly_as_steps_allow(self, name):
        chosen, rng = GUIDED[name], np.random.default_rng(0)
        curves, table = gene_curves(chosen, COSTS), gene_table(chosen.genes)
        moves = Moves.along(curves)
        half = max(np.diff(c.amounts).max() for c in curves if c is not None) / 2
        changed = 0
        for row in self.middling(chosen, 60, rng):
            child = row.copy()
            moves.exchange(child, rng)
            changed += not np.array_equal(child, row)
            before, after = (dropped(curves, one)[0] for one in (row, child))
            assert abs(before - after) <= half
            assert np.allclose(table.clean(child[None])[0], child, rtol=0, atol=1e-12)
            moved = np.flatnonzero(child != row)
            assert len(moved) in (0, 2)
            assert all(curves[gene] is not None for gene in moved)
        assert changed > 40

    def test_moves_lower_the_predicted_cost_more_often_than_random_ones(self, name):
        chosen, rng = GUIDED[name], np.random.default_rng(1)
        curves = gene_curves(chosen, COSTS)
        aimless = [
            c if c is None else GeneCurve(c.codes, c.amounts, 1.0 * c.amounts) for c in curves
        ]
        rates = []
        for known in (curves, aimless):
            moves, better = Moves.along(known), []
            for row in self.middling(chosen, 150, rng):
                child = row.copy()
                moves.exchange(child, rng)
                if not np.array_equal(child, row):
                    better.append(dropped(curves, child)[1] < dropped(curves, row)[1])
            rates.append(np.mean(better))
        assert rates[0] > 0.75
        assert rates[0] > rates[1] + 0.15

    def test_half_of_the_children_move_by_one_to_three_exchanges(self, name):
        chosen, rng = GUIDED[name], np.random.default_rng(2)
        moves = Moves.along(gene_curves(chosen, COSTS))
        rows = self.middling(chosen, 400, rng)
        children = moves.guided(rows, rng)
        changed = (children != rows).sum(axis=1)
        assert 0.35 < (changed > 0).mean() < 0.6
        assert changed.max() <= 6
        assert (changed > 2).any()

    def test_one_seed_gives_one_result_and_parents_are_untouched(self, name):
        chosen = GUIDED[name]
        table, moves = gene_table(chosen.genes), Moves.along(gene_curves(chosen, COSTS))
        operator = GuidedMutation(TypedMutation(table, None, 20.0), moves)
        rows = sampled(table, 40, np.random.default_rng(3))
        kept = rows.copy()
        one, two = (
            operator._do(None, rows, random_state=np.random.default_rng(4)) for _ in range(2)
        )
        assert one.tobytes() == two.tobytes()
        assert is_legal(chosen.genes, one)
        assert np.array_equal(rows, kept)

    def test_nothing_moves_where_there_is_no_room(self, name):
        chosen, rng = GUIDED[name], np.random.default_rng(5)
        moves = Moves.along(gene_curves(chosen, COSTS))
        for end in ("low", "high"):
            row = np.array([getattr(gene, end) for gene in chosen.genes], dtype=float)
            child = row.copy()
            moves.exchange(child, rng)
            assert np.array_equal(child, row)


def test_one_heavy_step_goes_against_as_many_light_ones():
    steps = np.arange(13)
    heavy = GeneCurve(steps * 1.0, steps * 80, 1.0 * steps)
    light = GeneCurve(steps * 1.0, steps * 10, 1e3 * steps)
    moves, row = Moves.along([heavy, None, light]), np.array([3.0, 7.0, 10.0])
    moves.exchange(row, np.random.default_rng(0))
    assert row.tolist() == [4.0, 7.0, 2.0]
    moves.exchange(row, np.random.default_rng(0))
    assert row.tolist() == [4.0, 7.0, 2.0]  # two light steps are no match for a heavy one


def test_the_pymoo_crossover_is_ours():
    rng = np.random.default_rng(1)
    pairs = sampled(TABLE, 8, rng).reshape(2, 4, len(GENES))
    got = TypedCrossover(TABLE, 0.9, 15.0)._do(None, pairs, random_state=np.random.default_rng(2))
    assert np.array_equal(got, crossed(TABLE, pairs, 15.0, np.random.default_rng(2)))
