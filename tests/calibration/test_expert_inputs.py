"""Experts that are multiplied all at once, and stacks that are longer than there are experts."""

import pytest
import torch
from tiny_experts import make_experts
from tiny_models import SIZES, make, tokens

from optishear.calibration.collect import collect
from optishear.calibration.statistics import InputSq
from optishear.models.coverage import coverage_of
from optishear.models.discover import layout_of
from optishear.models.experts import expert_count, stored_transposed
from optishear.models.weights import read


SQUARES = frozenset({InputSq})
BATCHES = [tokens(3, 12, seed=1), tokens(2, 12, seed=2)]


@pytest.fixture(scope="module")
def llama4():
    return make_experts("llama4_text")


@pytest.fixture(scope="module")
def longcat():
    return make_experts("longcat_flash")


@torch.no_grad()
def inputs_of(model, name):
    """All that reached the module of this name, by argument."""
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(
        lambda _module, args: seen.append(args)
    )
    for batch in BATCHES:
        model(batch, use_cache=False)
    hook.remove()
    return seen


def test_experts_that_nothing_marks_as_turned_are_seen_as_out_by_in(llama4):
    layout = layout_of(llama4)
    experts = llama4.model.layers[1].feed_forward.experts
    assert expert_count(experts) == 3
    assert stored_transposed(experts)
    up = layout.by_name["model.layers.1.feed_forward.experts.gate_up_proj.2"]
    assert (up.out_features, up.in_features) == (80, 24)
    assert torch.equal(read(llama4, up), experts.gate_up_proj[2].T)
    assert coverage_of(llama4, layout).left_out == {
        "model.layers.*.feed_forward.router.weight": 2 * 3 * 24
    }


def test_an_expert_of_a_batched_product_has_read_the_tokens_that_were_routed_to_it(llama4):
    layout = layout_of(llama4)
    stats = collect(llama4, layout, BATCHES, SQUARES)
    name = "model.layers.1.feed_forward.experts"
    experts = llama4.get_submodule(name)
    routed = 0
    for expert in range(3):
        rows = torch.cat([args[0].view(3, -1, 24)[expert] for args in inputs_of(llama4, name)])
        rows = rows[rows.any(-1)]
        gate, up = (rows @ experts.gate_up_proj[expert]).chunk(2, dim=-1)
        for leaf, want in (("gate_up_proj", rows), ("down_proj", up * experts.act_fn(gate))):
            found = stats[f"{name}.{leaf}.{expert}"]
            assert found.tokens == len(rows)
            torch.testing.assert_close(found[InputSq].total, want.square().sum(0))
        routed += len(rows)
    assert routed == sum(batch.numel() for batch in BATCHES)  # one expert a token


def test_slices_of_a_stack_that_no_expert_has_are_no_layers(longcat):
    layout = layout_of(longcat)
    experts = longcat.model.layers[0].mlp.experts
    assert (len(experts.gate_up_proj), len(experts.down_proj)) == (5, 3)
    names = [x.name for x in layout.layers if x.role == "mlp.experts.gate_up_proj"]
    assert [name.rpartition(".")[2] for name in names] == ["0", "1", "2"] * 2
    assert not any("classifier" in layer.role for layer in layout.layers)
    assert coverage_of(longcat, layout).left_out == {
        "model.layers.*.mlp.experts.gate_up_proj": 2 * 2 * 40 * 24,
        "model.layers.*.mlp.router.classifier.weight": 2 * 5 * 24,
    }


def test_tokens_that_go_to_a_zero_expert_are_read_by_none(longcat):
    stats = collect(longcat, layout_of(longcat), BATCHES, SQUARES)
    name = "model.layers.1.mlp.experts"
    for expert in range(3):
        rows = torch.cat(
            [args[0][(args[1] == expert).any(-1)] for args in inputs_of(longcat, name)]
        )
        found = stats[f"{name}.gate_up_proj.{expert}"]
        assert found.tokens == len(rows) == stats[f"{name}.down_proj.{expert}"].tokens
        torch.testing.assert_close(found[InputSq].total, rows.square().sum(0))


def test_other_parameters_of_three_dimensions_are_no_experts():
    model = make("recurrent_gemma", {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 1})
    three = [m for m in model.modules() if any(p.ndim == 3 for p in m.parameters(recurse=False))]
    assert three
    assert not any(expert_count(module) for module in three)
