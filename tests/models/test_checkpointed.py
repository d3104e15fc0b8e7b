"""Checkpointed blocks: the same bits, each gradient once, and activations that do not wait."""

import weakref
from contextlib import nullcontext

import pytest
import torch
from tiny_models import GATED, TINY, make, tokens
from torch import nn

from optishear.models.checkpointed import checkpointed_blocks, why_not_checkpointed
from optishear.models.discover import decoder_blocks
from optishear.models.head import hidden_states


def deep(blocks=4):
    return make("llama", {**GATED, "num_hidden_layers": blocks})


def passes(model, batch, checkpointed):
    """Final hidden states, gradients of all matrices in the blocks, how often each came."""
    inside = {id(p) for block in decoder_blocks(model)[1] for p in block.parameters()}
    asked = {n: p for n, p in model.named_parameters() if id(p) in inside and p.ndim > 1}
    found, times, hooks = {}, dict.fromkeys(asked, 0), []

    def noting(name):
        def note(parameter):
            found[name], parameter.grad = parameter.grad, None
            times[name] += 1

        return note

    try:
        for name, parameter in asked.items():
            parameter.requires_grad_(True)
            hooks.append(parameter.register_post_accumulate_grad_hook(noting(name)))
        with torch.enable_grad(), checkpointed_blocks(model) if checkpointed else nullcontext():
            hidden = hidden_states(model, batch)
        torch.autograd.backward(hidden, hidden.detach().cos(), inputs=list(asked.values()))
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in asked.values():
            parameter.requires_grad_(False)
    return hidden.detach(), found, times


@pytest.mark.parametrize("kind", TINY)
def test_hidden_states_and_gradients_are_the_same_bits(kind):
    model, batch = TINY[kind](), tokens()
    want, gradients, times = passes(model, batch, False)
    got, found, again = passes(model, batch, True)
    assert torch.equal(got, want)
    assert found.keys() == gradients.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in gradients.items())
    assert again == times
    assert set(again.values()) <= {0, 1}  # 0: of an expert that no token chose
    assert why_not_checkpointed(model, batch[:1]) is None


def test_each_block_but_the_last_runs_twice():
    model, calls = deep(), []
    for index, block in enumerate(model.model.layers):
        block.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
    passes(model, tokens(), True)
    assert calls == [0, 1, 2, 3, 2, 1, 0]


def test_between_the_passes_no_activation_of_a_block_is_kept_but_the_last_s():
    def alive(checkpointed):
        model, kept = deep(), []
        for block in model.model.layers:
            block.mlp.act_fn.register_forward_hook(
                lambda _m, _i, out: kept.append(weakref.ref(out))
            )
            for parameter in block.parameters():
                parameter.requires_grad_(True)
        with torch.enable_grad(), checkpointed_blocks(model) if checkpointed else nullcontext():
            hidden = hidden_states(model, tokens())
        assert hidden.requires_grad
        return [ref() is not None for ref in kept]

    assert alive(False) == [True] * 4
    assert alive(True) == [False, False, False, True]


def test_calls_are_the_model_s_own_again_whatever_happens_inside():
    model = deep()
    want = hidden_states(model, tokens())
    with pytest.raises(RuntimeError, match="inside"), checkpointed_blocks(model):
        raise RuntimeError("inside")
    assert all(block._compiled_call_impl is None for block in model.model.layers)
    assert torch.equal(hidden_states(model, tokens()), want)


class Leaving(nn.Module):
    """A block that adds what the one before it left in a list, and leaves its own there."""

    def __init__(self, block, left):
        super().__init__()
        self.block, self.left, self.attention_type = block, left, "full_attention"

    def forward(self, hidden, **kwargs):
        before = 0.01 * self.left[-1] if self.left else 0.0
        made = self.block(hidden, **kwargs) + before
        self.left.append(made.detach())
        return made


def entangled():
    model, left = deep(), []
    for index, block in enumerate(model.model.layers):
        model.model.layers[index] = Leaving(block, left)
    return model


def test_blocks_that_leave_something_for_later_ones_cannot_be():
    assert "alone is off by" in why_not_checkpointed(entangled(), tokens(1))
