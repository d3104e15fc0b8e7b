"""Conversations in rows of data: as the chat template writes them, or a sentence."""

import json

import pytest

import optishear
from optishear.errors import ConfigError
from optishear.text.sources import TextSpec
from optishear.text.tokens import token_batches, tokenizer_hash


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}"
)
TALKS = [
    [
        {"role": "user", "content": f"What is {n} and {n}?"},
        {"role": "assistant", "content": f"It is {2 * n}.", "seconds": 3},
    ]
    for n in range(40)
]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = optishear.load("embedded").tokenizer
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def written(tmp_path, rows):
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def rendered(talk):
    return "".join(f"<{m['role']}>{m['content']}\n" for m in talk)


def test_they_are_strung_together_as_the_template_writes_them(tmp_path, tokenizer):
    path = written(tmp_path, [{"messages": talk} for talk in TALKS])
    found = token_batches(TextSpec(path, "all", 0, 16, "messages"), tokenizer)
    stream = [token for talk in TALKS for token in plain(tokenizer, rendered(talk))]
    assert found.tokens.flatten().tolist() == stream[: len(stream) // 16 * 16]


def test_beside_plain_texts_only_these_are_parted_by_a_blank_line(tmp_path, tokenizer):
    rows = ["One text.", "Another text.", TALKS[3], "A third text."]
    path = written(tmp_path, [{"body": row} for row in rows])
    found = token_batches(TextSpec(path, "all", 0, 4, "body"), tokenizer)
    between = plain(tokenizer, "\n\n")
    stream = [
        *plain(tokenizer, rows[0]), *between, *plain(tokenizer, rows[1]),
        *plain(tokenizer, rendered(TALKS[3])), *plain(tokenizer, rows[3]),
    ]  # fmt: skip
    assert found.tokens.flatten().tolist() == stream[: len(stream) // 4 * 4]


def test_splits_share_no_conversation_and_leave_none_out(tmp_path, tokenizer):
    path = written(tmp_path, [{"messages": talk} for talk in TALKS])
    parts = [
        token_batches(TextSpec(path, split, 0, 2, "messages"), tokenizer).tokens.numel()
        for split in ("train", "search", "evaluation", "all")
    ]
    assert min(parts) > 0
    assert parts[3] - 3 <= sum(parts[:3]) <= parts[3] + 1


def test_another_template_is_another_key_of_the_cache(tokenizer):
    before = tokenizer_hash(tokenizer)
    tokenizer.chat_template = TEMPLATE + " "
    after = tokenizer_hash(tokenizer)
    tokenizer.chat_template = TEMPLATE
    assert before == tokenizer_hash(tokenizer) != after


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ([], "line 1: field 'messages' is a conversation without messages"),
        (["Hello"], "message 0 has no 'role' that is a text"),
        ([{"role": "user"}], "message 0 has no 'content'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 0 has no 'content'"),
        ([{"role": "tool", "content": "x"}], "talks.jsonl:1: the model's chat template refuses"),
        (7, "is int, neither text nor a list of messages"),
    ],
)
def test_what_is_no_conversation_is_one_sentence(tmp_path, tokenizer, row, sentence):
    path = written(tmp_path, [{"messages": row}])
    with pytest.raises(ConfigError, match=sentence):
        token_batches(TextSpec(path, "all", 0, 4, "messages"), tokenizer)


def test_a_model_without_a_template_is_told(tmp_path):
    path = written(tmp_path, [{"messages": talk} for talk in TALKS])
    with pytest.raises(ConfigError, match="has no chat template"):
        token_batches(TextSpec(path, "all", 0, 4, "messages"), optishear.load("embedded").tokenizer)
