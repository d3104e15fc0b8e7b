"""Who goes on from one rung to the next: promises on made-up values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optishear.errors import ConfigError
from optishear.search.front import hypervolume, non_dominated
from optishear.search.ladder import Ladder, promising


MANY = settings(deadline=None, max_examples=50)
POINTS = st.tuples(st.integers(0, 99), st.integers(1, 30), st.integers(1, 3), st.integers(1, 12))


def points_of(seed, n, objectives):
    return np.random.default_rng(seed).integers(0, 12, (n, objectives)).astype(float)


@MANY
@given(POINTS)
def test_no_one_stays_who_dominates_one_that_goes_on(made):
    seed, n, objectives, most = made
    values = points_of(seed, n, objectives)
    on = promising(values, most)
    assert on == sorted(set(on))
    assert len(on) == min(n, most)
    for stays in set(range(n)) - set(on):
        better = (values[stays] <= values[on]).all(axis=1) & (values[stays] < values[on]).any(
            axis=1
        )
        assert not better.any()


@MANY
@given(POINTS)
def test_units_do_not_decide(made):
    seed, n, objectives, most = made
    values = points_of(seed, n, objectives)
    assert promising(values * 4096 - 8, most) == promising(values, most)


@MANY
@given(POINTS)
def test_of_one_front_those_go_on_who_add_most_one_by_one(made):
    seed, n, objectives, most = made
    values = np.random.default_rng(seed).random((n, objectives))  # no ties
    front = values[non_dominated(values)]
    low, high = front.min(axis=0), front.max(axis=0)
    scaled = (front - low) / np.where(high > low, high - low, 1.0)
    chosen: list[int] = []
    while len(chosen) < min(most, len(front)):
        volumes = [
            -1.0 if i in chosen else hypervolume(scaled[[*chosen, i]], np.full(objectives, 1.1))
            for i in range(len(front))
        ]
        chosen.append(int(np.argmax(volumes)))
    assert promising(front, most) == sorted(chosen)


def test_with_one_objective_the_lowest_go_on():
    values = np.array([[3.0], [1.0], [2.0], [1.0], [9.0]])
    assert promising(values, 1) == [1]
    assert promising(values, 3) == [1, 2, 3]


def test_a_share_goes_on_but_not_fewer_than_the_least_nor_more_than_there_are():
    values = np.arange(24.0)[:, None]
    assert len(Ladder((1, 2), promoted=0.25).going_on(values)) == 6
    assert len(Ladder((1, 2), promoted=0.01).going_on(values)) == 1
    assert len(Ladder((1, 2), promoted=0.25, least=10).going_on(values)) == 10
    assert len(Ladder((1, 2), promoted=0.25, least=99).going_on(values)) == 24
    assert Ladder((1, 2)).going_on(values[:0]) == []


@pytest.mark.parametrize("rungs", [(), (512, 512), (2048, 512), (0, 512)])
def test_rungs_that_do_not_ascend_are_refused(rungs):
    with pytest.raises(ConfigError, match="do not ascend"):
        Ladder(rungs)
