"""What replicas are asked for: the dearest layers first, and no more is sent than they take."""

from functools import partial

import pytest
import torch
from desk import Desk
from layouts import small_layout
from problems import SmallLayer
from torch import nn

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.statistics import InputSq, LayerStats
from optishear.models.weights import WeightView, WorkingWeights
from optishear.pruning.calibration_data import CalibrationData
from optishear.recipe.recipe import Recipe
from optishear.workers.cluster import Workers
from optishear.workers.layers import DenseLayers, pruning_on, solving_on


LAYOUT = small_layout(blocks=2)
LAYERS = LAYOUT.layers
RECIPE = Recipe.of({"name": "magnitude"}, dict.fromkeys(LAYOUT.sizes, 3))


def small(layer):
    return SmallLayer(rows=layer.out_features, width=layer.in_features)


WEIGHTS = {layer.name: small(layer).problem(0).weight for layer in LAYERS}
EVIDENCE = CalibrationData(
    {layer.site: LayerStats.of(4, 1, InputSq(torch.ones(layer.in_features))) for layer in LAYERS},
    {x.name: LayerGradients(torch.ones(2, 1, 3).half(), torch.ones(1)) for x in LAYERS},
    {name: torch.ones_like(weight).bool() for name, weight in WEIGHTS.items()},
)


@pytest.fixture
def desk():
    return Desk(Workers(2, 1), print)


def working_weights():
    modules = {name: nn.Linear(*weight.T.shape, bias=False) for name, weight in WEIGHTS.items()}
    views = {name: WeightView(module, "weight", None, False) for name, module in modules.items()}
    dense = {view.key: partial(WEIGHTS.get, name) for name, view in views.items()}
    working = {view.key: WEIGHTS[name].clone() for name, view in views.items()}
    return WorkingWeights(views, dense, working)


def test_the_dearest_layers_are_begun_first_and_layers_of_a_site_go_together(desk):
    levels = [(layer, RECIPE) for layer in LAYERS]
    done = list(solving_on(desk, DenseLayers(WEIGHTS, EVIDENCE.with_masks({})))(levels))
    assert sorted(layer.name for (layer, _), _ in done) == sorted(LAYOUT.sizes)
    asked = [call.arguments[0] for call in desk.calls]
    cost = [layer.out_features * layer.in_features**2 for layer in asked]
    assert cost == sorted(cost, reverse=True)
    assert len(set(cost)) > 1
    assert [call.home for call in desk.calls] == [layer.site for layer in asked]
    assert all(call.name == f"layer {call.arguments[0].name}" for call in desk.calls)


def test_only_what_the_layers_of_a_call_need_is_sent(desk):
    block = [layer for layer in LAYERS if layer.block == 1]
    done = list(pruning_on(desk)(block, working_weights(), EVIDENCE, RECIPE))
    names, sites = {layer.name for layer in block}, {layer.site for layer in block}
    assert {layer.name for layer, _ in done} == names
    [payload] = desk.payloads
    sent = payload.data
    assert payload.weights.keys() == sent.gradients.keys() == sent.given.keys() == names
    assert sent.stats.keys() == sites < EVIDENCE.stats.keys()


def test_where_there_is_nothing_to_solve_nobody_is_asked(desk):
    assert list(pruning_on(desk)([], working_weights(), EVIDENCE, RECIPE)) == []
    assert list(solving_on(desk, DenseLayers(WEIGHTS, EVIDENCE))([])) == []
    assert desk.payloads == []
