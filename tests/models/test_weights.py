"""Weights are read as views and copied to work on; the dense ones are never written to."""

import pytest
import torch
from tiny_models import TINY, tokens
from torch import nn

from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.weights import read, working_weights
from optishear.recipe.layout import ModelLayout


@pytest.fixture(params=TINY)
def model(request):
    return TINY[request.param]()


def logits(model):
    with torch.no_grad():
        return model(tokens(), use_cache=False).logits


def test_read_is_a_view_of_the_models_own_storage(model):
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for layer in layout_of(model).layers:
        weight = read(model, layer)
        assert weight.untyped_storage().data_ptr() in storages
        assert not weight.requires_grad


def test_read_refuses_the_layout_of_another_model():
    llama = layout_of(TINY["llama"]())
    with pytest.raises(ConfigError, match="has no weight of that name"):
        read(TINY["gpt2"](), llama.layers[0])
    with pytest.raises(ConfigError, match="has no weight of that name"):
        read(TINY["llama"](), layout_of(TINY["mixtral"]()).layers[4])
    longer = ModelLayout.from_json([{**llama.to_json()[0], "in_features": 25}])
    with pytest.raises(ConfigError, match=r"is \(32, 24\), the layout says \(32, 25\)"):
        read(TINY["llama"](), longer.layers[0])


def test_lending_changes_nothing_until_something_is_written(model):
    before = logits(model)
    with working_weights(model, layout_of(model)):
        assert torch.equal(logits(model), before)


def test_what_is_written_is_what_the_model_computes_with(model):
    layout = layout_of(model)
    with working_weights(model, layout) as weights:
        for index, layer in enumerate(layout.layers):
            weights.write(layer.name, index + torch.zeros(layer.out_features, layer.in_features))
        for index, layer in enumerate(layout.layers):
            assert (read(model, layer) == index).all()


def test_dense_weights_come_back_bit_for_bit_in_the_same_storage_after_an_exception(model):
    layout = layout_of(model)
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    expected = logits(model)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with working_weights(model, layout) as weights:
            for layer in layout.layers:
                weights.write(layer.name, 7 * weights.dense(layer.name))
            assert not torch.equal(logits(model), expected)
            raise KeyboardInterrupt
    for name, parameter in model.named_parameters():
        same, address, values = before[name]
        assert parameter is same
        assert parameter.data_ptr() == address
        assert torch.equal(parameter, values)
    assert torch.equal(logits(model), expected)


def test_dense_weights_stay_readable_while_others_are_at_work(model):
    layout = layout_of(model)
    before = {layer.name: read(model, layer).clone() for layer in layout.layers}
    with working_weights(model, layout) as weights:
        for layer in layout.layers:
            weights.write(layer.name, torch.zeros(layer.out_features, layer.in_features))
        for layer in layout.layers:
            assert torch.equal(weights.dense(layer.name), before[layer.name])


def test_restore_makes_the_model_dense_again(model):
    layout, expected = layout_of(model), logits(model)
    with working_weights(model, layout) as weights:
        for layer in layout.layers:
            weights.write(layer.name, torch.zeros(layer.out_features, layer.in_features))
        weights.restore()
        assert torch.equal(logits(model), expected)


def test_writing_never_moves_the_storage(model):
    layout = layout_of(model)
    with working_weights(model, layout) as weights:
        addresses = [p.data_ptr() for p in model.parameters()]
        for layer in layout.layers:
            weights.write(layer.name, 2 * weights.dense(layer.name))
        weights.restore()
        assert [p.data_ptr() for p in model.parameters()] == addresses


def test_only_prunable_parameters_are_copied_and_fused_ones_once():
    model = TINY["mixtral"]()
    addresses = {name: p.data_ptr() for name, p in model.named_parameters()}
    with working_weights(model, layout_of(model)):
        moved = {n for n, p in model.named_parameters() if p.data_ptr() != addresses[n]}
    assert len(moved) == 2 * (4 + 2)
    assert not any("gate.weight" in name or "embed" in name or "norm" in name for name in moved)


def test_one_expert_is_written_and_its_neighbours_are_not():
    model = TINY["mixtral"]()
    experts = model.model.layers[0].mlp.experts
    before = experts.down_proj.detach().clone()
    with working_weights(model, layout_of(model)) as weights:
        weights.write("model.layers.0.mlp.experts.down_proj.1", torch.zeros(24, 40))
        assert (experts.down_proj[1] == 0).all()
        assert torch.equal(experts.down_proj[[0, 2]], before[[0, 2]])


def test_part_of_a_layout_can_be_lent():
    model = TINY["llama"]()
    part = ModelLayout(layout_of(model).layers[:3])
    address = model.model.layers[0].mlp.up_proj.weight.data_ptr()
    with working_weights(model, part):
        assert model.model.layers[0].mlp.up_proj.weight.data_ptr() == address


def test_a_weight_of_another_shape_is_refused_and_not_broadcast():
    model = TINY["llama"]()
    with working_weights(model, layout_of(model)) as weights:
        with pytest.raises(ValueError, match=r"is \(40, 24\), not \(1, 24\)"):
            weights.write("model.layers.0.mlp.up_proj", torch.zeros(1, 24))


def test_writing_after_the_loan_reaches_nobody():
    model = TINY["llama"]()
    expected = logits(model)
    with working_weights(model, layout_of(model)) as weights:
        pass
    weights.write("model.layers.0.mlp.up_proj", torch.zeros(40, 24))
    weights.restore()
    assert torch.equal(logits(model), expected)


def test_a_half_precision_model_takes_weights_in_fp32():
    model = TINY["llama"]().to(torch.bfloat16)
    layer = layout_of(model).layers[0]
    with working_weights(model, layout_of(model)) as weights:
        weights.write(layer.name, torch.full((32, 24), 1 / 3))
        assert read(model, layer).dtype == torch.bfloat16
        assert (read(model, layer) == torch.tensor(1 / 3).bfloat16()).all()


def test_a_layer_tied_to_the_embedding_is_not_lent():
    model = TINY["llama"]()
    layout = layout_of(model)
    table = nn.Parameter(torch.zeros(53, 24))
    model.model.embed_tokens.weight = table
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(table.detach()[10:50])  # a part of it
    with pytest.raises(ConfigError, match=r"embed_tokens\.weight and .*up_proj\.weight"):
        with working_weights(model, layout):
            pass
    assert model.model.embed_tokens.weight is table


def test_two_layers_that_are_one_parameter_are_not_lent():
    model = TINY["llama"]()
    layout = layout_of(model)
    model.model.layers[0].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight
    with pytest.raises(ConfigError, match=r"layers\.0\.mlp\.up_proj.*layers\.1\.mlp\.up_proj"):
        with working_weights(model, layout):
            pass


def test_neighbours_in_one_storage_are_not_taken_for_tied():
    model = TINY["llama"]()
    layout, expected = layout_of(model), logits(model)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    for p, part in zip(model.parameters(), flat.split([p.numel() for p in model.parameters()])):
        p.data = part.view_as(p)
    with working_weights(model, layout):
        assert torch.equal(logits(model), expected)


def test_a_tied_embedding_and_head_outside_the_layout_do_no_harm():
    model = TINY["qwen2"]()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    table = model.lm_head.weight.detach().clone()
    with working_weights(model, layout_of(model)) as weights:
        for layer in layout_of(model).layers:
            weights.write(layer.name, torch.zeros(layer.out_features, layer.in_features))
        assert torch.equal(model.lm_head.weight, table)
