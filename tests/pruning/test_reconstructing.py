"""Reconstruction in the block loop: what it reports is what two whole forward passes show."""

from dataclasses import replace

import pytest
import torch
from tiny_models import GATED, TINY, make, tokens

from optishear.errors import ConfigError
from optishear.models.blocks import hidden_of
from optishear.models.discover import decoder_blocks, layout_of
from optishear.models.norms import norms_of
from optishear.models.weights import working_weights
from optishear.pruning import reconstructing
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.oneshot import prune
from optishear.pruning.reconstruction import notes_of, split
from optishear.recipe.recipe import Recipe
from optishear.recipe.reconstruction import ReconstructionSettings


BATCHES = [tokens(3, 12, seed=1), tokens(5, 12, seed=2)]
SEQUENCES = torch.cat(BATCHES)
BLOCK = ReconstructionSettings(epochs=2, learning_rate=3e-3, held_back=0.25)
HALF = replace(BLOCK, window="half")
DEEP = {**GATED, "num_hidden_layers": 3}


@pytest.fixture(params=["gpt2", "mixtral"])
def model(request):
    return TINY[request.param]()


def recipe_of(model, settings, metric="wanda", **more):
    drop = {x.name: x.size // 2 for x in layout_of(model).layers}
    return Recipe.of({"name": metric}, drop, "layer", reconstruct=settings, **more)


def applied(model, recipe, batches=BATCHES, **more):
    """(what each block makes of every sequence, weights, windows), once all are pruned."""
    layout = layout_of(model)
    with working_weights(model, layout) as working:
        source = InMemory(model, working, layout)
        apply_by_block(source, recipe, batches, **more)
        weights = {x.name: working.view(x.name).clone() for x in layout.layers}
        return made_by_blocks(model), weights, source.windows


@torch.no_grad()
def made_by_blocks(model):
    """By hooks on a forward pass of the whole model."""
    made, hooks = [], []
    for block in decoder_blocks(model)[1]:
        hooks.append(block.register_forward_hook(lambda _m, _a, out: made.append(hidden_of(out))))
    model(SEQUENCES, use_cache=False)
    for hook in hooks:
        hook.remove()
    return made


def error(made, dense, sequences):
    made, dense = made[sequences].double(), dense[sequences].double()
    return ((made - dense).square().sum() / dense.square().sum()).item()


@pytest.mark.parametrize("settings", [BLOCK, HALF], ids=["block", "half"])
def test_the_errors_told_are_those_of_whole_forward_passes(model, settings):
    dense = made_by_blocks(model)
    made, weights, windows = applied(model, recipe_of(model, settings))
    _, held = split(len(SEQUENCES), 0.25, 0)
    halves = settings.window == "half"
    assert len(windows) == len(dense) * (2 if halves else 1)
    for block, window in enumerate(windows[1::2] if halves else windows):
        assert window.window.startswith(f"block {block}")
        assert window.after == pytest.approx(error(made[block], dense[block], held), rel=1e-3)
    for window in windows:
        assert window.after <= window.before
        assert (window.learned, window.decided) == (6, 2)
    assert any(window.after < 0.95 * window.before for window in windows)
    for layer in layout_of(model).layers:
        assert int((weights[layer.name] == 0).sum()) == layer.size // 2


def test_a_mask_is_what_it_was_solved_as_and_the_model_comes_back(model):
    dense, flags = made_by_blocks(model), [p.requires_grad for p in model.parameters()]
    solved = {}

    def noting(layers, working, data, recipe):
        for layer, solution in prune(layers, working, data, recipe):
            solved[layer.name] = working.view(layer.name).clone()
            yield layer, solution

    _, weights, _ = applied(model, recipe_of(model, BLOCK), prune_layers=noting)
    for name, weight in weights.items():
        assert torch.equal(weight == 0, solved[name] == 0), name
    assert any(not torch.equal(weights[name], solved[name]) for name in weights)
    assert all(torch.equal(a, b) for a, b in zip(dense, made_by_blocks(model), strict=True))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())


def test_norms_and_biases_move_where_that_is_asked_for_and_come_back(model):
    dense, plain = made_by_blocks(model), applied(model, recipe_of(model, BLOCK))[2]
    recipe = recipe_of(model, replace(BLOCK, norms=True))
    layout, moved = layout_of(model), set()
    names = [n for block in range(layout.blocks) for n in norms_of(model, block)]
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    with working_weights(model, layout) as working:
        source = InMemory(model, working, layout)
        apply_by_block(source, recipe, BATCHES)
        moved = {n for n in names if not torch.equal(before[n], model.get_parameter(n))}
        again = InMemory(model, working, layout)  # begins dense, norms and all
        apply_by_block(again, recipe_of(model, BLOCK), BATCHES)
    assert moved >= set(norms_of(model, 0))  # a later block may be best as it was solved
    assert source.windows[0].after < plain[0].after
    assert again.windows == plain
    assert all(torch.equal(a, b) for a, b in zip(dense, made_by_blocks(model), strict=True))


