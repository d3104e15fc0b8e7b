"""Statistics are sums: they merge by `+` and are divided only when read."""

import pytest
import torch

from optishear.calibration.statistics import (
    STATISTICS,
    Cross,
    Gram,
    HeldBackCross,
    HeldBackGram,
    InputSq,
    LayerStats,
    Mean,
    stats_of,
    unread,
)
from optishear.calibration.store import load_or_collect
from optishear.recipe.layout import Layer, ModelLayout


WIDTH = 5


def observed(kind, x, dense):
    """What calibration makes of these rows."""
    total = torch.zeros(kind.shape(x.shape[1]), dtype=kind.summed_in)
    kind.observe(total, x, dense)
    return kind(total.float())


def stats_from(x, sequences=1, kinds=(InputSq, Gram)):
    return LayerStats.of(len(x), sequences, *(observed(kind, x, x) for kind in kinds))


@pytest.fixture
def inputs():
    return torch.randn(14, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def dense():
    return torch.randn(14, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", STATISTICS.values(), ids=list(STATISTICS))
class TestEveryStatistic:
    def test_it_is_in_the_table_under_its_name(self, kind):
        assert STATISTICS[kind.name] is kind
        assert kind.words

    def test_two_shards_add_up_to_the_whole(self, kind, inputs, dense):
        first, second = (observed(kind, inputs[s], dense[s]) for s in (slice(6), slice(6, None)))
        before = first.total.clone(), second.total.clone()
        merged = first + second
        assert type(merged) is kind
        torch.testing.assert_close(merged.total, observed(kind, inputs, dense).total)
        assert torch.equal(first.total, before[0])
        assert torch.equal(second.total, before[1])

    def test_those_of_other_widths_or_kinds_do_not_add(self, kind, inputs):
        narrow, wide = observed(kind, inputs[:, :1], inputs[:, :1]), observed(kind, inputs, inputs)
        other = next(k for k in STATISTICS.values() if k is not kind)
        for one, two in ((narrow, wide), (wide, other(wide.total))):
            with pytest.raises(ValueError, match="of different layers"):
                _ = one + two

    def test_it_takes_the_bytes_that_it_tells(self, kind, inputs):
        total = observed(kind, inputs, inputs).total
        assert total.dtype == torch.float32
        assert total.nbytes == kind.bytes(WIDTH)

    def test_it_goes_to_another_device_as_what_it_is(self, kind, inputs):
        there = observed(kind, inputs, inputs).to("meta")
        assert type(there) is kind
        assert there.total.device.type == "meta"

    def test_it_reads_the_dense_rows_only_if_it_says_so(self, kind, inputs, dense):
        alike = torch.equal(
            observed(kind, inputs, dense).total, observed(kind, inputs, inputs).total
        )
        assert alike != kind.reads_dense

    def test_it_leaves_the_rows_as_they_were(self, kind, inputs, dense):
        before = inputs.clone(), dense.clone()
        observed(kind, inputs, dense)
        assert torch.equal(inputs, before[0])
        assert torch.equal(dense, before[1])

    def test_what_is_not_finite_shows(self, kind, inputs):
        assert observed(kind, inputs, inputs).finite
        for bad in (float("nan"), float("inf")):
            inputs[3, 2] = bad
            assert not observed(kind, inputs, inputs).finite

    def test_a_file_gives_back_what_was_stored(self, kind, inputs, dense, tmp_path):
        layers = (Layer("b.0.q", 0, "q", 3, WIDTH, site="b.0.q"),)
        stats = LayerStats.of(14, 2, observed(kind, inputs, dense))
        model = torch.nn.ModuleDict({"b": torch.nn.ModuleList([torch.nn.Module()])})
        model.b[0].q = torch.nn.Linear(WIDTH, 3, bias=False)

        whole, path, needs = kind.held_back_of or kind, tmp_path / "stats", frozenset({kind})
        apart = [] if whole is kind else [[]]

        def collect(parts, needs, _guide):
            assert needs == {whole}
            nothing = whole(torch.zeros_like(stats[kind].total))
            for part, _ in enumerate(parts):  # the last part is held back, if one is
                own = whole(stats[kind].total) if part + 1 == len(parts) else nothing
                yield {"b.0.q": LayerStats.of(14 if own is not nothing else 0, 1, own)}

        load_or_collect(path, model, ModelLayout(layers), [[]], needs, collect, held_back=apart)
        back = load_or_collect(path, model, ModelLayout(layers), [], needs, None)["b.0.q"]
        assert (back.tokens, back.sequences) == (14, 1 + len(apart))
        assert back.found.keys() == {kind.name}
        assert torch.equal(back[kind].total, stats[kind].total)


def test_the_sums_are_what_their_formulas_say(inputs, dense):
    want = {
        InputSq: sum(x * x for x in inputs),
        Gram: sum(x[:, None] * x for x in inputs),
        Mean: sum(inputs),
        Cross: sum((d - x)[:, None] * x for x, d in zip(inputs, dense)),
    }
    want |= {HeldBackGram: want[Gram], HeldBackCross: want[Cross]}
    assert set(want) == set(STATISTICS.values())
    for kind, total in want.items():
        torch.testing.assert_close(observed(kind, inputs, dense).total, total)


def test_an_input_that_has_not_moved_has_no_cross_product(inputs):
    assert not observed(Cross, inputs, inputs.clone()).total.any()


def test_merging_adds_up_tokens_and_sequences(inputs):
    merged = stats_from(inputs[:6]) + stats_from(inputs[6:], sequences=2)
    assert (merged.tokens, merged.sequences) == (14, 3)
    torch.testing.assert_close(merged[Gram].total, stats_from(inputs)[Gram].total)


def test_statistics_of_different_kinds_do_not_merge(inputs):
    both, one = stats_from(inputs), stats_from(inputs, kinds=[InputSq])
    for first, second in ((both, one), (one, both)):
        with pytest.raises(ValueError, match="Cannot merge statistics of"):
            _ = first + second


@pytest.mark.parametrize("kind", STATISTICS.values(), ids=list(STATISTICS))
def test_what_nobody_collected_is_never_read_unnoticed(kind, inputs):
    layer = Layer("b.0.v", 0, "v", 3, 5, site="b.0.q")
    others = [other for other in STATISTICS.values() if other is not kind]
    for stats in (stats_of(unread([layer]), layer), stats_from(inputs, kinds=others)):
        assert kind not in stats
        with pytest.raises(LookupError, match=f"{kind.__name__} was read and not collected"):
            stats[kind]


def test_input_norm_is_the_root_mean_square_over_tokens(inputs):
    want = torch.tensor([sum(x * x for x in column) / 14 for column in inputs.T.tolist()]).sqrt()
    torch.testing.assert_close(stats_from(inputs, sequences=2).input_norm, want)


def test_sequence_sq_is_the_squared_norm_of_a_sequence_averaged_over_sequences(inputs):
    want = (inputs[:7].norm(dim=0) ** 2 + inputs[7:].norm(dim=0) ** 2) / 2
    torch.testing.assert_close(stats_from(inputs, sequences=2).sequence_sq, want)


def test_a_layer_finds_the_statistics_of_its_site(inputs):
    stats = {"b.0.q": stats_from(inputs)}
    assert stats_of(stats, Layer("b.0.v", 0, "v", 3, 5, site="b.0.q")) is stats["b.0.q"]
