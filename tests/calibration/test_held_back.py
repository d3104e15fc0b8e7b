"""Sequences that are held back: the last quarter, in sums of their own, whoever sums them up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TINY, tokens

from optishear.calibration.collect import sums_of
from optishear.calibration.held_back import cut, without_held_back
from optishear.calibration.parts import collect_in_parts, one_after_the_other, parts_of
from optishear.calibration.statistics import (
    Cross,
    Gram,
    HeldBackCross,
    HeldBackGram,
    InputSq,
    LayerStats,
    statistics_bytes,
)
from optishear.errors import ConfigError
from optishear.models.discover import layout_of


BOTH = frozenset({InputSq, Gram})
HELD_BACK = BOTH | {HeldBackGram}


@given(st.integers(4, 40), st.integers(1, 9))
def test_the_last_quarter_is_held_back_and_no_batch_has_sequences_of_both(sequences, size):
    whole = torch.arange(sequences)[:, None]
    before, after = cut(whole.split(size), HELD_BACK)
    assert torch.equal(torch.cat([*before, *after]), whole)
    assert sum(map(len, after)) == sequences // 4
    assert all(len(batch) for batch in [*before, *after])


def test_nothing_is_held_back_or_cut_where_no_kind_asks_for_it():
    batches = [torch.zeros(3, 2), torch.zeros(2, 2)]
    before, after = cut(batches, BOTH)
    assert [id(batch) for batch in before] == [id(batch) for batch in batches]
    assert not after


def test_too_few_sequences_are_refused_in_a_sentence():
    with pytest.raises(ConfigError, match="held back, one of 4, and there are 3") as error:
        cut([torch.zeros(2, 5), torch.zeros(1, 5)], HELD_BACK)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [1, 2])
def test_sums_are_those_over_either_kind_of_sequences(number):
    model = TINY["llama"]()
    layout, sequences = layout_of(model), tokens(9, 12)
    before, after = cut(sequences.split(2), HELD_BACK)
    collect = one_after_the_other(model, layout)
    found = collect_in_parts(
        collect, parts_of(before, number), HELD_BACK, held_back=parts_of(after, number)
    )
    whole = sums_of(model, layout, [sequences], BOTH)
    last, first = sums_of(model, layout, [sequences[7:]], BOTH), [sequences[:7]]
    for site, seen in sums_of(model, layout, first, BOTH).items():
        stats = found[site]
        assert stats.found.keys() == {kind.name for kind in HELD_BACK}
        assert (stats.tokens, stats.sequences) == (108, 9)
        close = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(stats[Gram].total, whole[site][Gram].total, **close)
        torch.testing.assert_close(stats[HeldBackGram].total, last[site][Gram].total, **close)
        without = without_held_back(stats)
        torch.testing.assert_close(without[Gram].total, seen[Gram].total, **close)
        torch.testing.assert_close(without[InputSq].total, seen[InputSq].total, **close)


def test_an_input_that_was_dead_but_for_held_back_tokens_is_exactly_dead_without_them():
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    first, last = x.clone(), torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    first[:, 2] = 0
    total = first.T @ first + last.T @ last
    stats = LayerStats.of(9, 4, Gram(total), HeldBackGram(last.T @ last))
    assert without_held_back(stats)[InputSq].total[2] == 0


def test_cross_products_are_held_back_likewise():
    total, apart = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    products = (Gram(total), HeldBackGram(apart), Cross(2 * total), HeldBackCross(apart))
    without = without_held_back(LayerStats.of(9, 4, *products))
    assert torch.equal(without[Cross].total, 2 * total - apart)


def test_whoever_holds_back_says_which_parts_those_are():
    def collect(_parts, _needs, _guide):
        raise AssertionError

    for kinds, held_back in ((HELD_BACK, []), (BOTH, [[]])):
        with pytest.raises(ValueError, match="parts are held back for"):
            collect_in_parts(collect, [[]], kinds, held_back=held_back)


def test_a_plan_counts_their_bytes():
    layout = layout_of(TINY["llama"]())
    widths = {layer.site: layer.in_features for layer in layout.layers}.values()
    more = statistics_bytes(layout, HELD_BACK) - statistics_bytes(layout, BOTH)
    assert more == sum(4 * width**2 for width in widths)
