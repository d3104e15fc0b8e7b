"""Layouts are found by structure: blocks, shapes, order, sites, and what is left alone."""

import pytest
import torch
from tiny_models import GATED, SIZES, TINY, VOCAB, ListMoE, make
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaForCausalLM,
    T5Config,
)
from transformers.models.auto import CONFIG_MAPPING

from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.weights import read
from optishear.recipe.layout import ModelLayout


# layers and input sites of one block
COUNTS = {
    "llama": (7, 4),
    "mistral": (7, 4),
    "qwen2": (7, 4),
    "gemma2": (7, 4),
    "granite": (7, 4),
    "opt": (6, 4),
    "gpt2": (4, 4),
    "gpt_neox": (4, 4),
    "falcon": (4, 3),  # attention and MLP side by side read one norm's output
    "mixtral": (4 + 2 * 3, 2 + 2 * 3),
    "qwen2_moe": (4 + 3 + 2 * 4, 2 + 2 + 2 * 4),
    "gpt_oss": (4 + 2 * 3, 2 + 2 * 3),
    "jetmoe": (1 + 4 * 3, 1 + 4 * 3),
    "list_moe": (4 + 3 * 3, 2 + 2 * 3),
}


@pytest.fixture(params=TINY)
def family(request):
    return request.param


def roles_of_block(layout: ModelLayout, block: int = 0) -> list[str]:
    return [layer.role for layer in layout.layers if layer.block == block]


def test_every_family_has_a_count():
    assert COUNTS.keys() == TINY.keys()


def test_blocks_layers_and_sites_are_counted_right(family):
    layout = layout_of(TINY[family]())
    assert layout.blocks == 2
    for block in range(2):
        layers = [layer for layer in layout.layers if layer.block == block]
        assert (len(layers), len({layer.site for layer in layers})) == COUNTS[family]
        assert roles_of_block(layout, block) == roles_of_block(layout)


def test_shapes_are_those_of_the_weights_seen_as_out_by_in(family):
    model = TINY[family]()
    for layer in layout_of(model).layers:
        assert read(model, layer).shape == (layer.out_features, layer.in_features)


def test_gpt2_is_seen_as_out_by_in_though_stored_the_other_way():
    model = TINY["gpt2"]()
    layer = layout_of(model).by_name["transformer.h.1.mlp.c_fc"]
    assert (layer.out_features, layer.in_features) == (40, 24)
    assert torch.equal(read(model, layer), model.transformer.h[1].mlp.c_fc.weight.T)


def test_transposed_experts_are_seen_as_out_by_in():
    model = TINY["gpt_oss"]()
    layer = layout_of(model).by_name["model.layers.1.mlp.experts.gate_up_proj.2"]
    assert (layer.out_features, layer.in_features, layer.role) == (
        80,
        24,
        "mlp.experts.gate_up_proj",
    )
    assert torch.equal(read(model, layer), model.model.layers[1].mlp.experts.gate_up_proj[2].T)


def test_names_are_unique_and_a_site_is_the_first_layer_that_reads_it(family):
    layout = layout_of(TINY[family]())
    names = [layer.name for layer in layout.layers]
    assert len(set(names)) == len(names)
    for layer in layout.layers:
        first = layout.by_name[layer.site]
        assert first.site == first.name
        assert names.index(first.name) <= names.index(layer.name)
        assert (first.block, first.in_features) == (layer.block, layer.in_features)


def test_the_layout_covers_every_matrix_of_the_blocks_but_the_routers(family):
    """All 2-D and 3-D weights of the blocks are in the layout, save those of a known router."""
    model = TINY[family]()
    layout = layout_of(model)
    blocks = {layer.name.partition(f".{layer.block}.")[0] for layer in layout.layers}
    assert len(blocks) == 1
    left = [
        name
        for name, parameter in model.named_parameters()
        if name.startswith(tuple(blocks))
        and parameter.ndim > 1
        and not any(
            f"{layer.name}.".startswith(f"{name.removesuffix('.weight')}.")
            for layer in layout.layers
        )
    ]
    assert all(
        name.split(".")[-1].endswith(("bias", "sinks")) or "gate" in name or "router" in name
        for name in left
    )
    assert not any("gate_proj" in name or "gate_up" in name for name in left if "bias" not in name)


