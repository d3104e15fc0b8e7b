"""Sequential pruning is: collect on the model as pruned so far, solve one block, go on."""

import gc

import pytest
import torch
from tiny_models import GATED, TINY, make

from optishear.calibration.collect import collect
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import InputSq, LayerStats, summed
from optishear.errors import ConfigError, NumericalError
from optishear.models.blocks import BlockRunner
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.weights import read, working_weights
from optishear.pruning import oneshot, streams
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.pattern import parse_pattern
from optishear.recipe.profile import Bounds, project
from optishear.recipe.recipe import Recipe
from optishear.solvers.methods import needs_of
from optishear.solvers.quadratic import Quadratic


DEEP = {**GATED, "num_hidden_layers": 4}
WANDA = ({"name": "wanda"}, "row", {"name": "mask"})
SPARSEGPT = ({"name": "own"}, "block:128", {"name": "sparsegpt"})
METHODS = {"wanda": WANDA, "sparsegpt": SPARSEGPT}


class Line:
    """A tiny model, its calibration tokens in batches and recipes for it."""

    def __init__(self, model):
        self.model, self.layout = model, layout_of(model)
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, 53, (8, 16), generator=generator)
        self.batches = list(self.tokens.split(3))

    def recipe(self, method=WANDA, sparsity=0.6, **more):
        metric, pattern, solver = method
        targets = dict.fromkeys(self.layout.sizes, sparsity)
        budget = round(sparsity * self.layout.total)
        drop = project(targets, self.layout, parse_pattern(pattern), Bounds(), budget)
        return Recipe.of(metric, drop, pattern, solver, **more)

    def weights(self):
        return {layer.name: read(self.model, layer).clone() for layer in self.layout.layers}

    def sequential(self, recipe, batches=None, **more):
        batches = self.batches if batches is None else batches
        with working_weights(self.model, self.layout) as working:
            source = InMemory(self.model, working, self.layout)
            reports = apply_by_block(source, recipe, batches, **more)
            return self.weights(), reports

    def oneshot(self, recipe):
        needs = needs_of(recipe)
        data = CalibrationData(collect(self.model, self.layout, self.batches, needs))
        with working_weights(self.model, self.layout) as working:
            oneshot.apply(self.layout.layers, working, data, recipe)
            return self.weights()

    def by_hand(self, recipe, gradients=None, given=None):
        """The slow way: the whole model is run for every block."""
        with working_weights(self.model, self.layout) as working:
            for block in range(self.layout.blocks):
                stats = collect(self.model, self.layout, self.batches, summed(needs_of(recipe)))
                data = CalibrationData(stats, gradients or {}, given or {})
                for layer in self.layout.layers:
                    if layer.block == block:
                        list(oneshot.prune([layer], working, data, recipe))
            return self.weights()


@pytest.fixture(scope="module", params=sorted(TINY))
def line(request):
    """Nobody changes it, which a test of its own promises."""
    return Line(TINY[request.param]())


@pytest.fixture(scope="module")
def pruned(line):
    """By SparseGPT: (weights, reports)."""
    return line.sequential(line.recipe(SPARSEGPT))


@pytest.fixture
def deep():
    return Line(make("llama", DEEP))


def same(got, want):
    return {name for name in want if torch.equal(got[name], want[name])}


@pytest.mark.parametrize("method", METHODS)
def test_it_is_collecting_anew_for_every_block(line, pruned, method):
    recipe = line.recipe(METHODS[method])
    got, reports = pruned if method == "sparsegpt" else line.sequential(recipe)
    want = line.by_hand(recipe)
    # Fused experts are otherwise computed in another order than while listening to them.
    for name in want:
        assert torch.equal(got[name] == 0, want[name] == 0), name
        torch.testing.assert_close(got[name], want[name], rtol=1e-5, atol=1e-6)
    assert [report.name for report in reports] == [layer.name for layer in line.layout.layers]
    for report in reports:
        assert report.kept == report.size - recipe.drop[report.name]


@pytest.mark.parametrize("method", METHODS)
def test_it_is_collecting_anew_for_every_block_of_a_deep_model_bit_for_bit(deep, method):
    recipe = deep.recipe(METHODS[method])
    assert same(deep.sequential(recipe)[0], deep.by_hand(recipe)) == set(deep.layout.sizes)


def test_the_first_block_is_as_in_one_shot_and_the_others_are_not(line, pruned):
    alike = same(pruned[0], line.oneshot(line.recipe(SPARSEGPT)))
    assert alike >= {layer.name for layer in line.layout.layers if layer.block == 0}
    assert alike != set(line.layout.sizes)


def test_dense_weights_and_forwards_come_back(line):
    before, want = line.weights(), line.model(line.tokens, use_cache=False).logits
    changed, _ = line.sequential(line.recipe())
    assert not same(changed, before)
    assert same(line.weights(), before) == set(before)
    assert torch.equal(line.model(line.tokens, use_cache=False).logits, want)


def test_twice_is_the_same_bit_for_bit(line, pruned):
    again, _ = line.sequential(line.recipe(SPARSEGPT))
    assert same(pruned[0], again) == set(again)


def test_batch_size_does_not_matter(line, pruned):
    all_at_once, _ = line.sequential(line.recipe(SPARSEGPT), [line.tokens])
    for name in all_at_once:
        torch.testing.assert_close(pruned[0][name], all_at_once[name], rtol=1e-2, atol=1e-3)


