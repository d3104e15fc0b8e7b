"""Weighted sums of guided layers: what they are, who sums them up, and what they take."""

import pytest
import torch
from tiny_models import TINY, tokens

from optishear.calibration.collect import collect, collecting
from optishear.calibration.parts import collect_in_parts, one_after_the_other, parts_of
from optishear.calibration.statistics import (
    Cross,
    Gram,
    InputSq,
    LayerStats,
    Mean,
    Statistic,
    statistics_bytes,
)
from optishear.calibration.store import load_or_collect
from optishear.calibration.token_weights import Guide
from optishear.models.discover import layout_of
from optishear.models.head import hidden_states


BATCHES = [tokens(2, 9, seed=1), tokens(2, 9, seed=2), tokens(1, 9, seed=3)]
SAMPLES, SEEN = 5, 45
NEEDS = frozenset({InputSq, Gram, Mean})


@pytest.fixture(scope="module")
def model():
    return TINY["llama"]()


@pytest.fixture(scope="module")
def layout(model):
    return layout_of(model)


def guide_for(layers, groups=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Guide({x.name: torch.rand(SEEN, groups, generator=generator) for x in layers}, SAMPLES)


def inputs_of(model, layer):
    """[tokens, in] in fp64, in the order of the batches."""
    found = []
    hook = model.get_submodule(layer.name).register_forward_pre_hook(
        lambda _module, args: found.append(args[0].flatten(0, 1).double())
    )
    with torch.no_grad():
        for batch in BATCHES:
            hidden_states(model, batch)
    hook.remove()
    return torch.cat(found)


def test_they_are_the_sums_written_out(model, layout):
    guided = [x for x in layout.layers if x.role in ("self_attn.k_proj", "mlp.down_proj")]
    guide = guide_for(guided)
    found = collect(model, layout, BATCHES, NEEDS, guide)
    for layer in guided:
        x, groups = inputs_of(model, layer), found[layer.site].guided[layer.name]
        assert len(groups) == 2
        for group, s in zip(groups, guide.weights[layer.name].double().T):
            want = (s[:, None] * x).T @ x
            torch.testing.assert_close(group[Gram].total.double(), want, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(
                group[InputSq].total.double(), want.diagonal(), rtol=1e-4, atol=1e-4
            )
            assert (group.tokens, group.sequences) == (SEEN, SAMPLES)
            assert Mean not in group  # no product of two entries


def test_weights_of_one_change_no_bit(model, layout):
    ones = Guide({x.name: torch.ones(SEEN, 1) for x in layout.layers}, SAMPLES)
    plain = collect(model, layout, BATCHES, NEEDS)
    found = collect(model, layout, BATCHES, NEEDS, ones)
    for layer in layout.layers:
        [group] = found[layer.site].guided[layer.name]
        for kind in (Gram, InputSq):
            assert torch.equal(group[kind].total, plain[layer.site][kind].total)


def test_layers_that_are_not_guided_see_what_they_saw(model, layout):
    guided = [x for x in layout.layers if x.role in ("self_attn.k_proj", "mlp.down_proj")]
    plain = collect(model, layout, BATCHES, NEEDS)
    found = collect(model, layout, BATCHES, NEEDS, guide_for(guided))
    for site, stats in found.items():
        for name, each in stats.found.items():
            assert isinstance(each, Statistic)
            assert torch.equal(each.total, plain[site].sums[name].total)
    alone = {x.site for x in guided if x.role == "mlp.down_proj"}
    assert {site for site, stats in found.items() if Gram not in stats} == alone
    assert all(InputSq in stats and Mean in stats for stats in found.values())


def test_both_streams_are_weighed_alike(model, layout):
    down = next(layer for layer in layout.layers if layer.role == "mlp.down_proj")
    guide, other = guide_for([down]), TINY["llama"]()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(0.5)
    pruned, dense = inputs_of(other, down), inputs_of(model, down)
    module = other.get_submodule(down.name)
    with collecting(other, [down], frozenset({Cross}), guide) as running:
        for one, two in zip(pruned.float().split(9), dense.float().split(9), strict=True):
            with running.dense_stream():
                module(two)
            module(one)
    groups = running.sums(SAMPLES)[down.site].guided[down.name]
    for group, s in zip(groups, guide.weights[down.name].double().T, strict=True):
        want = (s[:, None] * (dense - pruned)).T @ pruned
        torch.testing.assert_close(group[Cross].total.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_parts_are_weighed_by_their_own_tokens(model, layout, number):
    guide = guide_for(layout.layers[:4])
    parts = parts_of(BATCHES, number)
    whole = collect(model, layout, BATCHES, NEEDS, guide)
    found = collect_in_parts(one_after_the_other(model, layout), parts, NEEDS, guide)
    for site, stats in whole.items():
        assert stats.sums.keys() == found[site].sums.keys()
        for name, each in stats.sums.items():
            torch.testing.assert_close(found[site].sums[name].total, each.total)


def test_a_file_gives_them_back(model, layout, tmp_path):
    guide = guide_for(layout.layers[1:4])
    first = load_or_collect(tmp_path / "a", model, layout, [BATCHES], NEEDS, guide=guide)
    again = load_or_collect(tmp_path / "a", model, layout, [], NEEDS, guide=guide)
    for site, stats in first.items():
        assert again[site].groups == stats.groups
        assert again[site].sums.keys() == stats.sums.keys()
        for name, each in stats.sums.items():
            assert torch.equal(again[site].sums[name].total, each.total)


@pytest.mark.parametrize("guided", [0, 1, 3, 14])
def test_their_bytes_are_known_beforehand(model, layout, guided):
    guide = guide_for(layout.layers[:guided])
    found = collect(model, layout, BATCHES, NEEDS, guide)
    held = sum(4 * each.total.numel() for stats in found.values() for each in stats.sums.values())
    assert statistics_bytes(layout, NEEDS, guide.groups) == held


def test_tokens_without_weights_are_no_weights_of_one(model, layout):
    guide = Guide({layout.layers[0].name: torch.ones(SEEN - 1, 1)}, SAMPLES)
    with pytest.raises(ValueError, match="that have weights"):
        collect(model, layout, BATCHES, NEEDS, guide)


def test_other_row_groups_do_not_add_up():
    def stats(groups):
        one = LayerStats.of(3, 1, InputSq(torch.ones(2)))
        return LayerStats(3, 1, {}, {"q": (one,) * groups})

    assert (stats(2) + stats(2)).guided["q"][1].tokens == 6
    with pytest.raises(ValueError, match="row groups"):
        stats(1) + stats(2)
