"""How much of the matrices in a model's blocks the layout has, and what it lacks by name."""

import pytest
import torch
from tiny_models import ATTENTION, SIZES, TINY, make
from torch import nn

from optishear.models.coverage import Coverage, coverage_of
from optishear.models.discover import layout_of


def covered(model):
    layout = layout_of(model)
    return coverage_of(model, layout), layout


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon"])
def test_all_matrices_of_a_plain_model_are_prunable(family):
    found, layout = covered(TINY[family]())
    assert found == Coverage(layout.total, layout.total, {})
    assert (found.share, found.warning) == (1.0, None)
    assert found.text == "100.00 % of the weights in its blocks' matrices are prunable"


@pytest.mark.parametrize(
    ("family", "routers"),
    [
        ("mixtral", {"model.layers.*.mlp.gate.weight": 2 * 3 * 24}),
        ("gpt_oss", {"model.layers.*.mlp.router.weight": 2 * 3 * 24}),
        ("list_moe", {"model.layers.*.mlp.gate.weight": 2 * 3 * 24}),
    ],
)
def test_routers_are_left_out_and_biases_of_experts_are_no_matrices(family, routers):
    found, layout = covered(TINY[family]())
    assert found.left_out == routers
    assert found.weights == layout.total + sum(routers.values())
    assert found.warning is None


def test_a_second_stack_of_blocks_is_seen_and_warned_of():
    """HRM runs two stacks in turn, of which one is pruned."""
    settings = {**SIZES, **ATTENTION, "intermediate_size": 40}
    found, layout = covered(make("hrm_text", settings))
    assert found.weights == 2 * layout.total
    assert {name.split(".")[1] for name in found.left_out} == {"H_module"}
    assert found.warning is not None
    assert found.warning.startswith("Only 50.00 % of the weights")
    assert "a sparsity of 50 % is 25.0 % of them. Left out: model.H_module.layers.*" in (
        found.warning
    )


def test_the_largest_are_named_first_and_the_others_counted():
    model = TINY["llama"]()
    for block in model.model.layers:
        for size in range(1, 9):
            block.register_parameter(f"extra_{size}", nn.Parameter(torch.ones(size, 24)))
    found, _ = covered(model)
    assert [*found.left_out.values()] == [2 * 24 * size for size in range(8, 0, -1)]
    assert found.warning is not None
    assert "Left out: model.layers.*.extra_8 (384), " in found.warning
    assert found.warning.endswith(" and 2 more.")