def test_what_was_in_the_working_weights_before_does_not_matter(deep):
    recipe, want = deep.recipe(), deep.sequential(deep.recipe())[0]
    with working_weights(deep.model, deep.layout) as working:
        for layer in deep.layout.layers:
            working.write(layer.name, torch.ones(layer.out_features, layer.in_features))
        apply_by_block(InMemory(deep.model, working, deep.layout), recipe, deep.batches)
        assert same(deep.weights(), want) == set(want)


@pytest.mark.parametrize("method", METHODS)
def test_statistics_of_one_block_are_alive_at_a_time(deep, method, monkeypatch):

    def alive(kind):  # not collected first: it is reference counts that free them
        return sum(issubclass(type(thing), kind) for thing in gc.get_objects())

    def checked(run):
        def when_run(runner, *index):
            assert alive(LayerStats) == alive(Quadratic) == 0
            return run(runner, *index)

        return when_run

    counts = []

    def watched(*args):
        counts.append(alive(LayerStats))
        yield from oneshot.prune(*args)

    monkeypatch.setattr(BlockRunner, "run", checked(BlockRunner.run))
    monkeypatch.setattr(BlockRunner, "advance", checked(BlockRunner.advance))
    gc.collect()
    gc.freeze()  # what is alive by now, of other tests' fixtures, say, is not among the objects
    try:
        deep.sequential(deep.recipe(METHODS[method]), prune_layers=watched)
    finally:
        gc.unfreeze()
    sites = {layer.site for layer in deep.layout.layers}
    assert counts == [len(sites) / 4] * 4


def test_the_last_block_is_not_run_once_more(deep, monkeypatch):
    advanced, advance = [], BlockRunner.advance
    monkeypatch.setattr(
        BlockRunner, "advance", lambda self: (advanced.append(self.block), advance(self))
    )
    deep.sequential(deep.recipe())
    assert advanced == [0, 1, 2]


def test_without_needs_nothing_is_run(deep):
    recipe = deep.recipe(({"name": "magnitude"}, "layer", {"name": "mask"}))
    want, calls = deep.oneshot(Recipe.of({"name": "magnitude"}, recipe.drop, "layer")), []
    deep.model.model.embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    got, reports = deep.sequential(recipe, batches=[])
    assert same(got, want) == set(want)
    assert len(reports) == len(want)
    assert not calls


def test_gradients_of_the_dense_model_are_handed_through(deep):
    generator = torch.Generator().manual_seed(1)
    gradients = {
        layer.name: LayerGradients(
            torch.randn(layer.out_features, 3, layer.in_features, generator=generator).half(),
            torch.ones(3),
        )
        for layer in deep.layout.layers
    }
    mixed = {"name": "moonshot", "lambda": dict.fromkeys(deep.layout.sizes, 0.5)}
    recipe = deep.recipe(SPARSEGPT, quadratic=mixed)
    got, _ = deep.sequential(recipe, gradients=gradients)
    assert same(got, deep.by_hand(recipe, gradients)) == set(got)
    assert not same(got, deep.sequential(deep.recipe(SPARSEGPT))[0])


def test_given_masks_are_handed_through(deep):
    recipe = deep.recipe(({"name": "wanda"}, "row", {"name": "refit", "of": "mask"}), 0.5)
    given = {}
    for layer in deep.layout.layers:
        given[layer.name] = torch.arange(layer.size).view(layer.out_features, -1) % 2 == 0
    got, _ = deep.sequential(recipe, given=given)
    assert all(torch.equal(got[name] != 0, keep) for name, keep in given.items())
    assert same(got, deep.by_hand(recipe, given=given)) == set(got)


def test_progress_is_told_block_by_block(deep):
    told = []
    deep.sequential(deep.recipe(), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_exception_in_the_middle_leaves_the_model_as_it_was(deep):
    before, want = deep.weights(), deep.model(deep.tokens, use_cache=False).logits

    def failing(layers, *args):
        if layers[0].block == 2:
            raise NumericalError("no")
        yield from oneshot.prune(layers, *args)

    with pytest.raises(NumericalError, match="no"):
        deep.sequential(deep.recipe(), prune_layers=failing)
    assert same(deep.weights(), before) == set(before)
    assert torch.equal(deep.model(deep.tokens, use_cache=False).logits, want)
    assert not any("forward" in vars(block) for block in decoder_blocks(deep.model)[1])
    assert not any(module._forward_pre_hooks for module in deep.model.modules())


def test_a_recipe_for_another_model_is_refused_before_anything_is_run(deep):
    other = Line(TINY["llama"]())
    calls = []
    deep.model.model.embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ConfigError, match="Was it made for another model"):
        deep.sequential(other.recipe())
    assert not calls


def test_an_expert_without_tokens_is_named():
    line = Line(TINY["mixtral"]())
    with torch.no_grad():
        line.model.model.layers[1].mlp.gate.weight.zero_()
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.experts\.\w+\.2.*more calibration"):
        line.sequential(line.recipe())


def test_needs_that_are_not_asked_for_are_not_collected(deep, monkeypatch):
    asked, collecting = [], streams.collecting

    def noted(model, layers, needs, guide):
        asked.append(({layer.block for layer in layers}, needs))
        return collecting(model, layers, needs, guide)

    monkeypatch.setattr(streams, "collecting", noted)
    deep.sequential(deep.recipe())
    assert asked == [({block}, frozenset({InputSq})) for block in range(4)]
