import math

import pytest
import torch
from layouts import small_layout

from optishear.errors import ConfigError
from optishear.models.head import Head
from optishear.objectives import OBJECTIVES, make_objective
from optishear.objectives.base import Chunk, OutputObjective, SizeObjective
from optishear.pruning.result import PruneResult


OUTPUT = [name for name, kind in OBJECTIVES.items() if issubclass(kind, OutputObjective)]
DIVERGENCES = [name for name in OUTPUT if name != "perplexity"]
HEADS = {
    "linear": {},
    "biased": {"bias": True},
    "scaled": {"scale": 0.25},
    "capped": {"softcap": 3.0},
}


def head_of(bias=False, **rest):
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(11, 5, generator=generator)
    return Head(weight, torch.randn(11, generator=generator) if bias else None, **rest)


def chunk(tokens, seed=0, same=False, kind="linear"):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(tokens, 5, generator=generator)
    hidden = dense if same else dense + 0.3 * torch.randn(tokens, 5, generator=generator)
    targets = torch.randint(0, 11, (tokens,), generator=generator)
    targets[-1] = -1  # a sequence ends here
    return Chunk(hidden, dense, targets, head_of(**HEADS[kind]))


def value(name, *chunks):
    objective = make_objective(name)
    for part in chunks:
        objective.update(part)
    return objective.value()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", OUTPUT)
class TestEveryOutputObjective:
    def test_does_not_depend_on_how_the_tokens_are_cut(self, name, kind):
        a = chunk(9, kind=kind)
        parts = [
            Chunk(a.hidden[s], a.dense_hidden[s], a.targets[s], a.head)
            for s in (slice(0, 2), slice(2, 3), slice(3, 9))
        ]
        assert value(name, *parts) == pytest.approx(value(name, a), rel=1e-6)

    def test_is_a_finite_number(self, name, kind):
        assert math.isfinite(value(name, chunk(6, kind=kind)))


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_is_zero_for_the_dense_model_and_positive_elsewhere(name, kind):
    assert value(name, chunk(6, same=True, kind=kind)) == 0
    assert value(name, chunk(6, kind=kind)) > 1e-3


@pytest.mark.parametrize("kind", HEADS)
def test_the_reconstruction_error_is_the_norm_over_the_logits_themselves(kind):
    part = chunk(9, kind=kind)
    logits, dense = (part.head.logits(h.float()).double() for h in (part.hidden, part.dense_hidden))
    assert value("reconstruction", part) == pytest.approx((logits - dense).norm().item(), rel=1e-5)
    relative = (logits - dense).norm() / dense.norm()
    assert value("relative_reconstruction", part) == pytest.approx(relative.item(), rel=1e-5)


def test_kl_and_perplexity_are_those_of_a_loop_over_tokens():
    part = chunk(9)
    pruned, dense = part.logits.double().softmax(-1), part.dense_logits.double().softmax(-1)
    nats, said = [], []
    for t in range(9):
        nats.append(sum(dense[t, v] * (dense[t, v] / pruned[t, v]).log() for v in range(11)))
        if part.targets[t] >= 0:
            said.append(-pruned[t, part.targets[t]].log())
    assert value("kl", part) == pytest.approx((sum(nats) / 9).item(), rel=1e-4)
    assert value("perplexity", part) == pytest.approx((sum(said) / 8).exp().item(), rel=1e-5)


def test_size_objectives_read_what_the_recipe_left():
    layout = small_layout(blocks=1)
    result = PruneResult(layout, {"blocks.0.attn.q": 12, "blocks.0.mlp.down": 30}, 100, 2)
    assert make_objective("sparsity").value(result) == pytest.approx(1 - 42 / 108)
    assert make_objective("sparsity_gap@0.5").value(result) == pytest.approx(1 - 42 / 108 - 0.5)
    # 12 and 30 non-zeros of two bytes, 48 and 60 mask bits, 100 other weights
    assert make_objective("bytes").value(result) == 24 + 48 // 8 + 60 + 60 // 8 + 200


def test_a_dense_layer_is_never_stored_with_a_mask():
    layout = small_layout(blocks=1)
    full = PruneResult(layout, layout.sizes, 0, 2)
    assert make_objective("bytes").value(full) == 2 * layout.total


def test_every_objective_says_what_it_is():
    for name, kind in OBJECTIVES.items():
        assert kind.unit, name
        assert kind.description, name
        assert issubclass(kind, OutputObjective | SizeObjective)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kll", "Did you mean 'kl'"),
        ("kl@0.5", "takes no number"),
        ("sparsity_gap", "write it with a target"),
        ("sparsity_gap@60", "must lie in"),
    ],
)
def test_an_objective_that_cannot_be_is_a_sentence(text, sentence):
    with pytest.raises(ConfigError) as raised:
        make_objective(text)
    assert sentence in str(raised.value)
