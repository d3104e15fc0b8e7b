"""Statistics around a recipe: its own one-shot is then what it is block by block."""

import pytest
import torch
from tiny_models import GATED, TINY, make, tokens

from optishear.calibration.collect import collect
from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import Cross, Gram, InputSq, stats_of, summed
from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.weights import read, working_weights
from optishear.pruning.around import statistics_around
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.oneshot import OneShot
from optishear.recipe.recipe import Recipe
from optishear.recipe.reconstruction import ReconstructionSettings
from optishear.solvers.methods import needs_of


BATCHES = [tokens(3, 12, seed=1), tokens(2, 12, seed=2)]
DEEP = {**GATED, "num_hidden_layers": 3}
SOLVERS = {
    "mask": {"name": "mask"},
    "refit": {"name": "refit", "of": "mask"},
    "sparsegpt": {"name": "sparsegpt", "block": 8},
    "alps": {"name": "alps"},
}


def recipe_for(layout, solver="refit", drop=0.5, **more):
    counts = {x.name: int(x.size * drop) for x in layout.layers}
    metric = {"name": "wanda"} if solver in ("mask", "refit") else {"name": "own"}
    return Recipe.of(metric, counts, "layer", SOLVERS[solver], **more)


def by_block(model, recipe, **more):
    layout = layout_of(model)
    with working_weights(model, layout) as working:
        apply_by_block(InMemory(model, working, layout), recipe, BATCHES, **more)
        return {layer.name: working.view(layer.name).clone() for layer in layout.layers}


def at_once(model, recipe, stats, around=True):
    layout = layout_of(model)
    data = CalibrationData(stats, around=around)
    with working_weights(model, layout) as working:
        OneShot(working, layout, data).write(recipe)
        return {layer.name: working.view(layer.name).clone() for layer in layout.layers}


def stats_for(model, recipe, around, **more):
    kinds = summed(needs_of(recipe))
    return statistics_around(model, layout_of(model), around, BATCHES, kinds, **more)


@pytest.mark.parametrize(
    ("kind", "solver", "order"),
    [
        *(("llama", solver, order) for solver in SOLVERS for order in ("block", "site")),
        ("gpt2", "refit", "site"),
        ("mixtral", "refit", "block"),
    ],
)
def test_a_recipe_around_itself_is_at_once_what_it_is_block_by_block(kind, solver, order):
    model = make("llama", DEEP) if kind == "llama" else TINY[kind]()
    shift = {} if kind == "mixtral" else {"target_shift": 0.5}
    recipe = recipe_for(
        layout_of(model), solver, 0.25, quadratic={"name": "reconstruction", **shift}, order=order
    )
    found = at_once(model, recipe, stats_for(model, recipe, recipe))
    for name, weight in by_block(model, recipe).items():
        assert torch.equal(found[name], weight), name


def test_the_model_is_dense_again_afterwards():
    model = make("llama", DEEP)
    before = {x.name: read(model, x).clone() for x in layout_of(model).layers}
    recipe = recipe_for(layout_of(model))
    stats_for(model, recipe, recipe)
    assert all(torch.equal(read(model, x), before[x.name]) for x in layout_of(model).layers)


def test_other_kinds_than_the_recipe_reads_are_of_the_same_tokens():
    """A mask by weights reads nothing, and yet what its model reads can be summed up."""
    model = make("llama", DEEP)
    layout = layout_of(model)
    recipe = Recipe.of({"name": "magnitude"}, {x.name: x.size // 2 for x in layout.layers}, "layer")
    kinds = frozenset({Gram, Cross, InputSq})
    found = statistics_around(model, layout, recipe, BATCHES, kinds)
    for layer in layout.layers:
        stats = stats_of(found, layer)
        assert stats.tokens == 60
        assert bool(stats[Cross].total.any()) == (layer.block > 0)
        torch.testing.assert_close(stats[Gram].total.diagonal(), stats[InputSq].total)


def test_dense_is_around_nothing_dropped():
    model = make("llama", DEEP)
    layout = layout_of(model)
    nothing = recipe_for(layout, "mask", 0.0)
    around = statistics_around(model, layout, nothing, BATCHES, frozenset({Gram}))
    dense = collect(model, layout, BATCHES, frozenset({Gram}))
    for site, stats in dense.items():
        torch.testing.assert_close(around[site][Gram].total, stats[Gram].total)


def test_a_shift_or_an_order_means_something_around_a_recipe_only():
    model = make("llama", DEEP)
    layout = layout_of(model)
    shifted = recipe_for(
        layout, quadratic={"name": "reconstruction", "target_shift": 0.5}, order="site"
    )
    stats = stats_for(model, shifted, recipe_for(layout, "mask"))
    assert at_once(model, shifted, stats).keys() == layout.sizes.keys()
    with pytest.raises(
        ConfigError, match="a target shift and an order by site, which mean nothing"
    ):
        at_once(model, shifted, stats, around=False)
    moved = recipe_for(layout, reconstruct=ReconstructionSettings())
    with pytest.raises(ConfigError, match=r"a local reconstruction, which mean nothing.* at once"):
        at_once(model, moved, stats)


def test_a_reconstruction_of_the_recipe_is_part_of_what_it_makes():
    model = make("llama", DEEP)
    layout = layout_of(model)
    plain = recipe_for(layout, drop=0.6)
    moved = recipe_for(layout, drop=0.6, reconstruct=ReconstructionSettings(epochs=2))
    first, second = (stats_for(model, plain, around) for around in (plain, moved))
    last = next(x for x in layout.layers if x.block == layout.blocks - 1)
    assert not torch.equal(stats_of(first, last)[Gram].total, stats_of(second, last)[Gram].total)
    begin = layout.layers[0]
    assert torch.equal(stats_of(first, begin)[Gram].total, stats_of(second, begin)[Gram].total)


def test_guided_recipes_and_those_of_other_models_are_refused():
    model = make("llama", DEEP)
    layout = layout_of(model)
    guided = recipe_for(layout, quadratic={"name": "guided", "groups": 1})
    with pytest.raises(ConfigError, match="around: the recipe is guided"):
        stats_for(model, guided, guided)
    other = recipe_for(layout_of(make("llama", GATED | {"num_hidden_layers": 2})))
    with pytest.raises(ConfigError, match="made for another model"):
        stats_for(model, other, other)


def test_gradients_of_the_recipe_are_needed_where_it_reads_them():
    model = make("llama", DEEP)
    layout = layout_of(model)
    lambdas = dict.fromkeys(layout.sizes, 0.5)
    mixed = recipe_for(layout, quadratic={"name": "moonshot", "lambda": lambdas})
    assert LayerGradients in needs_of(mixed)
    with pytest.raises(KeyError):
        stats_for(model, mixed, mixed)
