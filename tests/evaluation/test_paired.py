"""Standard errors and paired differences against numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optishear.evaluation.paired import paired_difference, standard_error
from optishear.evaluation.zero_shot import TaskScore


PAIRS = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=30)


@given(PAIRS)
def test_means_and_errors_are_those_of_numpy(pairs):
    own, other = np.array(pairs).T
    want = (own - other).std(ddof=1) / math.sqrt(len(pairs))
    mean, error = paired_difference(own.tolist(), other.tolist())
    assert mean == pytest.approx((own - other).mean(), abs=1e-9)
    assert error == pytest.approx(want, abs=1e-9)
    assert standard_error(own.tolist()) == pytest.approx(
        own.std(ddof=1) / math.sqrt(len(own)), abs=1e-9
    )


def test_one_value_tells_of_no_spread():
    assert math.isnan(standard_error([3.0]))


def test_different_items_are_not_compared():
    with pytest.raises(ValueError):
        paired_difference([1.0, 2.0], [1.0])


def test_two_models_are_compared_question_by_question():
    a = TaskScore("t", "acc", 0.75, 0.25, 4, 4, (1.0, 1.0, 0.0, 1.0))
    b = TaskScore("t", "acc", 0.50, 0.29, 4, 4, (0.0, 1.0, 0.0, 1.0))
    assert a.minus(b) == (0.25, pytest.approx(0.25))
    group = TaskScore("g", "acc", 0.6, 0.1, None, None, None)
    assert group.minus(group) is None
