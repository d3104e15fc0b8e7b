"""Shifted targets and the order by site on whole models, against whole forward passes."""

import pytest
import torch
from site_inputs import read_by
from tiny_models import GATED, TINY, make, tokens

from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.weights import read, working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.oneshot import prune
from optishear.recipe.recipe import Recipe


BATCHES = [tokens(9, 12, seed=1), tokens(8, 12, seed=2)]
DEEP = {**GATED, "num_hidden_layers": 3}
MASK, REFIT = ({"name": "magnitude"}, {"name": "mask"}), ({"name": "wanda"}, {"name": "refit"})
STEPS = [{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}]


def recipe_for(layout, method=MASK, shift=1.0, order="block", sparsity=0.5, **more):
    metric, solver = method
    drop = {x.name: int(x.size * sparsity) for x in layout.layers}
    quadratic = {"name": "reconstruction", "target_shift": shift}
    return Recipe.of(metric, drop, "layer", solver, quadratic, order=order, **more)


def applied(model, recipe, watch=prune):
    layout = layout_of(model)
    with working_weights(model, layout) as working:
        reports = apply_by_block(
            InMemory(model, working, layout), recipe, BATCHES, prune_layers=watch
        )
        weights = {x.name: working.view(x.name).clone() for x in layout.layers}
    assert [report.name for report in reports] == [x.name for x in layout.layers]
    return weights


def imitating(weight, dense, pruned, alpha):
    """The weight that is nearest to alpha x + (1 - alpha) x' seen from x', damped."""
    tokens = len(pruned)
    damping = 0.01 * pruned.square().mean() * torch.eye(pruned.shape[1]).double()
    left = torch.cat([pruned / tokens**0.5, damping.sqrt()])
    right = torch.cat([(pruned + alpha * (dense - pruned)) / tokens**0.5, damping.sqrt()])
    return torch.linalg.lstsq(left, right @ weight.double().T).solution.T


@pytest.mark.parametrize("order", ["block", "site"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_what_is_kept_is_of_the_least_squares_answer_for_the_dense_output(order, alpha):
    model = make("llama", DEEP)
    layout, before = layout_of(model), {}
    recipe = recipe_for(layout, shift=alpha, order=order)
    found = applied(model, recipe)
    dense = read_by(model, layout.layers, BATCHES)
    before = {x.name: read(model, x).clone() for x in layout.layers}
    moved = set()
    with working_weights(model, layout) as working:
        for block in range(layout.blocks):
            own = [x for x in layout.layers if x.block == block]
            steps = [own] if order == "block" else [_of(own, step) for step in STEPS]
            for step in steps:
                pruned = read_by(model, step, BATCHES)
                for layer in step:
                    x, now = dense[layer.site], pruned[layer.site]
                    target = imitating(before[layer.name], x, now, alpha)
                    kept = found[layer.name] != 0
                    assert int((~kept).sum()) == recipe.drop[layer.name]
                    torch.testing.assert_close(
                        found[layer.name][kept].double(), target[kept], rtol=1e-3, atol=1e-3
                    )
                    assert target[kept].abs().min() > target[~kept].abs().max() - 1e-3
                    if (target - before[layer.name]).abs().max() > 0.01:
                        moved.add((layer.block, layer.role.split(".")[-1]))
                for layer in step:
                    working.write(layer.name, found[layer.name])
    first = {role for block, role in moved if block == 0}
    assert first == (set() if order == "block" else set().union(*STEPS[1:]))
    assert all((block, role) in moved for block in (1, 2) for role in set().union(*STEPS))


def _of(layers, names):
    return [x for x in layers if x.role.split(".")[-1] in names]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "falcon", "opt"])
