"""The layers of a block in the order in which data flow, found on the block and not from names."""

import pytest
import torch
from tiny_models import GATED, TINY, make, tokens

from optishear.models.blocks import BlockRunner
from optishear.models.discover import layout_of
from optishear.models.weights import read, working_weights
from optishear.pruning.data_flow import flow_of


ATTENTION = [["self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj"], ["self_attn.o_proj"]]
FLOWS = {
    "llama": [*ATTENTION, ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]],
    "gemma2": [*ATTENTION, ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]],
    "opt": [
        ["self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj"],
        ["self_attn.out_proj"],
        ["fc1"],
        ["fc2"],
    ],
    "gpt2": [["attn.c_attn"], ["attn.c_proj"], ["mlp.c_fc"], ["mlp.c_proj"]],
    # Attention and MLP side by side, reading the same.
    "falcon": [
        ["mlp.dense_h_to_4h", "self_attention.query_key_value"],
        ["mlp.dense_4h_to_h", "self_attention.dense"],
    ],
    # All experts at once.
    "mixtral": [*ATTENTION, ["mlp.experts.gate_up_proj"], ["mlp.experts.down_proj"]],
    "list_moe": [*ATTENTION, ["mlp.experts.w1", "mlp.experts.w3"], ["mlp.experts.w2"]],
}


def flow(model, block=0):
    layout = layout_of(model)
    runner = BlockRunner(model, [tokens(4, 12)])
    for _ in range(block):
        runner.advance()
    layers = [layer for layer in layout.layers if layer.block == block]
    with working_weights(model, layout) as working:
        steps = flow_of(layers, working, runner)
        assert all(torch.equal(working.view(x.name), working.dense(x.name)) for x in layers)
    assert sorted(x.name for step in steps for x in step) == sorted(x.name for x in layers)
    return [sorted({layer.role for layer in step}) for step in steps]


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("block", [0, 1])
def test_it_is_that_of_the_model(kind, block):
    assert flow(TINY[kind](), block) == FLOWS[kind]


def test_what_a_dense_weight_of_zero_hides_is_not_between_the_others():
    """With v at zero o reads nothing whatever becomes of q, k and v: so it is one of the first."""
    model = make("llama", GATED)
    with torch.no_grad():
        for layer in layout_of(model).layers:
            if layer.role == "self_attn.v_proj":
                read(model, layer).zero_()
    found = flow(model)
    assert found[0] == sorted([*ATTENTION[0], *ATTENTION[1], "mlp.gate_proj", "mlp.up_proj"])
    assert found[1:] == [["mlp.down_proj"]]
