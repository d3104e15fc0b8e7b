import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import tied_scores

from optishear.errors import NumericalError
from optishear.recipe.layout import Layer
from optishear.recipe.pattern import Block, NofM, Row, WholeLayer
from optishear.solvers import ranks as ranks_module
from optishear.solvers.cpu_selection import CHUNK
from optishear.solvers.masks import keep_highest
from optishear.solvers.ranks import RankCache, keep_ranked, rank_bytes, ranked, write_kept


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def groups_of(rows, columns, pattern):
    """The cells (i, j) of each group, in the order of their indices."""
    match pattern:
        case Row():
            return [[(i, j) for j in range(columns)] for i in range(rows)]
        case WholeLayer():
            return [[(i, j) for i in range(rows) for j in range(columns)]]
        case Block(width):
            starts = range(0, columns, width)
            ends = [min(start + width, columns) for start in starts]
            return [
                [(i, j) for i in range(rows) for j in range(start, end)]
                for start, end in zip(starts, ends)
            ]
        case NofM(m):
            starts = range(0, columns, m)
            return [[(i, j) for j in range(k, k + m)] for i in range(rows) for k in starts]
    raise TypeError(pattern)


def slow_ranks(scores, pattern):
    ranks = torch.empty(scores.shape, dtype=torch.long)
    for cells in groups_of(*scores.shape, pattern):
        for place, (i, j) in enumerate(sorted(cells, key=lambda ij: (scores[ij].item(), ij))):
            ranks[i, j] = place
    return ranks


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_rank_is_the_place_in_a_stable_sort_of_the_group_and_any_count_can_be_cut(data):
    m = data.draw(st.one_of(st.integers(2, 5), st.integers(22, 30)))
    rows, groups = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    dtype = data.draw(st.sampled_from(DTYPES))
    values = st.sampled_from([-7.5, -1.0, -0.0, 0.0, 2.0**-14, 0.5, 0.5, 1.0, 3.0])
    cells = data.draw(st.lists(values, min_size=rows * groups * m, max_size=rows * groups * m))
    scores = torch.tensor(cells, dtype=dtype).view(rows, groups * m)
    if data.draw(st.booleans()):
        scores = scores.t().contiguous().t()
    before = scores.clone()
    pattern = data.draw(st.sampled_from([Row(), WholeLayer(), Block(m + 1), NofM(m)]))
    ranks = ranked(scores, pattern)
    assert torch.equal(ranks.long(), slow_ranks(scores, pattern))
    assert torch.equal(scores.signbit(), before.signbit())
    assert torch.equal(scores, before)
    step = rows * groups if isinstance(pattern, NofM) else 1
    some = st.integers(0, scores.numel() // step).map(lambda steps: steps * step)
    for drop in (0, data.draw(some), data.draw(some), scores.numel()):
        assert torch.equal(keep_ranked(ranks, drop, pattern), keep_highest(scores, drop, pattern))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbouring_numbers_of_either_sign_keep_their_order(dtype):
    bits = INTEGER[torch.finfo(dtype).bits // 8]
    starts = [torch.finfo(dtype).max, 1.0, torch.finfo(dtype).tiny]
    below = torch.tensor(starts, dtype=dtype).view(bits)[:, None] + torch.arange(-9, 1, dtype=bits)
    near = below.view(dtype).flatten()
    above_zero = torch.arange(1, 11, dtype=bits).view(dtype)
    ascending = torch.cat([near, above_zero]).sort().values
    ascending = torch.cat([-ascending.flip(0), ascending])
    shuffle = torch.randperm(len(ascending), generator=torch.Generator().manual_seed(2))
    ranks = ranked(ascending[shuffle][None], Row())
    assert torch.equal(ranks[0].long(), shuffle)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("pattern", [Row(), WholeLayer(), Block(128), NofM(4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tied", [True, False])
def test_a_matrix_of_many_runs_is_ranked_alike_in_however_many_threads(
    threads, pattern, dtype, tied
):
    rows, columns = 401, 576
    assert rows * columns > 3 * CHUNK
    scores = tied_scores(rows, columns, dtype=dtype)
    if not tied:
        scores = torch.randn(scores.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    drop = rows * columns // 4
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ranks = ranked(scores, pattern)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(keep_ranked(ranks, drop, pattern), keep_highest(scores, drop, pattern))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pattern", [Row(), WholeLayer(), Block(128), NofM(4), NofM(32)])
def test_a_gpu_ranks_and_cuts_as_the_cpu_does(pattern, dtype):
    scores = tied_scores(33, 576, dtype=dtype)
    ranks = ranked(scores.cuda(), pattern)
    assert torch.equal(ranks.cpu(), ranked(scores, pattern))
    drop = scores.numel() // 2
    kept = keep_ranked(ranks, drop, pattern)
    assert torch.equal(kept.cpu(), keep_highest(scores, drop, pattern))


@pytest.mark.parametrize(
    ("shape", "pattern", "dtype"),
    [
        ((2, 128), Row(), torch.int8),
        ((2, 129), Row(), torch.int16),
        ((128, 256), WholeLayer(), torch.int16),
        ((3, 10_923), WholeLayer(), torch.int32),
        ((4, 70), Block(32), torch.int8),
        ((4, 70), Block(33), torch.int16),
        ((4, 20), Block(99), torch.int8),
        ((3, 10_924), NofM(4), torch.int8),
    ],
)
def test_ranks_take_the_narrowest_integer_that_holds_a_group_and_can_cut_all_of_it(
    shape, pattern, dtype
):
    scores = tied_scores(*shape)
    ranks = ranked(scores, pattern)
    assert ranks.dtype == dtype
    for drop in (0, scores.numel() // 2, scores.numel()):
        assert torch.equal(keep_ranked(ranks, drop, pattern), keep_highest(scores, drop, pattern))
    layer = Layer("a", 0, "a", *shape, "a")
    assert rank_bytes([layer, layer], pattern) == 2 * ranks.nbytes


def test_a_cut_can_be_written_where_the_caller_wants_it():
    scores = tied_scores(6, 40)
    for pattern in (Row(), WholeLayer(), Block(7), NofM(4)):
        out = torch.empty(40, 6, dtype=torch.bool).t()
        ranks = ranked(scores, pattern)
        assert keep_ranked(ranks, 120, pattern, out=out) is out
        assert torch.equal(out, keep_highest(scores, 120, pattern))


def test_ranking_refuses_what_keeping_the_highest_refuses():
    scores = torch.ones(3, 8)
    ranks = ranked(scores, Row())
    for drop in (-1, 25):
        with pytest.raises(ValueError, match=f"Cannot drop {drop} of 24"):
            keep_ranked(ranks, drop, Row())
    with pytest.raises(ValueError, match="do not fit groups of 4"):
        keep_ranked(ranked(scores, NofM(4)), 5, NofM(4))
    with pytest.raises(ValueError, match="do not fit groups of 5"):
        ranked(scores, NofM(5))
    scores[2, 7] = float("nan")
    with pytest.raises(NumericalError, match="1 of 24 scores are nan or inf"):
        ranked(scores, Row())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", ["", "dense", "out", "both"])
def test_what_is_not_kept_is_written_as_plus_zero_and_the_rest_bit_for_bit(dtype, transposed):
    generator = torch.Generator().manual_seed(5)
    dense = torch.randn(7, 20, generator=generator).to(dtype)
    odd = [-0.0, float("nan"), float("inf"), -float("inf")]
    dense[3, :4] = dense[4, :4] = torch.tensor(odd, dtype=dtype)
    keep = torch.rand(7, 20, generator=generator) < 0.5
    keep[3], keep[4] = True, False
    out = torch.full((7, 20), -5.0, dtype=dtype)
    if transposed in ("dense", "both"):
        dense = dense.t().contiguous().t()
    if transposed in ("out", "both"):
        out = out.t().contiguous().t()
    before, bits = dense.clone(), INTEGER[dense.element_size()]
    write_kept(dense, keep, out)
    assert torch.equal(out.view(bits), dense.masked_fill(~keep, 0).view(bits))
    assert torch.equal(dense.view(bits), before.view(bits))


def test_a_model_s_parameters_can_be_written_from_and_to():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0, 3.0]]))
    out = torch.nn.Parameter(torch.zeros(1, 3))
    write_kept(weight, torch.tensor([[True, False, True]]), out)
    assert out.tolist() == [[1.0, 0.0, 3.0]]


def test_weights_are_never_rounded_to_another_dtype_on_the_way():
    with pytest.raises(ValueError, match=r"Cannot write torch.float32 into torch.bfloat16"):
        write_kept(torch.ones(2, 3), torch.ones(2, 3).bool(), torch.ones(2, 3).bfloat16())


class Scores:
    """The scores of some layers by key, and how often they were asked for."""

    def __init__(self, rows=6, columns=40):
        self.rows, self.columns, self.calls = rows, columns, 0

    def of(self, key):
        return tied_scores(self.rows, self.columns, seed=int(key))

    def ask(self, cache, key, drop=96, pattern=None):
        def score():
            self.calls += 1
            return self.of(key)

        pattern = pattern or Row()
        keep = cache.keep(key, drop, pattern, score)
        assert torch.equal(keep, keep_highest(self.of(key), drop, pattern))
        return keep


ONE = 6 * 40  # bytes of the ranks of one of these layers under `row`


def test_a_key_is_noted_at_first_ranked_at_its_second_use_and_then_never_scored_again():
    cache, scores = RankCache(10 * ONE), Scores()
    counters = []
    for drop in (0, 100, 101, 240):
        scores.ask(cache, "1", drop)
        counters.append((cache.direct, cache.built, cache.hits))
    assert counters == [(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 1, 2)]
    assert scores.calls == 2
    assert cache.held_bytes == ONE


def test_ranks_under_one_pattern_do_not_answer_for_another():
    cache, scores = RankCache(100 * ONE), Scores()
    for pattern in (Row(), WholeLayer(), Block(7), Block(8), NofM(4), NofM(2)) * 3:
        scores.ask(cache, "1", 120, pattern)
    assert (cache.direct, cache.built, cache.hits) == (6, 6, 6)


def test_a_limit_of_nothing_turns_ranking_off():
    cache, scores = RankCache(0), Scores()
    for _ in range(3):
        scores.ask(cache, "1")
    assert (cache.direct, cache.built, cache.hits, cache.held_bytes) == (3, 0, 0, 0)
    with pytest.raises(ValueError, match="0 turns it off"):
        RankCache(-1)


def test_ranks_that_cannot_fit_are_never_made():
    cache, scores = RankCache(ONE - 1), Scores()
    for _ in range(3):
        scores.ask(cache, "1")
    assert (cache.direct, cache.built) == (3, 0)


def test_what_was_used_least_recently_makes_room_for_a_metric_that_took_its_place():
    cache, scores = RankCache(2 * ONE), Scores()
    for key in ("1", "1", "2", "2", "1"):
        scores.ask(cache, key)
    scores.ask(cache, "3")
    scores.ask(cache, "3")  # room is made of 2, which 1 has outlived
    calls = scores.calls
    scores.ask(cache, "1")
    scores.ask(cache, "3")
    assert scores.calls == calls
    scores.ask(cache, "2")
    assert scores.calls == calls + 1
    assert cache.held_bytes == 2 * ONE


def test_a_metric_too_big_for_the_cache_still_gains_from_what_fits():
    cache, scores = RankCache(3 * ONE), Scores()
    for _ in range(6):
        for key in ("1", "2", "3", "4", "5"):
            scores.ask(cache, key)
    assert (cache.direct, cache.built, cache.hits) == (5 + 5 * 2, 3, 4 * 3)


def test_the_notes_are_bounded(monkeypatch):
    monkeypatch.setattr(ranks_module, "NOTES", 3)
    cache, scores = RankCache(100 * ONE), Scores()
    scores.ask(cache, "1")
    scores.ask(cache, "1")
    for key in ("2", "3", "4", "5", "1", "2"):  # by the time they come again they are forgotten
        scores.ask(cache, key)
    assert (cache.direct, cache.built, cache.hits) == (7, 1, 0)
    assert cache.held_bytes == 0
    assert len(cache._used) == 3


def test_impossible_counts_and_bad_scores_are_refused_at_every_use():
    cache = RankCache(10 * ONE)
    good, bad = tied_scores(6, 40), torch.full((6, 40), float("inf"))
    for _ in range(3):
        with pytest.raises(ValueError, match="Cannot drop 241 of 240"):
            cache.keep("good", 241, Row(), lambda: good)
        with pytest.raises(NumericalError, match="240 of 240"):
            cache.keep("bad", 10, Row(), lambda: bad)
    assert cache.held_bytes == ONE  # of the good scores: no rank is made of bad ones


@settings(deadline=None, max_examples=30)
@given(
    limit=st.integers(0, 5 * ONE),
    asked=st.lists(st.tuples(st.integers(0, 6), st.integers(0, ONE)), max_size=30),
)
def test_whatever_is_asked_the_masks_are_the_same_and_the_limit_holds(limit, asked):
    cache, scores = RankCache(limit), Scores()
    for number, drop in asked:
        scores.ask(cache, str(number), drop)
        assert cache.held_bytes == sum(r.nbytes for r in cache._held.values()) <= limit
    assert cache.hits + cache.built + cache.direct == len(asked)
    assert scores.calls == cache.built + cache.direct
