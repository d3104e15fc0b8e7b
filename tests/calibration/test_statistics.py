"""Statistics are sums: they merge by `+` and are divided only when read."""

import pytest
import torch

from optishear.calibration.statistics import LayerStats, stats_of
from optishear.recipe.layout import Layer


def stats_from(x, sequences=1, gram=True):
    return LayerStats(len(x), sequences, x.square().sum(0), x.T @ x if gram else None)


@pytest.fixture
def inputs():
    return torch.randn(14, 5, generator=torch.Generator().manual_seed(0))


def test_two_shards_add_up_to_the_whole(inputs):
    merged = stats_from(inputs[:6]) + stats_from(inputs[6:], sequences=2)
    whole = stats_from(inputs, sequences=3)
    assert (merged.tokens, merged.sequences) == (whole.tokens, whole.sequences)
    torch.testing.assert_close(merged.input_sq, whole.input_sq)
    torch.testing.assert_close(merged.gram, whole.gram)


def test_merging_leaves_both_shards_as_they_were(inputs):
    a, b = stats_from(inputs[:6]), stats_from(inputs[6:])
    before = a.input_sq.clone(), b.gram.clone()
    _ = a + b
    assert torch.equal(a.input_sq, before[0])
    assert torch.equal(b.gram, before[1])


def test_statistics_with_and_without_a_gram_matrix_do_not_merge(inputs):
    with pytest.raises(ValueError, match="with and without a Gram"):
        _ = stats_from(inputs) + stats_from(inputs, gram=False)
    with pytest.raises(ValueError, match="with and without a Gram"):
        _ = stats_from(inputs, gram=False) + stats_from(inputs)


def test_statistics_of_layers_of_different_width_do_not_merge(inputs):
    with pytest.raises(ValueError, match="5 and 1 input features"):
        _ = stats_from(inputs, gram=False) + stats_from(inputs[:, :1], gram=False)


def test_input_norm_is_the_root_mean_square_over_tokens(inputs):
    want = torch.tensor([sum(x * x for x in column) / 14 for column in inputs.T.tolist()]).sqrt()
    torch.testing.assert_close(stats_from(inputs, sequences=2).input_norm, want)


def test_sequence_sq_is_the_squared_norm_of_a_sequence_averaged_over_sequences(inputs):
    want = (inputs[:7].norm(dim=0) ** 2 + inputs[7:].norm(dim=0) ** 2) / 2
    torch.testing.assert_close(stats_from(inputs, sequences=2).sequence_sq, want)


def test_a_layer_finds_the_statistics_of_its_site(inputs):
    stats = {"b.0.q": stats_from(inputs)}
    assert stats_of(stats, Layer("b.0.v", 0, "v", 3, 5, site="b.0.q")) is stats["b.0.q"]
