import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_patterns import MADE_UP, groups_of
from problems import tied_scores

from optishear.errors import NumericalError
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers import cpu_selection, masks
from optishear.solvers.masks import keep_counts, keep_highest
from optishear.solvers.ranks import RankCache, keep_ranked, ranked


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
                share = pattern.cuts((rows, columns), drop)[start // width].count
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


@pytest.mark.parametrize("pattern", MADE_UP, ids=lambda p: p.text)
@pytest.mark.parametrize("shape", [(6, 8), (4, 12)])
def test_the_groups_of_a_made_up_pattern_lose_their_lowest(pattern, shape):
    scores, groups = tied_scores(*shape), groups_of(pattern, *shape)
    weights = sum(map(len, groups))
    step = len(groups) if pattern.levels else 1
    for drop in range(0, weights + 1, step):
        keep, total = torch.ones(shape, dtype=torch.bool), 0
        shares = [divmod(drop * len(group), weights) for group in groups]
        order = sorted(range(len(groups)), key=lambda i: -shares[i][1])
        more = order[: drop - sum(share for share, _ in shares)]
        for i, group in enumerate(groups):
            count = shares[i][0] + (i in more)
            total += count
            for row, column in sorted(group, key=lambda ij: (scores[ij].item(), ij))[:count]:
                keep[row, column] = False
        assert total == drop
        assert torch.equal(keep_highest(scores, drop, pattern), keep)
        assert torch.equal(keep_ranked(ranked(scores, pattern), drop, pattern), keep)
        out = torch.zeros(shape, dtype=torch.bool)
        assert torch.equal(keep_ranked(ranked(scores, pattern), drop, pattern, out), keep)
        cache = RankCache(10**6)
        for _ in range(3):
            assert torch.equal(cache.keep("a", drop, pattern, lambda: scores), keep)
        assert (cache.built, cache.hits) == (1, 1)


def stable_keep(scores, counts):
    """Strikes out the first counts[i] of row i by a stable ascending argsort."""
    order = (scores + 0.0).argsort(dim=1, stable=True)
    places = torch.empty_like(order).scatter_(
        1, order, torch.arange(scores.shape[1]).expand_as(order)
    )
    return places >= counts[:, None]


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_masks_are_those_of_a_stable_sort_with_ties_and_in_every_dtype(data):
    m = data.draw(st.one_of(st.integers(2, 4), st.integers(20, 30)))
    rows, groups = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    dtype = data.draw(st.sampled_from(DTYPES))
    values = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 0.5, 1.0, 3.0])
    cells = data.draw(st.lists(values, min_size=rows * groups * m, max_size=rows * groups * m))
    scores = torch.tensor(cells, dtype=dtype).view(rows, groups * m)
    if data.draw(st.booleans()):
        scores = scores.t().contiguous().t()
    pattern = data.draw(st.sampled_from([Row(), WholeLayer(), Block(m + 1), NofM(m)]))
    if isinstance(pattern, NofM):
        drop = data.draw(st.integers(0, m)) * rows * groups
    else:
        drop = data.draw(st.integers(0, scores.numel()))
    assert torch.equal(keep_highest(scores, drop, pattern), slow_keep(scores, drop, pattern))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_each_row_loses_its_own_count(data):
    rows, columns = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 40)))
    scores = tied_scores(rows, columns, seed=data.draw(st.integers(0, 99)))
    counts = torch.tensor(
        data.draw(st.lists(st.integers(0, columns), min_size=rows, max_size=rows))
    )
    assert torch.equal(keep_counts(scores, counts), stable_keep(scores, counts))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_matrix_of_many_runs_is_cut_alike_in_however_many_threads(threads, dtype):
    rows, columns = 401, 576  # several runs, the last one shorter, and none ends where Row changes
    scores = tied_scores(rows, columns, dtype=dtype)
    assert scores.numel() > 3 * cpu_selection.CHUNK
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        by_row = keep_highest(scores, 300 * rows + 200, Row())
        by_four = keep_highest(scores, scores.numel() // 4, NofM(4))
        counts = torch.arange(rows) % (columns + 1)
        by_counts = keep_counts(scores, counts)
    finally:
        torch.set_num_threads(before)
    more = (torch.arange(rows) < 200).long()
    assert torch.equal(by_row, stable_keep(scores, 300 + more))
    ones = torch.ones(scores.numel() // 4, dtype=torch.long)
    assert torch.equal(by_four, stable_keep(scores.reshape(-1, 4), ones).view(scores.shape))
    assert torch.equal(by_counts, stable_keep(scores, counts))


def test_an_error_in_a_thread_is_not_lost():
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def worker(rows):
        def work(run):
            if run.start:
                raise RuntimeError("of the second run")

        return work

    try:
        with pytest.raises(RuntimeError, match="second run"):
            cpu_selection.in_runs((4, cpu_selection.CHUNK), worker)
    finally:
        torch.set_num_threads(before)


def test_scores_are_left_as_they_are():
    scores = tied_scores(9, 40)
    before = scores.clone()
    keep_highest(scores, 100, Row())
    keep_highest(scores, 100, WholeLayer())
    keep_highest(scores, 90, NofM(4))
    keep_counts(scores, torch.arange(9))
    assert torch.equal(scores.view(torch.int32), before.view(torch.int32))


# What other devices run, here on the CPU (the public door never takes it there), and on a GPU
# through the public door where there is one.
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ways_of_other_devices_choose_alike(dtype):
    scores = tied_scores(13, 60, dtype=dtype)
    counts = torch.arange(13) * 5
    assert torch.equal(masks._by_order(scores, counts[:, None]), stable_keep(scores, counts))
    for count in (1, 30, 60):
        want = stable_keep(scores, torch.full((13,), count))
        assert torch.equal(masks._by_order(scores, count), want)
        assert torch.equal(masks._by_threshold(scores, count), want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pattern", [Row(), WholeLayer(), Block(128), NofM(4), NofM(16)])
def test_a_gpu_chooses_as_the_cpu_does(pattern, dtype):
    scores = tied_scores(33, 576, dtype=dtype)
    drop = scores.numel() // 2
    kept = keep_highest(scores.cuda(), drop, pattern)
    assert torch.equal(kept.cpu(), keep_highest(scores, drop, pattern))
    counts = torch.arange(33) * 17
    assert torch.equal(keep_counts(scores.cuda(), counts.cuda()).cpu(), keep_counts(scores, counts))


def test_wanda_s_own_way_of_choosing_is_reproduced():
    """Their code: a stable ascending sort of each row, the first int(in * s) indices are struck."""
    generator = torch.Generator().manual_seed(3)
    weight, norm = torch.randn(7, 30, generator=generator), torch.rand(30, generator=generator)
    scores = weight.abs() * norm
    struck = scores.sort(dim=-1, stable=True)[1][:, : int(30 * 0.6)]
    theirs = torch.ones_like(weight, dtype=torch.bool).scatter_(1, struck, False)
    ours = keep_highest(scores, 7 * int(30 * 0.6), Row())
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_that_are_not_finite_are_an_error_not_a_mask(bad, dtype):
    scores = torch.ones(3, 5, dtype=dtype)
    scores[1, 2] = bad
    with pytest.raises(NumericalError, match="1 of 15 scores are nan or inf"):
        keep_highest(scores, 5, Row())
    with pytest.raises(NumericalError, match="1 of 15 scores are nan or inf"):
        keep_counts(scores, torch.tensor([1, 2, 3]))


@pytest.mark.parametrize(("drop", "pattern"), [(49, Row()), (-1, WholeLayer()), (5, NofM(4))])
def test_impossible_counts_are_refused(drop, pattern):
    with pytest.raises(ValueError, match=r"Cannot drop|do not fit"):
        keep_highest(torch.rand(6, 8), drop, pattern)


@pytest.mark.parametrize("counts", [[1, 9], [-1, 2]])
def test_a_row_cannot_lose_more_than_it_has_or_less_than_nothing(counts):
    with pytest.raises(ValueError, match=r"Cannot drop -?\d to \d of 8"):
        keep_counts(torch.rand(2, 8), torch.tensor(counts))
