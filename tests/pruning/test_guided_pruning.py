"""Guided recipes on whole models: one-shot, block by block, streamed, and on workers."""

from dataclasses import replace

import pytest
import torch
from tiny_folders import tensors_of, tiny_folder
from tiny_models import GATED, make, tokens

from optishear.calibration.collect import collect
from optishear.calibration.statistics import summed
from optishear.calibration.token_weight_store import load_or_collect_weights
from optishear.calibration.token_weights import Guide, guide_of
from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.weights import read, working_weights
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.oneshot import apply
from optishear.recipe.recipe import Recipe
from optishear.solvers.methods import needs_of
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed
from optishear.workers.layers import DenseLayers


BATCHES = [tokens(9, 12, seed=1), tokens(8, 12, seed=2)]
SAMPLES = torch.cat(BATCHES)
HOW = How(TextSpec("embedded", "train", 20, 64))
ALPS = {"metric": {"name": "own"}, "solver": {"name": "alps"}, "pattern": "layer"}
REFIT = {"metric": {"name": "wanda"}, "solver": {"name": "refit"}, "pattern": "row"}


@pytest.fixture(scope="module")
def model():
    return make("llama", GATED)


@pytest.fixture(scope="module")
def layout(model):
    return layout_of(model)


@pytest.fixture(scope="module")
def weights(model, layout, tmp_path_factory):
    """By the number of groups."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        number: load_or_collect_weights(folder / str(number), model, layout, SAMPLES, number)
        for number in (1, 2)
    }


def recipe_for(layout, groups=2, parts=REFIT, roles=(), **quadratic):
    drop = {x.name: x.size // 2 for x in layout.layers}
    spec = {"name": "guided", "groups": groups} if groups else {"name": "reconstruction"}
    spec |= quadratic
    return Recipe.of(drop=drop, quadratic=spec, roles=roles, **parts)


def guide_for(recipe, layout, weights):
    return guide_of(recipe.row_groups(layout.layers), weights, len(SAMPLES))


def by_block(model, recipe, guide):
    layout = layout_of(model)
    with working_weights(model, layout) as working:
        apply_by_block(InMemory(model, working, layout), recipe, BATCHES, guide=guide)
        return {x.name: working.view(x.name).clone() for x in layout.layers}


def one_shot(model, recipe, guide):
    layout = layout_of(model)
    stats = collect(model, layout, BATCHES, summed(needs_of(recipe)), guide)
    data = CalibrationData(stats)
    with working_weights(model, layout) as working:
        apply(layout.layers, working, data, recipe)
        return {x.name: working.view(x.name).clone() for x in layout.layers}, data


@pytest.mark.parametrize("way", ["one-shot", "by block"])
@pytest.mark.parametrize("parts", [ALPS, REFIT], ids=["alps", "refit"])
def test_tokens_that_weigh_the_same_prune_as_plain_bit_for_bit(model, layout, parts, way):
    recipe, plain = recipe_for(layout, 1, parts), recipe_for(layout, 0, parts)
    ones = Guide({x.name: torch.ones(SAMPLES.numel(), 1) for x in layout.layers}, len(SAMPLES))
    run = by_block if way == "by block" else lambda *args: one_shot(*args)[0]
    got, want = run(model, recipe, ones), run(model, plain, Guide({}))
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_only_guided_roles_are_pruned_otherwise(model, layout, weights):
    plain = recipe_for(layout, 0)
    recipe = recipe_for(layout, 0, roles=[("mlp.down_proj", {"guided": 2})])
    got, _ = one_shot(model, recipe, guide_for(recipe, layout, weights))
    want, _ = one_shot(model, plain, Guide({}))
    changed = {x.role for x in layout.layers if not torch.equal(got[x.name], want[x.name])}
    assert changed == {"mlp.down_proj"}


@pytest.mark.parametrize("parts", [ALPS, REFIT], ids=["alps", "refit"])
def test_the_loss_hears_less_of_it_than_of_the_plain_one(model, layout, weights, parts):
    """By what the guided quadratic itself says, layer by layer."""
    recipe, plain = recipe_for(layout, 2, parts), recipe_for(layout, 0, parts)
    got, data = one_shot(model, recipe, guide_for(recipe, layout, weights))
    other, _ = one_shot(model, plain, Guide({}))
    own, theirs = 0.0, 0.0
    for layer in layout.layers:
        dense = read(model, layer)
        quadratic = data.problem(layer, dense, recipe).quadratic
        own += quadratic.cost(got[layer.name] - dense)
        theirs += quadratic.cost(other[layer.name] - dense)
    assert own < theirs


def test_with_a_shifted_target_and_in_the_order_of_data(model, layout, weights):
    recipe = Recipe.of(
        drop={x.name: x.size // 2 for x in layout.layers},
        quadratic={"name": "guided", "groups": 2, "target_shift": 0.5},
        order="site",
        **REFIT,
    )
    guide = guide_for(recipe, layout, weights)
    got = by_block(model, recipe, guide)
    for layer in layout.layers:
        assert int((got[layer.name] == 0).sum()) == layer.size // 2
    plain = by_block(model, recipe_for(layout, 2), guide)
    last = layout.layers[-1].name
    assert not torch.equal(got[last], plain[last])


def test_a_replica_solves_what_this_process_does(model, layout, weights):
    recipe = recipe_for(layout, 2, ALPS)
    want, data = one_shot(model, recipe, guide_for(recipe, layout, weights))
    for layer in layout.layers[:4]:
        away = DenseLayers({layer.name: read(model, layer)}, data.only([layer])).to("cpu")
        assert torch.equal(away.solve(layer, recipe).weight, want[layer.name])


def test_layers_of_one_site_have_factors_of_their_own(model, layout, weights):
    recipe = recipe_for(layout, 2)
    _, data = one_shot(model, recipe, guide_for(recipe, layout, weights))
    q, k = layout.layers[:2]
    assert q.site == k.site
    one, two = (data.problem(x, read(model, x), recipe).quadratic for x in (q, k))
    assert not torch.equal(one.shared.matrix, two.shared.matrix)
    assert data.problem(q, read(model, q), recipe).quadratic is one


def test_statistics_of_another_guide_are_a_bug_and_not_used(model, layout, weights):
    recipe = recipe_for(layout, 2)
    _, data = one_shot(model, recipe, guide_for(recipe, layout, weights))
    layer = layout.layers[0]
    with pytest.raises(LookupError, match="guided in 1 row groups"):
        data.problem(layer, read(model, layer), recipe_for(layout, 1))


def test_an_expert_cannot_be_guided(tmp_path):
    folder = tiny_folder("mixtral", tmp_path / "model")
    method = NamedMethod("wanda", 0.5, refit=True, quadratic={"guided": 1})
    with pytest.raises(ConfigError, match=r"experts.*does not read every token once"):
        prune_to(str(folder), method.on, tmp_path / "pruned", HOW)


def test_streamed_it_is_what_the_whole_model_would_be(tmp_path):
    """Wanda in the attention, ALPS behind it."""
    folder = tiny_folder("qwen2", tmp_path / "model", torch.bfloat16)
    named = NamedMethod("wanda", 0.5, quadratic={"guided": 2}, roles=(("mlp.*", ALPS),))
    prune_to(str(folder), named.on, tmp_path / "whole", HOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTISHEAR_CACHE", str(tmp_path / "cache"))
        prune_streamed(str(folder), named.on, tmp_path / "streamed", HOW)
    got, want = tensors_of(tmp_path / "streamed"), tensors_of(tmp_path / "whole")
    assert all(torch.equal(got[name], want[name]) for name in want)
    prune_to(str(folder), replace(named, quadratic={}).on, tmp_path / "plain", HOW)
    plain = tensors_of(tmp_path / "plain")
    changed = {name for name in want if not torch.equal(plain[name], want[name])}
    for part in ("self_attn", "mlp"):
        assert any(part in name for name in changed)
