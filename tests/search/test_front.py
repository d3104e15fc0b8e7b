"""The front, the knee and the hypervolume against slow definitions."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optishear.search.front import hypervolume, hypervolume_history, knee, non_dominated


def coarse(objectives, most=14):
    """Points on a small grid, so that equal values and ties happen."""
    shapes = st.tuples(st.integers(0, most), st.just(objectives))
    return arrays(np.float64, shapes, elements=st.integers(0, 5).map(float))


def slow_front(values):
    def beaten(i):
        return any(
            (values[j] <= values[i]).all()
            and ((values[j] < values[i]).any() or j < i)  # an equal point only if it came before
            for j in range(len(values))
            if j != i
        )

    return [i for i in range(len(values)) if not beaten(i)]


def slow_hypervolume(values, reference):
    """Counts the unit cells of an integer grid that some point dominates."""
    cells = product(*(range(int(r)) for r in reference))
    return float(sum(any((p <= np.array(cell)).all() for p in values) for cell in cells))


class TestNonDominated:
    @pytest.mark.parametrize("objectives", [1, 2, 3, 5])
    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_it_is_the_definition(self, objectives, data):
        values = data.draw(coarse(objectives))
        assert non_dominated(values) == slow_front(values)

    def test_of_equal_points_the_first_is_kept(self):
        assert non_dominated(np.array([[3.0, 3], [1, 2], [2, 1], [1, 2], [2, 1]])) == [1, 2]

    def test_values_that_are_not_finite_are_refused(self):
        with pytest.raises(ValueError, match="finite"):
            non_dominated(np.array([[1.0, np.nan]]))


class TestKnee:
    def test_it_is_the_point_furthest_below_the_line_between_the_extremes(self):
        values = np.array([[0.0, 100], [1, 70], [3, 15], [6, 10], [10, 0]])
        assert knee(values) == 2

    def test_units_and_offsets_do_not_matter(self):
        values = np.array([[0.0, 100], [1, 70], [3, 15], [6, 10], [10, 0]])
        assert knee(values * [1e-6, 1e6] - [1, -1e7]) == 2

    def test_dominated_points_neither_win_nor_stretch_the_range(self):
        values = np.array([[0.0, 100], [1, 70], [3, 15], [6, 10], [10, 0], [1000, 50], [9, 1e9]])
        assert knee(values) == 2

    def test_a_straight_front_is_a_tie_which_goes_to_the_first(self):
        share = np.array([0.5, 0.0, 1.0, *np.random.default_rng(0).random(40)])
        values = np.stack([0.7 * share, 0.3 - 0.3 * share], axis=1)
        assert knee(values) == 0
        assert knee(values[::-1]) == 0

    def test_one_point_and_one_objective_are_fronts_too(self):
        assert knee(np.array([[5.0, 5.0, 5.0]])) == 0
        assert knee(np.array([[3.0], [1.0], [2.0], [1.0]])) == 1

    def test_an_objective_in_which_all_agree_counts_nothing(self):
        values = np.array([[0.0, 7, 100], [1, 7, 10], [10, 7, 0]])
        assert knee(values) == 1

    def test_the_largest_floats_have_a_knee(self):
        big = 1.7e308
        assert knee(np.array([[-big, big], [-big / 2, -big / 2], [big, -big]])) == 1

    def test_an_empty_front_has_none(self):
        with pytest.raises(ValueError, match="no knee"):
            knee(np.empty((0, 2)))


class TestHypervolume:
    @pytest.mark.parametrize("objectives", [1, 2, 3])
    @settings(deadline=None, max_examples=40)
    @given(data=st.data())
    def test_it_is_the_volume_of_the_dominated_cells(self, objectives, data):
        values = data.draw(coarse(objectives))
        reference = np.array([4.0, 5.0, 3.0][:objectives])
        inside = values[(values < reference).all(axis=1)]
        assert hypervolume(values, reference) == pytest.approx(slow_hypervolume(inside, reference))

    def test_points_outside_the_reference_are_ignored(self):
        reference = np.array([2.0, 2.0])
        assert hypervolume(np.array([[2.0, -50], [-50, 3]]), reference) == 0.0
        assert hypervolume(np.array([[1.0, 1], [-50, 3]]), reference) == 1.0

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.none() | st.tuples(*[st.integers(0, 5).map(float)] * 2), max_size=12))
    def test_the_history_is_the_hypervolume_of_every_beginning(self, values):
        reference = np.array([4.0, 5.0])
        history = hypervolume_history(values, reference)
        assert history.shape == (len(values),)
        for count, volume in enumerate(history, start=1):
            real = [value for value in values[:count] if value is not None]
            expected = hypervolume(np.array(real).reshape(-1, 2), reference)
            assert volume == pytest.approx(expected)

    def test_the_history_takes_an_array_too(self):
        values = np.array([[3.0, 3], [1, 3], [3, 3], [3, 1]])
        assert hypervolume_history(values, np.array([4.0, 4.0])).tolist() == [1, 3, 3, 5]