def test_refitted_and_by_site_a_block_makes_more_nearly_what_the_dense_one_makes(kind):
    """Of a model of which all blocks but the last are pruned already, the last one's output."""
    model = make("llama", DEEP) if kind == "llama" else TINY[kind]()
    layout = layout_of(model)
    want = torch.cat([model(batch, use_cache=False).logits for batch in BATCHES])
    errors = {}
    for shift, order in ((0.0, "block"), (1.0, "site")):
        found = applied(model, recipe_for(layout, REFIT, shift, order, 0.4))
        with working_weights(model, layout) as working:
            for name, weight in found.items():
                working.write(name, weight)
            logits = torch.cat([model(batch, use_cache=False).logits for batch in BATCHES])
        errors[order] = (logits - want).square().mean().item()
    assert errors["site"] < errors["block"]


def test_no_shift_is_the_same_bit_for_bit_and_carries_no_dense_stream():
    model = make("llama", DEEP)
    layout = layout_of(model)
    plain = Recipe.of(REFIT[0], recipe_for(layout).drop, "layer", REFIT[1])
    assert recipe_for(layout, REFIT, shift=0.0) == plain
    assert plain.key == recipe_for(layout, REFIT, shift=0.0).key


def test_each_step_is_solved_with_what_the_pruned_ones_before_it_make():
    model, told = make("llama", DEEP), []

    def watch(layers, working, data, recipe):
        told.append({x.role.split(".")[-1] for x in layers})
        assert data.stats.keys() == {x.site for x in layers}
        yield from prune(layers, working, data, recipe)

    applied(model, recipe_for(layout_of(model), REFIT, order="site"), watch)
    assert told == STEPS * 3


def test_a_model_comes_back_dense(monkeypatch):
    model = make("llama", DEEP)
    before = {n: p.clone() for n, p in model.named_parameters()}
    applied(model, recipe_for(layout_of(model), REFIT, order="site"))
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_roles_have_shifts_of_their_own():
    model = make("llama", DEEP)
    layout = layout_of(model)
    everywhere = applied(model, recipe_for(layout, REFIT))
    roles = [("self_attn.*", {"target_shift": 0.0})]
    some = applied(model, recipe_for(layout, REFIT, roles=roles))
    none = applied(model, recipe_for(layout, REFIT, shift=0.0))
    names = [x.name for x in layout.layers if x.block == 1]
    attention = [name for name in names if "self_attn" in name]
    # The first block is the same, so that the second reads the same.
    assert all(torch.equal(some[name], none[name]) for name in attention)
    assert all(torch.equal(some[n], everywhere[n]) for n in names if n not in attention)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"shift": 0.5}, "a target shift, which"),
        ({"shift": 0.0, "order": "site"}, "an order by site, which"),
        ({"shift": 0.5, "order": "site"}, "a target shift and an order by site, which"),
    ],
)
def test_in_one_shot_pruning_they_are_refused(more, said):
    model = TINY["llama"]()
    layout = layout_of(model)
    with working_weights(model, layout) as working:
        source = InMemory(model, working, layout)
        with pytest.raises(ConfigError, match=said):
            apply_by_block(source, recipe_for(layout, **more), BATCHES, sequential=False)


@pytest.mark.parametrize("kind", ["mixtral", "list_moe"])
def test_experts_have_no_shifted_target(kind):
    model = TINY[kind]()
    with pytest.raises(ConfigError, match=r"experts.*do not read the same tokens"):
        applied(model, recipe_for(layout_of(model), REFIT))


@pytest.mark.parametrize("kind", ["mixtral", "list_moe", "gemma2", "qwen2_moe"])
def test_by_site_is_for_experts_too(kind):
    model = TINY[kind]()
    layout = layout_of(model)
    recipe = recipe_for(layout, REFIT, shift=0.0, order="site")
    found = applied(model, recipe)
    assert all(int((w == 0).sum()) == recipe.drop[name] for name, w in found.items())
    by_block = applied(model, recipe_for(layout, REFIT, shift=0.0))
    first = next(x.site for x in layout.layers)
    alike = {x.name for x in layout.layers if x.site == first}
    assert {n for n, w in found.items() if torch.equal(w, by_block[n])} >= alike
    assert not all(torch.equal(w, by_block[n]) for n, w in found.items())
