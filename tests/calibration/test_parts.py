"""Sums of parts are the sums of the whole, up to rounding, and the same whoever sums them up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TINY, tokens

from optishear.calibration.collect import collect
from optishear.calibration.parts import collect_in_parts, one_after_the_other, parts_of
from optishear.calibration.statistics import Gram, InputSq, LayerStats
from optishear.calibration.token_weights import UNGUIDED
from optishear.errors import ConfigError
from optishear.models.discover import layout_of


BOTH = frozenset({InputSq, Gram})


@given(st.integers(1, 40), st.integers(1, 50))
def test_parts_hold_all_batches_in_order_and_differ_by_one_at_most(batches, number):
    whole = [torch.full((1, 2), i) for i in range(batches)]
    parts = parts_of(whole, number)
    assert [batch[0, 0].item() for part in parts for batch in part] == list(range(batches))
    assert len(parts) == min(number, batches)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.fixture
def model():
    return TINY["llama"]()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_added_parts_are_the_whole_up_to_rounding(model, number):
    layout = layout_of(model)
    batches = [tokens(2, 12, seed=seed) for seed in range(5)]
    whole = collect(model, layout, batches, BOTH)
    sums = collect_in_parts(one_after_the_other(model, layout), parts_of(batches, number), BOTH)
    for site, want in whole.items():
        assert (sums[site].tokens, sums[site].sequences) == (want.tokens, want.sequences)
        torch.testing.assert_close(
            sums[site][InputSq].total, want[InputSq].total, rtol=1e-6, atol=0
        )
        torch.testing.assert_close(sums[site][Gram].total, want[Gram].total, rtol=1e-5, atol=1e-5)
        assert number > 1 or torch.equal(sums[site][Gram].total, want[Gram].total)


def test_an_expert_that_a_part_does_not_reach_is_no_mistake_unless_no_part_does(model):
    layout = layout_of(model)
    batches = [tokens(2, 12, seed=seed) for seed in range(2)]

    def blind(parts, needs, seen):
        for number, sums in enumerate(one_after_the_other(model, layout)(parts, needs, UNGUIDED)):
            site = next(iter(sums))
            if number not in seen:
                nothing = InputSq(sums[site][InputSq].total * 0)
                sums[site] = LayerStats.of(0, sums[site].sequences, nothing)
            yield sums

    parts, needs = parts_of(batches, 2), frozenset({InputSq})
    found = collect_in_parts(lambda p, n, _guide: blind(p, n, {1}), parts, needs)
    assert next(iter(found.values())).tokens == 24
    with pytest.raises(ConfigError, match="saw none of the tokens"):
        collect_in_parts(lambda p, n, _guide: blind(p, n, set()), parts, needs)
