"""Questions as token ids: every choice whole and in one batch, and the best of them found."""

import pytest
import torch
from task_folder import task_file

from optishear.errors import ConfigError
from optishear.text.questions import LENGTHS, QuestionSet, QuestionSpec, encode


class Letters:
    """A tokenizer of one id a letter, with a token that begins a text."""

    bos_token_id, eos_token_id = 1, None

    def encode(self, text, add_special_tokens=True):
        return [1] * add_special_tokens + [ord(letter) for letter in text]


PLAIN = {"doc_to_text": "query", "doc_to_choice": "choices", "doc_to_target": "gold"}


def written(folder, rows, **changes):
    return str(task_file(folder, rows, **{**PLAIN, **changes}))


ROWS = [
    {"query": "one and", "choices": ["two", "nothing else"], "gold": 0},
    {"query": "a longer question: ", "choices": ["b", "cd", "e"], "gold": 2},
    {"query": "", "choices": ["alone", "by itself"], "gold": 1},
]


def asked_of(folder, batch_tokens=40, context=None, **changes):
    found = QuestionSet.read(QuestionSpec(written(folder, ROWS, **changes)))
    return encode(found, Letters(), batch_tokens, context)


def spelled(encoded):
    """{choice: (text that is read, text that is scored)}, from the batches."""
    read, scored = {}, {}
    for asked in encoded.asked:
        for row, at, target, choice in zip(
            asked.row, asked.position, asked.target, asked.choice, strict=True
        ):
            index = int(choice)
            scored[index] = scored.get(index, "") + chr(target)
            read[index] = "".join(chr(i) for i in asked.tokens[row, : at + 1].tolist())
    return {index: (read[index], scored[index]) for index in sorted(read)}


def test_every_choice_is_read_after_its_question_and_scored_token_by_token(tmp_path):
    told = spelled(asked_of(tmp_path))
    assert told[0] == ("\x01one and tw", " two")
    assert told[1] == ("\x01one and nothing els", " nothing else")
    assert told[2][1] == "  b"  # a space that ended the question begins the choice
    assert told[5] == ("\x01 alon", " alone")
    assert len(told) == 7


@pytest.mark.parametrize("batch_tokens", [1, 40, 1000])
def test_how_choices_are_batched_is_no_matter(batch_tokens, tmp_path):
    encoded = asked_of(tmp_path, batch_tokens)
    assert spelled(encoded) == spelled(asked_of(tmp_path))
    assert all(a.tokens.numel() <= batch_tokens or len(a.tokens) == 1 for a in encoded.asked)


def test_what_is_too_long_loses_its_beginning(tmp_path):
    told = spelled(asked_of(tmp_path, context=14))
    assert told[1] == ("nd nothing els", " nothing else")


def test_the_right_choice_wins_by_likelihood_over_its_length(tmp_path):
    likelihood = torch.tensor([-4.0, -9.0, -3.0, -2.5, -1.0, -5.0, -6.0])
    plain = asked_of(tmp_path / "plain", metric_list=[{"metric": "acc"}])
    assert plain.hits(likelihood) == [True, True, False]
    normed = asked_of(tmp_path / "normed")  # -4/3 against -9/12, -3/1 -2.5/2 -1/1, -5/5 -6/9
    assert normed.hits(likelihood) == [False, True, True]
    assert LENGTHS["acc_bytes"]("é") == 2


def test_contexts_are_told_apart_by_what_follows_them(tmp_path):
    rows = [{"options": ["He", "She"], "rest": "ran", "gold": 1}]
    changes = {"doc_to_text": "gold", "doc_to_choice": "options", "doc_to_target": "rest"}
    spec = QuestionSpec(written(tmp_path, rows, **changes))
    encoded = encode(QuestionSet.read(spec), Letters(), 40)
    assert spelled(encoded) == {0: ("\x01He ra", " ran"), 1: ("\x01She ra", " ran")}
    assert encoded.right == (1,)


def test_the_hash_is_of_what_is_asked_and_of_nothing_else(tmp_path):
    one = asked_of(tmp_path / "one").hash
    assert asked_of(tmp_path / "two", task="renamed").hash == one
    assert asked_of(tmp_path / "three", target_delimiter="  ").hash != one
    ROWS[0]["gold"], before = 1, ROWS[0]["gold"]
    try:
        assert asked_of(tmp_path / "four").hash != one
    finally:
        ROWS[0]["gold"] = before


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"limit": 4}, "limit is 4, but there are 3 questions"),
        ({"metric": "acc_bytes"}, "has no metric 'acc_bytes'"),
        ({"data": "elsewhere"}, "is not there"),
    ],
)
def test_questions_that_cannot_be_asked_are_a_sentence(told, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        QuestionSet.read(QuestionSpec(written(tmp_path, ROWS), **told))


def test_a_folder_is_no_written(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        QuestionSet.read(QuestionSpec(str(tmp_path)))
