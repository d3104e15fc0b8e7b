"""Statistics are those of a slow reference that looks at every layer's input by itself."""

import pytest
import torch
from tiny_models import TINY, tokens
from torch import nn

from optishear.calibration.collect import collect
from optishear.calibration.statistics import Gram, InputSq, stats_of
from optishear.errors import ConfigError
from optishear.models.discover import layout_of
from optishear.models.experts import expert_count
from optishear.recipe.layout import ModelLayout


BOTH = frozenset({InputSq, Gram})
BATCHES = [tokens(3, 12, seed=1), tokens(2, 12, seed=2)]


@pytest.fixture(params=TINY)
def model(request):
    return TINY[request.param]()


@torch.no_grad()
def inputs_of_every_layer(model, batches):
    """Each layer's input rows in fp64, caught at the layer itself or recomputed for experts."""
    seen: dict[str, list[torch.Tensor]] = {}

    def note(name, x):
        seen.setdefault(name, []).append(x.flatten(0, -2).double())

    def hear(name):
        return lambda _module, args: note(name, args[0])

    def hear_experts(name):
        def listen(module, args):
            if not hasattr(module, "gate_up_proj"):  # JetMoE: rows sorted by expert, and counts
                for expert, rows in enumerate(args[0].split(args[1])):
                    note(f"{name}.weight.{expert}", rows)
                return
            hidden, chosen = args[0], args[1]
            for expert in range(module.num_experts):
                rows = hidden[(chosen == expert).any(-1)]
                note(f"{name}.gate_up_proj.{expert}", rows)
                weight = module.gate_up_proj[expert]
                out = rows @ (weight if module.is_transposed else weight.T)
                if module.has_bias:
                    out = out + module.gate_up_proj_bias[expert]
                note(f"{name}.down_proj.{expert}", module._apply_gate(out))

        return listen

    hooks = [
        module.register_forward_pre_hook((hear_experts if expert_count(module) else hear)(name))
        for name, module in model.named_modules()
        if expert_count(module) or type(module).__name__ in ("Linear", "Conv1D", "FalconLinear")
    ]
    for batch in batches:
        model(batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows) for name, rows in seen.items()}


def test_statistics_equal_a_slow_reference_layer_by_layer(model):
    layout = layout_of(model)
    stats = collect(model, layout, BATCHES, BOTH)
    reference = inputs_of_every_layer(model, BATCHES)
    assert stats.keys() == {layer.site for layer in layout.layers}
    for layer in layout.layers:
        got, x = stats_of(stats, layer), reference[layer.name]
        assert (got.tokens, got.sequences) == (len(x), 5), layer.name
        square, gram = got[InputSq].total, got[Gram].total
        torch.testing.assert_close(square.double(), x.square().sum(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gram.double(), x.T @ x, rtol=1e-4, atol=1e-4)
        assert square.dtype == gram.dtype == torch.float32


def test_two_shards_add_up_to_one_pass_over_both(model):
    layout = layout_of(model)
    whole = collect(model, layout, BATCHES, BOTH)
    first, second = (collect(model, layout, [batch], BOTH) for batch in BATCHES)
    for site, want in whole.items():
        got = first[site] + second[site]
        assert (got.tokens, got.sequences) == (want.tokens, want.sequences)
        torch.testing.assert_close(got[InputSq].total, want[InputSq].total, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got[Gram].total, want[Gram].total, rtol=1e-4, atol=1e-5)


def test_only_what_is_needed_is_collected():
    model = TINY["llama"]()
    stats = collect(model, layout_of(model), BATCHES, frozenset({InputSq}))
    assert all(InputSq in s and Gram not in s for s in stats.values())


def test_collecting_leaves_model_tokens_and_hooks_as_they_were(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = tokens(4, 12)
    experts = model.get_experts_implementation()
    collect(model, layout_of(model), [batch], BOTH)
    assert torch.equal(batch, tokens(4, 12))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert model.get_experts_implementation() == experts


def test_the_way_experts_are_computed_is_given_back_after_an_exception():
    model = TINY["mixtral"]()
    before = model.get_experts_implementation()
    assert before[""] != "eager"

    def failing():
        assert model.get_experts_implementation()[""] == "eager"
        yield tokens()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(model, layout_of(model), failing(), BOTH)
    assert model.get_experts_implementation() == before
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_forward_stops_before_the_output_head():
    model = TINY["llama"]()
    layout, calls = layout_of(model), []
    model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    collect(model, layout, BATCHES, BOTH)
    assert not calls


def test_an_expert_without_tokens_is_named():
    model = TINY["mixtral"]()
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight.zero_()  # all ties: two of three experts are chosen
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.experts\.\w+\.2.*more calibration"):
        collect(model, layout_of(model), BATCHES, BOTH)


def test_an_old_style_expert_without_tokens_is_named():
    model = TINY["list_moe"]()
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight.zero_()
    with pytest.raises(ConfigError, match=r"layers\.0\.mlp\.experts\.\d\.w1.*more calibration"):
        collect(model, layout_of(model), BATCHES, BOTH)


def test_no_tokens_at_all_is_refused():
    model = TINY["llama"]()
    with pytest.raises(ConfigError, match="no tokens at all"):
        collect(model, layout_of(model), [], BOTH)


def test_an_input_that_is_not_finite_is_named():
    model = TINY["llama"]()
    layout = layout_of(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(ConfigError, match=r"model\.layers\.1\.mlp\.down_proj.*not finite"):
        collect(model, layout, BATCHES, BOTH)


def test_sums_of_a_half_precision_model_are_fp32_and_lose_nothing():
    model = TINY["llama"]().to(torch.bfloat16)
    layout = layout_of(model)
    stats = collect(model, layout, 40 * BATCHES, BOTH)
    once = collect(model, layout, BATCHES, BOTH)
    for site, many in stats.items():
        assert many[InputSq].total.dtype == many[Gram].total.dtype == torch.float32
        want = 40 * once[site][InputSq].total
        torch.testing.assert_close(many[InputSq].total, want, rtol=1e-6, atol=0)


def test_part_of_a_layout_has_its_sites_though_their_first_layer_is_not_in_it():
    model = TINY["llama"]()
    layout = layout_of(model)
    values = [layer for layer in layout.layers if layer.role == "self_attn.v_proj"]
    part = collect(model, ModelLayout(tuple(values)), BATCHES, BOTH)
    whole = collect(model, layout, BATCHES, BOTH)
    assert part.keys() == {layer.site for layer in values}
    assert all(torch.equal(part[site][Gram].total, whole[site][Gram].total) for site in part)


def test_a_hook_that_was_there_before_stays():
    model = TINY["llama"]()
    seen: list[nn.Module] = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda module, _: seen.append(module))
    collect(model, layout_of(model), BATCHES, BOTH)
    assert len(seen) == 1 + len(BATCHES)  # the probe, then the batches
    assert len(model.model.layers[0].mlp._forward_pre_hooks) == 1
