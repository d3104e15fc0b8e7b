"""The output head is what the model computes, and a forward can stop before it."""

import pytest
import torch
from tiny_models import GATED, TINY, make, tokens
from torch import nn

from optishear.errors import ConfigError
from optishear.models.head import Head, find_head, hidden_states


HEADS = {
    **TINY,
    "cohere": lambda: make("cohere", {**GATED, "logit_scale": 0.25}),
    "gptj": lambda: make(
        "gptj", {"vocab_size": 53, "n_embd": 24, "n_layer": 2, "n_head": 2, "rotary_dim": 4}
    ),
}


@pytest.fixture(params=HEADS)
def model(request):
    return HEADS[request.param]()


@torch.no_grad()
def logits_of(model):
    return model(tokens(seed=5), use_cache=False).logits.flatten(0, 1)


def quiet(model):
    """As of a model fresh from its config: logits far below any soft cap."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-3)
    return model


def test_the_head_reproduces_the_models_logits(model):
    head = find_head(model, tokens())
    hidden = hidden_states(model, tokens(seed=5)).flatten(0, 1).detach()
    torch.testing.assert_close(head.logits(hidden), logits_of(model), rtol=1e-4, atol=1e-5)


def test_scale_and_softcap_are_found():
    found = {
        name: find_head(HEADS[name](), tokens())
        for name in ("llama", "granite", "cohere", "gemma2")
    }
    assert found["llama"].scale == 1.0
    assert found["granite"].scale == pytest.approx(1 / 8)
    assert found["cohere"].scale == pytest.approx(0.25)
    assert (found["gemma2"].softcap, found["gemma2"].scale) == (30.0, 1.0)
    assert [head.linear for head in found.values()] == [True, True, True, False]


def test_a_bias_of_the_head_is_found():
    head = find_head(HEADS["gptj"](), tokens())
    assert head.bias is not None
    assert find_head(TINY["llama"](), tokens()).bias is None


def test_the_weight_is_the_models_own_tensor(model):
    head = find_head(model, tokens())
    assert head.weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


def test_a_soft_cap_is_found_though_the_logits_are_far_below_it():
    head = find_head(quiet(TINY["gemma2"]()), tokens())
    assert head.softcap == 30.0


def test_a_cap_that_the_config_does_not_name_is_refused_though_the_logits_are_small():
    model = quiet(TINY["gemma2"]())
    inner = model.forward

    def forward(*args, **kwargs):
        out = inner(*args, **kwargs)
        out.logits = 40 * torch.tanh(out.logits / 40)
        return out

    model.forward = forward
    model.config.final_logit_softcapping = None
    with pytest.raises(ConfigError, match="its logits are neither W h"):
        find_head(model, tokens())


def test_scale_before_the_soft_cap_is_found():
    model = TINY["gemma2"]()
    model.lm_head.register_forward_hook(lambda _module, _args, output: output * 0.5)
    head = find_head(model, tokens())
    assert head.softcap == 30.0
    assert head.scale == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "granite", "gemma2", "opt"])
def test_heads_of_bf16_models_are_found_within_their_rounding(name):
    model = HEADS[name]().to(torch.bfloat16)
    head = find_head(model, tokens())
    hidden = hidden_states(model, tokens(seed=5)).flatten(0, 1).detach()
    logits = head.logits(hidden)
    assert logits.dtype == torch.float32
    assert (logits - logits_of(model)).norm() < 0.01 * logits.norm()


def test_the_norm_over_logits_is_had_from_the_gram_without_logits(model):
    head = find_head(model, tokens())
    if not head.linear:
        with pytest.raises(ValueError, match="no Gram matrix"):
            _ = head.gram
        return
    change = torch.randn(11, head.weight.shape[1], generator=torch.Generator().manual_seed(3))
    want = (head.scale * change.double() @ head.weight.double().T).square().sum()
    got = ((change @ head.gram) * change).sum(dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


def test_the_gram_of_a_tall_head_is_accurate_beyond_fp32_sums():
    weight = 1 + 0.01 * torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0))
    exact = weight.double().T @ weight.double()
    gram = Head(weight, scale=0.5).gram
    assert gram.dtype == torch.float32
    plain = ((weight.T @ weight).double() - exact).norm()
    assert (4 * gram.double() - exact).norm() < plain / 3


def test_hidden_states_are_what_the_output_head_reads(model):
    seen = []
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _module, args: seen.append(args[0])
    )
    logits_of(model)
    hook.remove()
    hidden = hidden_states(model, tokens(seed=5))
    assert hidden.shape[:2] == (2, 12)
    torch.testing.assert_close(hidden, seen[0], rtol=0, atol=0)


def test_no_logit_is_computed_and_no_hook_stays(model):
    calls = []
    hook = model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    hidden_states(model, tokens())
    hook.remove()
    assert not calls
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_an_error_inside_the_model_is_not_swallowed_and_no_hook_stays():
    model = TINY["llama"]()
    with pytest.raises(IndexError):
        hidden_states(model, torch.full((1, 3), 10_000))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_model_without_output_head_is_refused():
    body = TINY["llama"]().model
    with pytest.raises(ConfigError, match="has no output head"):
        hidden_states(body, tokens())
    with pytest.raises(ConfigError, match="has no output head"):
        find_head(nn.Sequential(nn.Linear(2, 3)), tokens())


def test_training_mode_is_refused():
    with pytest.raises(ConfigError, match=r"model\.eval"):
        hidden_states(TINY["llama"]().train(), tokens())


def test_a_head_that_is_never_called_is_refused():
    model = TINY["llama"]()
    model.get_output_embeddings = lambda: nn.Linear(24, 53)
    with pytest.raises(ConfigError, match="was never called"):
        hidden_states(model, tokens())
