"""Bias compensation: weights by the centred quadratic, biases by what those lose of the mean."""

from dataclasses import replace

import pytest
import torch
from layouts import llama_layout
from tiny_folders import tensors_of, tiny_folder
from tiny_models import TINY, tokens

from optishear.calibration.collect import collect
from optishear.calibration.statistics import Gram, InputSq, LayerStats, Mean, summed
from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.weights import biased_layers, read, working_weights
from optishear.pruning.biases import centred_biases
from optishear.pruning.calibration_data import CalibrationData
from optishear.pruning.oneshot import OneShot, apply
from optishear.recipe.canonical import canonical_recipe
from optishear.recipe.layer_keys import layer_keys
from optishear.recipe.recipe import Recipe
from optishear.recipe.transfer import transfer
from optishear.runs.watcher import Silent
from optishear.solvers.centred import centred, compensated_bias
from optishear.solvers.methods import needs_of
from optishear.solvers.refit import refit
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod
from optishear.tools.prune import How, prune_to
from optishear.tools.prune_streamed import prune_streamed
from optishear.tools.verify import verify


HOW = How(TextSpec("embedded", "train", 16, 64))
REFIT = {"name": "refit", "of": "mask"}
CENTRED = {"name": "reconstruction", "centred": True}
SEQUENCES = tokens(8, 12, seed=4)


def recipe_for(layout, solver=REFIT, quadratic=CENTRED, **more):
    drop = {layer.name: layer.size // 2 for layer in layout.layers}
    return Recipe.of({"name": "wanda"}, drop, "layer", solver, quadratic, **more)


def calibrated(model, recipe):
    layout = layout_of(model)
    stats = collect(model, layout, [SEQUENCES], summed(needs_of(recipe)))
    return layout, CalibrationData(stats, biased=biased_layers(model, layout))


def test_it_is_least_squares_with_a_free_intercept():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 20, generator=generator) @ torch.randn(20, 20, generator=generator) + 2
    weight, bias = torch.randn(6, 20, generator=generator), torch.randn(6, generator=generator)
    stats = LayerStats.of(90, 4, InputSq(x.square().sum(0)), Gram(x.T @ x), Mean(x.sum(0)))
    keep = torch.rand(weight.shape, generator=generator) > 0.5
    quadratic = centred(stats, 0.0)
    new = refit(quadratic, weight, keep).weight
    made = compensated_bias(bias, weight, new, stats)
    wanted = x.double() @ weight.double().T + bias.double()
    for row, kept in enumerate(keep):
        columns = torch.cat([x[:, kept].double(), torch.ones(90, 1, dtype=torch.float64)], 1)
        best = torch.linalg.lstsq(columns, wanted[:, row]).solution
        torch.testing.assert_close(new[row, kept].double(), best[:-1], rtol=1e-3, atol=1e-3)
        assert made[row].item() == pytest.approx(best[-1].item(), abs=5e-3)
    found = x.double() @ new.double().T + made
    cost = 0.5 * (found - wanted).square().sum() / 90
    assert quadratic.cost(new - weight) == pytest.approx(cost.item(), rel=1e-3)


@pytest.mark.parametrize("solver", [REFIT, {"name": "mask"}], ids=["refit", "mask"])
@pytest.mark.parametrize("kind", ["gpt2", "opt", "qwen2", "gpt_neox"])
def test_layers_put_out_what_they_did_in_the_mean(kind, solver):
    model = TINY[kind]()
    recipe = recipe_for(layout_of(model), solver)
    layout, data = calibrated(model, recipe)
    biases = {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim == 1}
    dense = {layer.name: read(model, layer).detach().clone() for layer in layout.layers}
    with working_weights(model, layout) as working:
        apply(layout.layers, working, data, recipe)
        for layer in layout.layers:
            if layer.name not in data.biased:
                continue
            mean = data.stats[layer.site].per_token(Mean).double()
            weight = working.view(layer.name).double()
            before = dense[layer.name].double() @ mean + biases[f"{layer.name}.bias"].double()
            after = weight @ mean + model.get_parameter(f"{layer.name}.bias").double()
            torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    now = {name: p for name, p in model.named_parameters() if p.ndim == 1}
    assert all(torch.equal(now[name], bias) for name, bias in biases.items())


def test_layers_without_a_bias_are_what_they_would_be_without_it():
    model = TINY["qwen2"]()  # q, k and v have one
    layout = layout_of(model)
    found = {}
    for quadratic in (CENTRED, None):
        recipe = recipe_for(layout, quadratic=quadratic)
        _, data = calibrated(model, recipe)
        with working_weights(model, layout) as working:
            apply(layout.layers, working, data, recipe)
            found[quadratic is None] = {x.name: working.view(x.name).clone() for x in layout.layers}
    same = {name for name, weight in found[True].items() if torch.equal(weight, found[False][name])}
    assert same == {layer.name for layer in layout.layers} - data.biased
    assert {name.rpartition(".")[2] for name in data.biased} == {"q_proj", "k_proj", "v_proj"}