def test_routers_embeddings_and_heads_are_not_prunable(family):
    model = TINY[family]()
    layout = layout_of(model)
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for layer in layout.layers:
        assert not layer.role.endswith((".gate", ".router", ".router.layer", "shared_expert_gate"))
        if layer.name in dict(model.named_modules()):
            assert id(model.get_submodule(layer.name).weight) not in embeddings
        assert VOCAB not in (layer.out_features, layer.in_features)


def test_layers_stand_in_the_order_in_which_data_flows():
    assert roles_of_block(layout_of(TINY["llama"]())) == [
        *(f"self_attn.{p}_proj" for p in "qkvo"),
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    # Mixtral defines its experts in this order; the old style reads w3 before w2.
    assert list(dict.fromkeys(roles_of_block(layout_of(TINY["mixtral"]())))) == [
        *(f"self_attn.{p}_proj" for p in "qkvo"),
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
    ]
    assert list(dict.fromkeys(roles_of_block(layout_of(TINY["list_moe"]()))))[4:] == [
        "mlp.experts.w1",
        "mlp.experts.w3",
        "mlp.experts.w2",
    ]


def test_modules_defined_out_of_order_are_listed_as_they_are_called():
    model = TINY["llama"]()
    for block in model.model.layers:
        block.mlp._modules["down_proj"] = block.mlp._modules.pop("down_proj")
        block.mlp._modules["gate_proj"] = block.mlp._modules.pop("gate_proj")
    assert roles_of_block(layout_of(model)) == roles_of_block(layout_of(TINY["llama"]()))


def test_the_layout_does_not_depend_on_which_experts_the_probe_reached():
    model, lopsided = TINY["list_moe"](), TINY["list_moe"]()
    for block in lopsided.model.layers:
        with torch.no_grad():
            block.mlp.gate.weight.zero_()  # ties: everything goes to one expert
    assert layout_of(lopsided) == layout_of(model)


def test_an_input_changed_in_place_between_two_reads_is_two_sites():
    class Meddling(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(24, 10), nn.Linear(24, 10)
            self.last = nn.Linear(10, 24)

        def forward(self, hidden):
            hidden = hidden.clone()
            before = self.first(hidden)
            return self.last(before + self.second(hidden.mul_(2)))

    model = TINY["llama"]()
    for block in model.model.layers:
        block.mlp = Meddling()
    layout = layout_of(model.eval())
    sites = [layer.site for layer in layout.layers if layer.block == 0 and "mlp" in layer.role]
    assert len(set(sites)) == 3


def test_a_layer_that_reads_a_second_tensor_shares_its_site_with_nobody():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn, self.beside = nn.Linear(24, 24), nn.Linear(24, 10)
            self.last = nn.Linear(10, 24)

        def forward(self, hidden):
            return self.turn(self.turn(hidden)) + self.last(self.beside(hidden))

    model = TINY["llama"]()
    for block in model.model.layers:
        block.mlp = Recurrent()
    layout = layout_of(model.eval())
    assert [layer.role for layer in layout.layers[4:7]] == ["mlp.turn", "mlp.beside", "mlp.last"]
    assert all(layer.site == layer.name for layer in layout.layers[4:7])


def test_a_larger_list_of_unlike_modules_is_not_taken_for_the_blocks():
    model = TINY["llama"]()
    model.extras = nn.ModuleList([nn.Embedding(5000, 24), nn.Linear(24, 9)])
    assert layout_of(model) == layout_of(TINY["llama"]())


def test_a_layer_that_no_forward_pass_calls_is_left_out_with_a_warning(caplog):
    model = TINY["llama"]()
    model.model.layers[1].mlp.spare = nn.Linear(24, 40)
    with caplog.at_level("WARNING"):
        layout = layout_of(model)
    assert layout == layout_of(TINY["llama"]())
    assert "model.layers.1.mlp.spare" in caplog.text


def test_a_linear_router_inside_a_router_module_is_found():
    class Router(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.layer = linear

        def forward(self, x):
            return self.layer(x)

    model = TINY["list_moe"]()
    for block in model.model.layers:
        block.mlp.gate = Router(block.mlp.gate)
    assert layout_of(model) == layout_of(TINY["list_moe"]())


def test_blocks_of_unlike_classes_with_a_common_base_are_one_stack():
    model = TINY["llama"]()
    layer = model.model.layers[1]
    layer.__class__ = type("Other", (type(layer),), {})
    assert layout_of(model) == layout_of(TINY["llama"]())


def test_one_block_with_many_experts_is_still_the_block():
    model = make("llama", {**GATED, "num_hidden_layers": 1})
    model.model.layers[0].mlp = ListMoE(24, 20, experts=5)
    assert layout_of(model.eval()).blocks == 1


def test_probing_leaves_the_model_as_it_was(family):
    model = TINY[family]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layout_of(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_what_is_no_causal_language_model_is_refused():
    with pytest.raises(ConfigError, match="Sequential is not a causal language model"):
        layout_of(nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(ConfigError, match="LlamaModel is not a causal language model"):
        layout_of(AutoModel.from_config(TINY["llama"]().config))
    t5 = T5Config(vocab_size=VOCAB, d_model=24, d_kv=8, d_ff=40, num_layers=1, num_heads=2)
    with pytest.raises(ConfigError, match="encoder-decoder"):
        layout_of(AutoModelForSeq2SeqLM.from_config(t5))


def test_a_model_that_is_not_in_memory_is_refused():
    with torch.device("meta"):
        model = LlamaForCausalLM(TINY["llama"]().config)
    with pytest.raises(ConfigError, match="not in memory"):
        layout_of(model.eval())


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ConfigError, match=r"model\.eval"):
        layout_of(TINY["llama"]().train())


def test_a_model_without_prunable_layers_is_refused():
    class Norms(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(24)

        def forward(self, hidden, **_):
            return self.norm(hidden)

    model = TINY["llama"]()
    model.model.layers = nn.ModuleList([Norms(), Norms()])
    with pytest.raises(ConfigError, match="no prunable matrix in use in its 2 blocks"):
        layout_of(model.eval())


def test_a_quantized_weight_is_refused():
    model = TINY["llama"]()
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match=r"layers\.0\.mlp\.up_proj.*not quantized"):
        layout_of(model)


def test_a_matrix_tied_to_the_embedding_is_refused():
    model = make("llama", {**SIZES, "num_attention_heads": 4, "intermediate_size": VOCAB})
    model.model.layers[0].mlp.up_proj.weight = model.model.embed_tokens.weight
    with pytest.raises(ConfigError, match=r"embed_tokens\.weight.*up_proj\.weight are one tensor"):
        layout_of(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_an_encoder_that_looks_ahead_is_refused(kind, dtype):
    """As its kind of model is initialised: attention has hardly begun to look anywhere."""
    config = CONFIG_MAPPING[kind](**{**SIZES, "num_attention_heads": 4, "intermediate_size": 40})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with pytest.raises(ConfigError, match=r"LMHeadModel|ForCausalLM.* is not causal"):
        layout_of(model)


def test_an_encoder_as_a_decoder_is_causal():
    settings = {**SIZES, "num_attention_heads": 4, "intermediate_size": 40, "is_decoder": True}
    assert layout_of(make("bert", settings)).blocks == 2


@pytest.mark.parametrize("kind", ["mamba", "recurrent_gemma", "bloom"])
def test_recurrent_models_and_slopes_are_causal(kind):
    settings = {**GATED, "num_key_value_heads": 1, "state_size": 4, "lru_width": 24, "n_head": 4}
    assert layout_of(make(kind, {**settings, "num_hidden_layers": 3})).layers
