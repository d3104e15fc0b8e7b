"""Where a BOS goes, which tokens are cut where, and which predict which."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import TINY, VOCAB

from optishear.errors import ConfigError
from optishear.evaluation.perplexity import held_out
from optishear.text import hub
from optishear.text.bos import adds_bos
from optishear.text.sources import TextSpec
from optishear.text.tokens import token_batches


START = 52


class Letters:
    """A tokenizer with a token for every letter, and a BOS that nothing else is written as."""

    bos_token_id = START

    def __call__(self, texts, **_):
        return {"input_ids": [[self.id(letter) for letter in text] for text in texts]}

    def id(self, letter):
        return ord(letter) % START


class Starts(Letters):
    """One that begins every text with its BOS where it is not told not to."""

    def __call__(self, texts, add_special_tokens=True, **_):
        if isinstance(texts, str):
            return {"input_ids": self([texts], add_special_tokens)["input_ids"][0]}
        lead = [START] if add_special_tokens else []
        return {"input_ids": [lead + [self.id(letter) for letter in text] for text in texts]}


class NoStart(Letters):
    bos_token_id = None


def windows(spec, tokenizer, bos="none"):
    return token_batches(replace(spec, bos=bos), tokenizer)


@pytest.fixture
def file(tmp_path):
    """203 letters: 25 windows of 8 and a rest of 3."""
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(97 + (7 * n * n + n // 3) % 26) for n in range(203)))
    return path


def ids(text):
    return [Letters().id(letter) for letter in text]


def slow_perplexity(model, stream, length):
    """Token by token in fp64, each from the window's own beginning and nothing else."""
    model = copy.deepcopy(model).double()
    nats = []
    for start in range(0, len(stream) - length + 1, length):
        window = stream[start : start + length]
        for at in range(1, length):
            logits = model(torch.tensor([window[:at]]), use_cache=False).logits[0, -1]
            nats.append(-logits.log_softmax(-1)[window[at]].item())
    return math.exp(math.fsum(nats) / len(nats))


@pytest.mark.parametrize("bos", ["none", "text"])
@torch.no_grad()
def test_perplexity_is_that_of_a_slow_loop_over_all_windows(file, bos):
    model = TINY["llama"]()
    assert VOCAB > START
    stream = ([START] if bos == "text" else []) + ids(file.read_text())
    tokens = windows(TextSpec(str(file), "all", 0, 8), Letters(), bos)
    assert held_out(model, tokens).perplexity == pytest.approx(
        slow_perplexity(model, stream, 8), rel=1e-5
    )


def test_all_windows_are_taken_and_the_rest_is_left_out(file):
    cut = windows(TextSpec(str(file), "all", 0, 8), Letters())
    assert cut.tokens.flatten().tolist() == ids(file.read_text())[:200]
    assert "25 of 25 windows of 8 tokens" in cut.source
    assert len(windows(TextSpec(str(file), "all", 4, 8), Letters()).tokens) == 4


def test_one_bos_before_the_text_moves_every_window_and_may_make_one_more(file):
    cut = windows(TextSpec(str(file), "all", 0, 12), Letters(), "text")
    assert cut.tokens.flatten().tolist() == [START, *ids(file.read_text())]  # 17 * 12 = 203 + 1
    assert "one BOS before the text" in cut.source
    without = windows(TextSpec(str(file), "all", 0, 12), Letters())
    assert len(without.tokens) == 16
    assert cut.hash != without.hash


def test_a_bos_at_every_window_leaves_room_for_one_token_less(file):
    cut = windows(TextSpec(str(file), "all", 0, 8), Letters(), "window")
    assert cut.tokens.shape == (29, 8)  # 203 // 7
    assert (cut.tokens[:, 0] == START).all()
    assert cut.tokens[:, 1:].flatten().tolist() == ids(file.read_text())
    assert "29 of 29 windows of 8 tokens" in cut.source
    assert "a BOS at the start of every window" in cut.source


def test_wikitext_is_one_text_joined_by_blank_lines(monkeypatch):
    """As GPTQ, SparseGPT and Wanda join it: empty rows and line ends included."""
    rows = [{"text": text} for text in ("", " = Heading = \n", " Some words . \n", "")]
    monkeypatch.setattr(hub.HubSource, "settled", lambda source: source)
    monkeypatch.setattr(hub.HubSource, "load", lambda *_: iter(rows))
    stream = [START, *ids("\n\n".join(row["text"] for row in rows))]
    cut = windows(TextSpec("wikitext", "evaluation", 0, 5), Letters(), "text")
    assert cut.tokens.flatten().tolist() == stream[: len(stream) // 5 * 5]


@pytest.mark.parametrize("bos", ["text", "window"])
def test_a_tokenizer_without_bos_is_said(file, bos):
    with pytest.raises(ConfigError, match="has no BOS token"):
        windows(TextSpec(str(file), "all", 0, 8), NoStart(), bos)


def test_an_unknown_place_of_bos_names_the_known_ones(file):
    with pytest.raises(ConfigError, match="Did you mean 'window'"):
        windows(TextSpec(str(file), "all", 0, 8), Letters(), "windows")


@pytest.mark.parametrize(
    ("tokenizer", "place"), [(Letters(), "none"), (Starts(), "window"), (NoStart(), "none")]
)
def test_where_nobody_says_the_tokenizer_does(file, tokenizer, place):
    spec = TextSpec(str(file), "all", 5, 8)
    assert spec.bos == "auto"
    assert adds_bos(tokenizer) is (place == "window")
    assert token_batches(spec, tokenizer).hash == windows(spec, tokenizer, place).hash


def test_a_window_has_room_for_a_bos_and_two_tokens(file):
    windows(TextSpec(str(file), "all", 0, 3), Letters(), "window")
    with pytest.raises(ConfigError, match="one of them the BOS"):
        windows(TextSpec(str(file), "all", 0, 2), Letters(), "window")


def test_a_choice_of_windows_with_a_bos_is_seeded(file):
    spec = TextSpec(str(file), "all", 5, 8, seed=3)
    one, two = (windows(spec, Letters(), "window").tokens for _ in range(2))
    assert np.array_equal(one, two)