@pytest.mark.parametrize("window", ["block", "half"])
def test_dense_inputs_are_pruned_inputs_where_nothing_before_is_pruned(model, window):
    settings = replace(BLOCK, window=window)
    _, pruned, one = applied(model, recipe_of(model, settings))
    _, dense, other = applied(model, recipe_of(model, replace(settings, inputs="dense")))
    same = {name for name in pruned if torch.equal(pruned[name], dense[name])}
    first = {x.name for x in layout_of(model).layers if x.block == 0}
    if window == "half":  # the second reads what the first, pruned, makes
        first = {name for name in first if "attn" in name}
    assert first <= same
    assert same != pruned.keys()
    assert one[0] == other[0]
    assert all(w.after <= w.before for w in other)


def test_the_same_seed_is_the_same_bit_for_bit(model):
    recipe = recipe_of(model, HALF)
    _, one, windows = applied(model, recipe)
    _, two, again = applied(model, recipe)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert windows == again
    _, other, _ = applied(model, recipe_of(model, replace(HALF, seed=1)))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_with_targets_shifted_and_sites_in_their_order_both_streams_are_shared():
    model = make("llama", DEEP)
    dense = made_by_blocks(model)
    solver = {"name": "refit", "of": "mask"}
    quadratic = {"name": "reconstruction", "damping": 0.1, "target_shift": 0.5}
    more = {"solver": solver, "quadratic": quadratic, "order": "site"}
    recipe = recipe_of(model, replace(BLOCK, epochs=3, learning_rate=1e-3), **more)
    made, _, windows = applied(model, recipe)
    plain, _, _ = applied(model, replace(recipe, reconstruct=None))
    _, held = split(len(SEQUENCES), 0.25, 0)
    for block, window in enumerate(windows):
        assert window.after == pytest.approx(error(made[block], dense[block], held), rel=1e-3)
    assert error(made[-1], dense[-1], held) < error(plain[-1], dense[-1], held)


def test_a_recipe_that_reads_no_inputs_can_be_reconstructed_too(model):
    dense = made_by_blocks(model)
    made, _, windows = applied(model, recipe_of(model, BLOCK, "magnitude"))
    _, held = split(len(SEQUENCES), 0.25, 0)
    for block, window in enumerate(windows):
        assert window.after == pytest.approx(error(made[block], dense[block], held), rel=1e-3)


def test_an_absurd_learning_rate_leaves_what_was_solved_and_says_so(model):
    recipe = recipe_of(model, replace(BLOCK, learning_rate=1.0))
    made, weights, windows = applied(model, recipe)
    _, plain, _ = applied(model, replace(recipe, reconstruct=None))
    assert all(torch.equal(weights[name], plain[name]) for name in plain)
    assert all(made[-1].isfinite().flatten())
    assert all(window.best == 0 and window.after == window.before for window in windows)
    told, *notes = notes_of(windows)
    assert told == f"reconstruction: 0 of {len(windows)} windows are nearer to the dense model"
    assert len(notes) == len(windows)
    assert notes[1].startswith("block 1: reconstruction: no epoch")


def test_what_stays_dense_is_left_as_it_is():
    model = make("llama", DEEP)
    recipe = recipe_of(model, replace(BLOCK, epochs=3))
    drop = {name: n if ".1." in name else 0 for name, n in recipe.drop.items()}
    _, weights, windows = applied(model, recipe.with_drop(drop))
    for layer in layout_of(model).layers:
        dense = model.get_parameter(f"{layer.name}.weight")
        assert torch.equal(weights[layer.name], dense) == (layer.block == 0)
    assert windows[0].losses == ()
    assert windows[2].best > 0  # all its weights make good what block 1 lost


def test_it_is_refused_before_anything_is_solved(model):
    def never(*_):
        raise AssertionError

    with pytest.raises(ConfigError, match="none is left to learn from"):
        applied(model, recipe_of(model, BLOCK), [SEQUENCES[:1]], prune_layers=never)
    with pytest.raises(ConfigError, match="a local reconstruction"):
        applied(model, recipe_of(model, BLOCK), sequential=False, prune_layers=never)
    neox = TINY["gpt_neox"]()
    with pytest.raises(ConfigError, match="no two halves"):
        applied(neox, recipe_of(neox, HALF), prune_layers=never)


def test_out_of_memory_names_the_window_and_what_to_set(model, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(reconstructing, "reconstruct", full)
    with pytest.raises(ConfigError, match=r"block 0: there is not enough memory.*--reconstruct h"):
        applied(model, recipe_of(model, BLOCK))
