"""The operators keep genes typed and legal, and every one of them can move every gene."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optishear.search.genes import Choice, Integer, Real, cleaned
from optishear.search.operators import (
    TypedCrossover,
    TypedMutation,
    crossed,
    gene_table,
    mutated,
    sampled,
)


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


def test_the_pymoo_crossover_is_ours():
    rng = np.random.default_rng(1)
    pairs = sampled(TABLE, 8, rng).reshape(2, 4, len(GENES))
    got = TypedCrossover(TABLE, 0.9, 15.0)._do(None, pairs, random_state=np.random.default_rng(2))
    assert np.array_equal(got, crossed(TABLE, pairs, 15.0, np.random.default_rng(2)))