def test_a_candidate_that_is_not_centred_has_the_dense_biases_again():
    model = TINY["gpt2"]()
    layout, data = calibrated(model, recipe_for(layout_of(model)))
    plain = recipe_for(layout, quadratic=None)
    want = [p.detach().clone() for p in model.parameters() if p.ndim == 1]
    with working_weights(model, layout) as working:
        shot = OneShot(working, layout, data)
        shot.write(recipe_for(layout))
        assert any(not torch.equal(p, w) for p, w in zip(flat(model), want))
        shot.write(plain)
        assert all(torch.equal(p, w) for p, w in zip(flat(model), want))


def flat(model):
    return [p for p in model.parameters() if p.ndim == 1]


def test_a_dense_block_has_its_dense_biases_while_it_is_dense_again():
    model = TINY["gpt2"]()
    layout = layout_of(model)
    name = layout.layers[0].name
    with working_weights(model, layout) as working:
        before = working.dense_bias(name).clone()
        working.bias(name).add_(1)
        with working.dense_again([name]):
            assert torch.equal(model.get_parameter(f"{name}.bias"), before)
        assert torch.equal(model.get_parameter(f"{name}.bias"), before + 1)


@pytest.fixture(scope="module", params=["opt", "qwen2"])
def dense(request, tmp_path_factory):
    return tiny_folder(request.param, tmp_path_factory.mktemp("dense"), torch.bfloat16)


@pytest.mark.parametrize("sequential", [True, False], ids=["block by block", "one-shot"])
def test_a_checkpoint_has_them_streamed_or_not_and_verify_knows(sequential, dense, tmp_path):
    how = replace(HOW, sequential=sequential)
    method = NamedMethod("sparsegpt", 0.5, quadratic={"centred": True}).on
    prune_to(str(dense), method, tmp_path / "whole", how)
    prune_streamed(str(dense), method, tmp_path / "streamed", how)
    was, whole, streamed = map(tensors_of, (dense, tmp_path / "whole", tmp_path / "streamed"))
    assert all(torch.equal(tensor, streamed[name]) for name, tensor in whole.items())
    assert all(tensor.dtype == was[name].dtype for name, tensor in whole.items())
    moved = {name for name, tensor in whole.items() if not torch.equal(tensor, was[name])}
    assert any(name.endswith("q_proj.bias") for name in moved)
    assert all(name.endswith((".weight", "proj.bias", "fc1.bias", "fc2.bias")) for name in moved)
    assert not any("norm" in name for name in moved)
    for again in (False, True):  # and what the recipe says is made anew bit for bit
        checks = verify(tmp_path / "whole", None, again, "cpu", Silent())
        assert {check.name: check.found for check in checks if check.status == "failed"} == {}
    [told] = [check.found for check in checks if check.name == "other tensors"]
    assert "norms and biases were changed with the weights" in told


def test_a_model_without_biases_is_refused_in_a_sentence(tmp_path):
    layout = llama_layout(2)
    with pytest.raises(ConfigError, match="centred says nothing: none of the 14 layers") as error:
        centred_biases(layout, recipe_for(layout), frozenset())
    assert "\n" not in str(error.value)
    assert centred_biases(layout, recipe_for(layout, quadratic=None), frozenset()) == []
    place = tiny_folder("llama", tmp_path / "dense")
    method = NamedMethod("sparsegpt", 0.5, quadratic={"centred": True}).on
    for prune in (prune_to, prune_streamed):
        with pytest.raises(ConfigError, match="centred says nothing"):
            prune(str(place), method, tmp_path / "pruned", HOW)


@pytest.mark.parametrize("more", [{"target_shift": 0.5}, {"damping": "auto"}, {"guided": 2}])
def test_what_it_does_not_go_with_is_refused_in_a_sentence(more):
    layout = llama_layout(2)
    with pytest.raises(ConfigError, match="centred is of the plain reconstruction") as error:
        recipe_for(layout, quadratic={**CENTRED, **more}).check(layout)
    assert "\n" not in str(error.value)


def test_recipes_say_it_by_role_too_and_those_without_keep_their_keys():
    layout = llama_layout(2)
    found = recipe_for(layout)
    assert Recipe.from_json(found.to_json()) == found
    assert found.to_json()["quadratic"] == CENTRED
    plain = recipe_for(layout, quadratic=None)
    assert plain.key != found.key
    assert "centred" not in str(plain.to_json())
    assert layer_keys(plain, layout.layers) != layer_keys(found, layout.layers)
    assert canonical_recipe(found) == found
    mask = recipe_for(layout, {"name": "mask"})
    assert canonical_recipe(mask) == mask
    assert {Mean, InputSq} == needs_of(mask)
    assert transfer(found, layout, llama_layout(3)).recipe.default.quadratic.centred
    by_role = recipe_for(layout, quadratic=None, roles=[("mlp.*", {"centred": True})])
    assert Recipe.from_json(by_role.to_json()) == by_role
    with pytest.raises(ConfigError, match="centred is 1, expected true or false"):
        Recipe.from_json(found.to_json() | {"quadratic": {**CENTRED, "centred": 1}})
