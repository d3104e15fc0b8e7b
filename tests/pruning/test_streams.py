"""Two streams: a statistic may read what the dense model's layers read beside the pruned one's."""

import pytest
import torch
from drift import Drift
from site_inputs import read_by
from tiny_models import GATED, TINY, make, tokens

from optishear.calibration.statistics import Cross, Gram, InputSq, reads_dense, summed
from optishear.errors import ConfigError
from optishear.metrics import METRICS
from optishear.models.blocks import BlockRunner
from optishear.models.discover import layout_of
from optishear.models.weights import working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.oneshot import prune
from optishear.pruning.streams import Streams
from optishear.recipe.recipe import Recipe


BATCHES = [tokens(3, 12, seed=1), tokens(2, 12, seed=2)]
DEEP = {**GATED, "num_hidden_layers": 3}


@pytest.fixture(autouse=True)
def drift(monkeypatch):
    monkeypatch.setitem(METRICS, "drift", Drift)


@pytest.fixture(params=["llama", "gpt2"])
def model(request):
    return make("llama", DEEP) if request.param == "llama" else TINY["gpt2"]()


def recipe_for(layout, metric="drift"):
    return Recipe.of({"name": metric}, {x.name: x.size // 2 for x in layout.layers}, "layer")


class Source(InMemory):
    """Notes which streams it was asked for."""

    def runner(self, batches, stream):
        self.asked = [*getattr(self, "asked", ()), stream]
        return super().runner(batches, stream)


def applied(model, recipe, **more):
    """(statistics by site, weights by layer, streams) of a whole run."""
    layout, stats, weights = layout_of(model), {}, {}

    def noting(layers, working, data, recipe):
        stats.update(data.stats)
        yield from prune(layers, working, data, recipe)

    with working_weights(model, layout) as working:
        source = Source(model, working, layout)
        apply_by_block(source, recipe, BATCHES, prune_layers=noting, **more)
        for layer in layout.layers:
            weights[layer.name] = working.view(layer.name).clone()
    return stats, weights, getattr(source, "asked", [])


def test_cross_equals_a_slow_reference_of_two_full_forward_passes(model):
    layout = layout_of(model)
    stats, weights, asked = applied(model, recipe_for(layout))
    assert asked == ["hidden", "dense"]
    dense = read_by(model, layout.layers, BATCHES)
    with working_weights(model, layout) as working:
        for block in range(layout.blocks):
            pruned = read_by(
                model, layout.layers, BATCHES
            )  # the blocks before are pruned, this one is dense
            for site in {layer.site for layer in layout.layers if layer.block == block}:
                x, moved = pruned[site], dense[site] - pruned[site]
                assert stats[site].tokens == len(x) == 60
                torch.testing.assert_close(
                    stats[site][Cross].total.double(), moved.T @ x, rtol=1e-4, atol=1e-4
                )
                assert bool(stats[site][Cross].total.any()) == (block > 0)
                want = x.square().sum(0)  # and what reads one stream reads the pruned one
                torch.testing.assert_close(
                    stats[site][InputSq].total.double(), want, rtol=1e-4, atol=1e-4
                )
            for layer in layout.layers:
                if layer.block == block:
                    working.write(layer.name, weights[layer.name])


def test_the_dense_stream_is_carried_only_where_something_reads_it(model):
    stats, _, asked = applied(model, recipe_for(layout_of(model), "wanda"))
    assert asked == ["hidden"]
    assert all(Cross not in each for each in stats.values())
    assert not reads_dense(frozenset({InputSq, Gram}))
    assert summed(Drift.needs) == Drift.needs
    assert reads_dense(Drift.needs)


def test_statistics_of_the_dense_model_need_one_stream_in_which_nothing_has_moved(model):
    stats, _, asked = applied(model, recipe_for(layout_of(model)), sequential=False)
    assert asked == ["hidden"]
    assert not any(each[Cross].total.any() for each in stats.values())


def test_what_is_asked_beside_it_does_not_change_what_one_stream_sums_up(model, monkeypatch):
    layout = layout_of(model)
    one, weights, _ = applied(model, recipe_for(layout, "wanda"))
    monkeypatch.setattr(METRICS["wanda"], "needs", Drift.needs)
    two, again, asked = applied(model, recipe_for(layout, "wanda"))
    assert asked == ["hidden", "dense"]
    for site, stats in one.items():
        assert torch.equal(stats[InputSq].total, two[site][InputSq].total)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize("kind", ["mixtral", "list_moe"])
def test_experts_that_read_other_tokens_in_each_stream_are_refused(kind):
    model = TINY[kind]()
    with pytest.raises(ConfigError, match=r"experts.*do not read the same tokens"):
        applied(model, recipe_for(layout_of(model)))
    assert not any(m._forward_pre_hooks for m in model.modules())


def counting(model, end):
    """How often modules whose name ends so are called, in a list that grows."""
    called = []
    for name, module in model.named_modules():
        if name.endswith(end):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    return called


def streams_of(model, batches):
    layout = layout_of(model)
    layers = [layer for layer in layout.layers if layer.block == 0]
    runner = BlockRunner(model, batches)
    return Streams(frozenset({Gram}), runner), layers


def test_a_pass_ends_where_every_layer_has_read():
    model = make("llama", DEEP)
    streams, layers = streams_of(model, [tokens(2, 12, seed=seed) for seed in range(3)])
    for end, others in (("down_proj", "up_proj"), ("v_proj", "o_proj")):
        step = [layer for layer in layers if not layer.role.endswith(("down_proj", "o_proj"))]
        step = layers if end == "down_proj" else [x for x in step if "self_attn" in x.role]
        last, before = counting(model, end), counting(model, others)
        first = streams.statistics(step)
        # All of the first pass, which shows that each layer reads once; then no more than it takes.
        assert len(last) == 1
        again = streams.statistics(step)
        assert len(last) == 1
        assert len(before) == (6 if end == "down_proj" else 1)
        for site, stats in first.items():
            assert torch.equal(stats[Gram].total, again[site][Gram].total)


def test_a_pass_with_a_layer_that_reads_twice_goes_to_its_end():
    model = make("llama", DEEP)
    block = model.model.layers[0]
    plain = type(block.mlp).forward
    block.mlp.forward = lambda x: plain(block.mlp, plain(block.mlp, x))
    batches = [tokens(2, 12, seed=seed) for seed in range(3)]
    streams, layers = streams_of(model, batches)
    found = streams.statistics(layers)
    want = read_by(model, layers, batches)
    assert len(want["model.layers.0.mlp.down_proj"]) == 2 * 72
    for site, x in want.items():
        assert found[site].tokens == len(x)
        torch.testing.assert_close(found[site][Gram].total.double(), x.T @ x, rtol=1e-4, atol=1e-4)
