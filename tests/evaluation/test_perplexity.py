import math

import pytest
import torch
import torch.nn.functional as F
from tiny_models import TINY

from optishear.evaluation.perplexity import HeldOut, held_out
from optishear.text.tokens import TokenBatches


def tokens(vocab, n=5, seq=12):
    generator = torch.Generator().manual_seed(0)
    return TokenBatches.of(torch.randint(0, vocab, (n, seq), generator=generator), "text")


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_perplexity_is_that_of_the_logits(name):
    model = TINY[name]()
    text = tokens(model.config.vocab_size)
    found = held_out(model, text)
    for row, nats in zip(text.tokens, found.nats, strict=True):
        logits = model(row[None], use_cache=False).logits[0, :-1].double()
        assert nats == pytest.approx(F.cross_entropy(logits, row[1:]).item(), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(sum(found.nats) / 5))


def test_perplexity_does_not_depend_on_batching():
    model = TINY["llama"]()
    text = tokens(model.config.vocab_size)
    one, many = (held_out(model, text, batch_tokens=size).nats for size in (1, 1000))
    assert one == pytest.approx(many, rel=1e-5)


def test_a_paired_comparison_has_a_smaller_error_than_its_parts():
    hard = [3.0, 4.0, 5.0, 6.0]
    a = HeldOut("t", 8, tuple(x - 0.1 for x in hard))
    b = HeldOut("t", 8, tuple(x + 0.01 * (-1) ** i for i, x in enumerate(hard)))
    mean, error = a.better_than(b)
    assert mean == pytest.approx(0.1)
    assert error == pytest.approx(0.01 * math.sqrt(4 / 3) / 2)
    assert error < a.error / 10


def test_different_texts_are_not_compared():
    with pytest.raises(ValueError, match="not the same sequences"):
        HeldOut("a", 8, (1.0, 2.0)).better_than(HeldOut("b", 8, (1.0, 2.0)))


def test_one_sequence_has_no_standard_error():
    assert math.isnan(HeldOut("a", 8, (1.0,)).error)
