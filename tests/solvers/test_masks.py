import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optishear.errors import NumericalError
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers.masks import keep_highest


def slow_keep(scores, drop, pattern):
    """Sorts every group by (score, index) in Python and strikes out the first."""
    keep = torch.ones_like(scores, dtype=torch.bool)
    rows, columns = scores.shape

    def strike(cells, count):
        for i, j in sorted(cells, key=lambda ij: (scores[ij].item(), ij))[:count]:
            keep[i, j] = False

    match pattern:
        case Block(width):
            for start in range(0, columns, width):
                end = min(start + width, columns)
                share = pattern.shares(columns, drop)[start // width]
                strike([(i, j) for i in range(rows) for j in range(start, end)], share)
        case Row():
            for i in range(rows):
                more = i < drop % rows
                strike([(i, j) for j in range(columns)], drop // rows + more)
        case WholeLayer():
            strike([(i, j) for i in range(rows) for j in range(columns)], drop)
        case NofM(m):
            for i in range(rows):
                for start in range(0, columns, m):
                    group = [(i, j) for j in range(start, start + m)]
                    strike(group, drop // (rows * columns // m))
    return keep


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_masks_are_those_of_a_stable_sort_with_ties_and_in_every_dtype(data):
    rows, groups, m = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 4)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    values = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 0.5, 1.0, 3.0])
    cells = data.draw(st.lists(values, min_size=rows * groups * m, max_size=rows * groups * m))
    scores = torch.tensor(cells, dtype=dtype).view(rows, groups * m)
    pattern = data.draw(st.sampled_from([Row(), WholeLayer(), Block(m + 1), NofM(m)]))
    if isinstance(pattern, NofM):
        drop = data.draw(st.integers(0, m)) * rows * groups
    else:
        drop = data.draw(st.integers(0, scores.numel()))
    assert torch.equal(keep_highest(scores, drop, pattern), slow_keep(scores, drop, pattern))


def test_wanda_s_own_way_of_choosing_is_reproduced():
    """Their code: a stable ascending sort of each row, the first int(in * s) indices are struck."""
    generator = torch.Generator().manual_seed(3)
    weight, norm = torch.randn(7, 30, generator=generator), torch.rand(30, generator=generator)
    scores = weight.abs() * norm
    struck = scores.sort(dim=-1, stable=True)[1][:, : int(30 * 0.6)]
    theirs = torch.ones_like(weight, dtype=torch.bool).scatter_(1, struck, False)
    ours = keep_highest(scores, 7 * int(30 * 0.6), Row())
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_an_error_not_a_mask(bad):
    scores = torch.ones(3, 5)
    scores[1, 2] = bad
    with pytest.raises(NumericalError, match="1 of 15 scores are nan or inf"):
        keep_highest(scores, 5, Row())


@pytest.mark.parametrize(("drop", "pattern"), [(49, Row()), (-1, WholeLayer()), (5, NofM(4))])
def test_impossible_counts_are_refused(drop, pattern):
    with pytest.raises(ValueError, match=r"Cannot drop|do not fit"):
        keep_highest(torch.rand(6, 8), drop, pattern)
