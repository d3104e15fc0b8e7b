"""Which layers go to the sparse tensor cores; that they give the same answers needs a GPU."""

from copy import deepcopy

import pytest
import torch
from tiny_models import TINY, make, tokens

from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.semi_structured import packable, to_semi_structured
from optishear.models.weights import read


WIDE = {
    "vocab_size": 53, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
}  # fmt: skip
NARROW = {**WIDE, "intermediate_size": 96}


def two_of_four(settings=WIDE, dtype=torch.bfloat16):
    model = make("llama", settings).to(dtype)
    with torch.no_grad():
        for layer in layout_of(model).layers:
            read(model, layer).view(layer.out_features, -1, 4)[..., 1:3] = 0
    return model


def test_every_layer_of_a_2_of_4_model_can_be_packed():
    model = two_of_four()
    layout = layout_of(model)
    assert packable(model, layout) == [layer.name for layer in layout.layers]


def test_one_group_too_full_keeps_a_layer_dense():
    model = two_of_four()
    layout = layout_of(model)
    layer = layout.layers[3]
    with torch.no_grad():
        read(model, layer)[-1, -3] = 1.0
    assert packable(model, layout) == [x.name for x in layout.layers if x != layer]


def test_shapes_and_dtypes_that_the_kernels_do_not_take_stay_dense():
    model = two_of_four(NARROW)  # 96 outputs are a multiple of 32, as inputs none of 64
    layout = layout_of(model)
    left = {x.role for x in layout.layers} - {
        layout.by_name[name].role for name in packable(model, layout)
    }
    assert left == {"mlp.down_proj"}
    assert packable(two_of_four(dtype=torch.float32), layout_of(two_of_four())) == []


@pytest.mark.parametrize("kind", ["mixtral", "gpt2"])
def test_experts_and_transposed_weights_are_passed_over(kind):
    model = TINY[kind]()
    assert packable(model, layout_of(model)) == []


def test_a_machine_without_the_hardware_says_so():
    model = two_of_four()
    with pytest.raises(ConfigError, match="the model is on cpu, they need an NVIDIA GPU"):
        to_semi_structured(model, layout_of(model))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="2:4 kernels need an NVIDIA GPU")
def test_packed_layers_are_as_near_to_fp32_as_dense_ones():
    model = two_of_four().cuda()
    inputs = tokens(batch=2, seq=32).cuda()
    with torch.no_grad():
        dense = model(inputs).logits.double()
        exact = deepcopy(model).float()(inputs).logits.double()
        layout = layout_of(model)
        assert len(to_semi_structured(model, layout)) == len(layout.layers)
        sparse = model(inputs).logits.double()
    assert (sparse - exact).norm() <= 1.5 * (dense - exact).norm()
