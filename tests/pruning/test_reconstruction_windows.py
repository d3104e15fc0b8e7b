"""A block, or what two halves of it do one after the other; where there are none, that is said."""

from functools import partial

import pytest
import torch
from tiny_models import TINY, tokens

from optishear.errors import ConfigError
from optishear.models.blocks import BlockRunner
from optishear.models.discover import layout_of
from optishear.pruning.windows import StackWindow, halves_of


BATCHES = [tokens(3, 12, seed=1), tokens(2, 12, seed=2)]
TWO = ("llama", "mistral", "qwen2", "gemma2", "granite", "gpt2", "mixtral", "qwen2_moe", "gpt_oss")
NONE = ("gpt_neox", "falcon", "opt")  # parallel residuals, and norms after them


def runner_of(name, block):
    model = TINY[name]()
    runner = BlockRunner(model, BATCHES)
    layers = [layer for layer in layout_of(model).layers if layer.block == block]
    for _ in range(block):
        runner.advance()
    return runner, layers, [runner._handed[n] for n in range(2)]


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("name", [*TWO, "list_moe", "jetmoe"])
def test_one_half_after_the_other_is_the_block(name, block):
    runner, layers, handed = runner_of(name, block)
    stack = runner.stack
    one, two = halves_of(stack, block, layers, BATCHES[0][:1], _first(handed[0]))
    assert {*one.layers, *two.layers} == set(layers)
    assert all("attn" in x.role or "attention" in x.role for x in one.layers)
    whole = [runner.run(number) for number in range(2)]
    with one.silent():
        between = [stack.run(block, batch, handed[n]) for n, batch in enumerate(BATCHES)]
    assert not torch.equal(between[0], whole[0])
    second = StackWindow("second half", stack, block, BATCHES, between, whole, two.silent)
    assert second.sequences == 5
    for sequence in range(5):
        with torch.no_grad():
            made = second.output(sequence)
        torch.testing.assert_close(made, second.target(sequence), rtol=1e-4, atol=1e-5)
    assert not any("forward" in vars(module) for module in runner.model.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in runner.model.modules())


def rms_norm(norm, x):
    return norm.weight * x * (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()


def _first(handed):
    return None if handed is None else handed[:1]


@pytest.mark.parametrize("name", NONE)
def test_a_block_without_two_halves_is_refused(name):
    runner, layers, _ = runner_of(name, 0)
    with pytest.raises(ConfigError, match=r"0 has no two halves.*--reconstruct block"):
        halves_of(runner.stack, 0, layers, BATCHES[0][:1], None)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("block", [0, 1])
def test_gradients_through_a_window_are_those_of_finite_differences(name, block):
    runner, layers, handed = runner_of(name, block)
    model = runner.model.double()
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:  # which computes in fp32 whatever it is given
            module.forward = partial(rms_norm, module)
    handed = [None if h is None else h.double() for h in handed]
    target = [torch.zeros(len(batch), 12, 24, dtype=torch.float64) for batch in BATCHES]
    one, two = halves_of(runner.stack, block, layers, BATCHES[0][:1], _first(handed[0]))
    for part, silent in ((layers, None), (one.layers, one.silent), (two.layers, two.silent)):
        window = StackWindow("a window", runner.stack, block, BATCHES, handed, target, silent)
        weights = [model.get_parameter(f"{layer.name}.weight") for layer in layers]

        def loss(window=window):
            return (window.output(3) - window.target(3)).square().sum()

        for weight in weights:
            weight.requires_grad_()
        with torch.enable_grad():
            found = torch.autograd.grad(loss(), weights, allow_unused=True)
        for weight, gradient, layer in zip(weights, found, layers, strict=True):
            weight.requires_grad_(False)
            assert (gradient is not None) == (layer in part)
        for layer, weight, gradient in zip(layers, weights, found, strict=True):
            if layer not in part:
                continue
            ends, h = [], 1e-6
            for step in (h, -h):
                weight[2, 3] += step
                with torch.no_grad():
                    ends.append(loss().item())
                weight[2, 3] -= step
            want = (ends[0] - ends[1]) / (2 * h)
            assert gradient[2, 3].item() == pytest.approx(want, rel=1e-4, abs=1e-6), layer.name
