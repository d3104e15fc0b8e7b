"""Log-sum-exp and divergences without logits in memory, against those with them."""

import math

import pytest
import torch

from optishear.kernels.log_sum_exp import fits, log_sum_exp
from optishear.kernels.use import kernels
from optishear.models.head import Head
from optishear.objectives import make_objective, softmax
from optishear.objectives.base import Chunk, Reference


def head_of(vocab=150, width=37, dtype=torch.float32, bias=False, **rest):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(vocab, width, generator=generator).to(dtype)
    return Head(weight, torch.randn(vocab, generator=generator) if bias else None, **rest)


def hidden_of(tokens, width=37, seed=0, dtype=torch.float32, loud=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (loud * torch.randn(tokens, width, generator=generator)).to(dtype)


@pytest.mark.parametrize(
    ("tokens", "vocab", "width"), [(1, 1, 1), (3, 64, 32), (65, 129, 37), (70, 40, 7)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_it_is_that_of_fp64_logits_to_the_rounding_of_fp32_ones(tokens, vocab, width, dtype):
    head, hidden = head_of(vocab, width, dtype), hidden_of(tokens, width, dtype=dtype)
    exact = (hidden.double() @ head.weight.double().T).logsumexp(-1)
    assert (log_sum_exp(hidden, head.weight) - exact).abs().max() < 2e-5


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_bias_and_scale_are_the_heads(bias, scale):
    head, hidden = head_of(bias=bias, scale=scale), hidden_of(9)
    want = softmax.normaliser(head.logits(hidden)).lse
    got = softmax.log_sum_exp_without_logits(head, hidden)
    assert got.dtype == torch.float64
    assert (got - want).abs().max() < 1e-5  # logits of 20 in fp32


def test_loud_logits_neither_overflow_nor_vanish():
    head, hidden = head_of(), hidden_of(4, loud=1e4)
    want = (hidden.double() @ head.weight.double().T).logsumexp(-1)
    torch.testing.assert_close(log_sum_exp(hidden, head.weight), want, rtol=1e-6, atol=0)


def test_what_is_not_finite_stays_so():
    hidden = hidden_of(3)
    hidden[1, 5] = torch.nan
    found = log_sum_exp(hidden, head_of().weight)
    assert found.isnan().tolist() == [False, True, False]


def test_a_token_does_not_mind_the_others():
    head, hidden = head_of(), hidden_of(70)
    other = hidden_of(70, seed=1)
    other[[3, 66]] = hidden[[3, 66]]
    found, among_others = (log_sum_exp(h, head.weight) for h in (hidden, other))
    assert torch.equal(found[[3, 66]], among_others[[3, 66]])
    assert not torch.equal(found, among_others)


def test_a_soft_cap_and_mixed_dtypes_go_to_the_reference():
    hidden = hidden_of(3)
    assert softmax.log_sum_exp_without_logits(head_of(softcap=3.0), hidden) is None
    assert not fits(hidden, head_of(dtype=torch.bfloat16).weight)
    with kernels("off"):
        assert softmax.log_sum_exp_without_logits(head_of(), hidden) is None


@pytest.mark.parametrize("kind", [{}, {"bias": True, "scale": 0.3}], ids=str)
@pytest.mark.parametrize("name", ["kl", "perplexity", "reconstruction", "kl_top@5"])
def test_objectives_are_what_they_are_with_logits(name, kind, way):
    def value():
        dense, targets = hidden_of(20), torch.arange(20) % 7
        targets[-1] = -1
        objective = make_objective(name)
        head = head_of(vocab=90, **kind)
        objective.update(
            Chunk(dense + 0.1 * hidden_of(20, seed=1), Reference(dense, targets, head))
        )
        return objective.value()

    with kernels("off"):
        want = value()
    # Logits of 20 in fp32, whose sums a GPU's library and our kernel make in different orders.
    rounding = 1e-6 if way == "on" else 0
    assert value() == pytest.approx(want, rel=1e-6, abs=rounding)


@pytest.mark.parametrize("name", ["kl", "perplexity", "reconstruction"])
def test_a_candidates_logits_are_never_made(name, monkeypatch):
    dense, head = hidden_of(6), head_of()
    reference = Reference(dense, torch.arange(6), head)
    make_objective(name).update(Chunk(dense, reference))  # the dense side makes them once
    monkeypatch.setattr(Head, "logits", lambda *_: pytest.fail("logits were made"))
    objective = make_objective(name)
    objective.update(Chunk(hidden_of(6, seed=1), reference))
    assert math.isfinite(objective.value())


def test_equal_hidden_states_have_no_divergence():
    dense = hidden_of(50, loud=3)
    objective = make_objective("kl")
    objective.update(Chunk(dense.clone(), Reference(dense, torch.zeros(50).long(), head_of())))
    assert float(objective.nats.abs().max()) == 0
