"""Multiple-choice questions as token ids: every choice with its context, ready for one pass.

Encoded and scored as lm-eval does it: a choice's score is the log-likelihood of its tokens after
the context, and under `acc_norm` that over its number of characters.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optishear.errors import ConfigError
from optishear.text.task_files import CHOICES, QUESTION, TARGET, LocalTask, read_tasks


LENGTHS: dict[str, Callable[[str], float]] = {
    "acc": lambda choice: 1.0,
    "acc_norm": lambda choice: float(len(choice)),
    "acc_bytes": lambda choice: float(len(choice.encode())),
}
"""What the log-likelihood of a choice is divided by, by lm-eval's name of the metric."""


@dataclass(frozen=True)
class QuestionSpec:
    """Which questions, as an experiment says it.

    - `file`: a task file (see `task_files`); `data`: the folder of its data, empty is the file's.
    - `limit`: the first so many questions; None is all.
    - `metric`: one of `LENGTHS`; None is `acc_norm` where the task file has it, else `acc`.
    """

    file: str
    data: str = ""
    limit: int | None = None
    metric: str | None = None


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one task file that are asked, and how an answer is chosen."""

    task: LocalTask
    questions: tuple[dict[str, Any], ...]
    metric: str

    @classmethod
    def read(cls, spec: QuestionSpec) -> "QuestionSet":
        """Raises `ConfigError` where file, data, limit or metric cannot be used."""
        path = Path(spec.file).expanduser()
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder. Name one task file (.yaml) in it.")
        [task] = read_tasks([path], Path(spec.data).expanduser() if spec.data else None)
        found = len(task.questions)
        if spec.limit is not None and spec.limit > found:
            raise ConfigError(
                f"{path}: limit is {spec.limit}, but there are {found} questions. Lower it, or "
                f"leave it out for all of them."
            )
        usual = "acc_norm" if "acc_norm" in task.metrics else "acc"
        metric = spec.metric or usual
        if metric not in task.metrics:
            raise ConfigError(
                f"{path}: has no metric {metric!r}; its metric_list has {', '.join(task.metrics)}."
            )
        return cls(task, task.questions[: spec.limit], metric)


@dataclass(frozen=True, eq=False)
class Asked:
    """Some choices in one batch, padded at the end, where a causal model does not look.

    - `tokens`: all but the last token of each, which only has to be predicted.
    - `row`, `position`: of every state that predicts a token of a choice; `target`: that token;
      `choice`: whose it is, an index into all choices of all questions.
    """

    tokens: Int[Tensor, "batch seq"]
    row: Int[Tensor, " scored"]
    position: Int[Tensor, " scored"]
    target: Int[Tensor, " scored"]
    choice: Int[Tensor, " scored"]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A question set for one tokenizer.

    - `counts`: choices of each question; `right`: which is, of each question.
    - `lengths`: what the likelihoods of all choices are divided by.
    - `hash`: of all this, 16 hex digits.
    """

    asked: tuple[Asked, ...]
    counts: tuple[int, ...]
    right: tuple[int, ...]
    lengths: tuple[float, ...]
    hash: str

    def hits(self, likelihood: Float[Tensor, " choices"]) -> list[bool]:
        """Of every question, whether its right choice scores highest; of equals the first does."""
        scores = likelihood.double().cpu() / torch.tensor(self.lengths, dtype=torch.float64)
        chosen = [int(part.argmax()) for part in scores.split(self.counts)]
        return [own == right for own, right in zip(chosen, self.right, strict=True)]


def encode(
    found: QuestionSet, tokenizer: Any, batch_tokens: int, context: int | None = None
) -> Encoded:
    """Batches of at most `batch_tokens` tokens with their padding, one choice at least.

    - `context`: tokens that the model reads at most; what is longer loses its beginning.
    """
    counts, right, lengths = [], [], []
    ids: list[tuple[list[int], list[int]]] = []
    for question in found.questions:
        choices = question[CHOICES]
        counts.append(len(choices))
        right.append(question[QUESTION] if _contexts(question) else question[TARGET])
        lengths += [LENGTHS[found.metric](choice) for choice in choices]
        ids += [_pair(tokenizer, *pair) for pair in _pairs(question, found.task.delimiter)]
    asked = tuple(_batches(ids, batch_tokens, context))
    digest = hashlib.sha256(repr((ids, context, counts, right, lengths, batch_tokens)).encode())
    return Encoded(asked, tuple(counts), tuple(right), tuple(lengths), digest.hexdigest()[:16])


def _contexts(question: dict[str, Any]) -> bool:
    """Whether its choices are contexts, and the index of the right one stands for the question."""
    return type(question[QUESTION]) is int


def _pairs(question: dict[str, Any], delimiter: str) -> Iterator[tuple[str, str]]:
    for choice in question[CHOICES]:
        if _contexts(question):
            yield choice, f"{delimiter}{question[TARGET]}"
        else:
            yield question[QUESTION], f"{delimiter}{choice}"


def _pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of both. Spaces that end the context begin what follows; an empty context is the
    token that begins a text."""
    if not context:
        first = tokenizer.bos_token_id
        first = tokenizer.eos_token_id if first is None else first
        ids = list(tokenizer.encode(continuation, add_special_tokens=False))
        if first is None:
            raise ConfigError(
                "A question has no text before its choices, and the model's tokenizer has no token "
                "that begins a text. Use another task file."
            )
        return (ids[:1], ids[1:]) if ids[0] == first else ([first], ids)
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    before = list(tokenizer.encode(context))
    return before, list(tokenizer.encode(context + continuation))[len(before) :]


def _batches(
    ids: Sequence[tuple[list[int], list[int]]], batch_tokens: int, context: int | None
) -> Iterator[Asked]:
    """The longest first, so that little is padding."""
    whole = [before + after for before, after in ids]
    if context is not None:
        whole = [text[-(context + 1) :] for text in whole]
    order = sorted(range(len(ids)), key=lambda index: (-len(whole[index]), index))
    while order:
        longest = len(whole[order[0]]) - 1
        size = max(1, batch_tokens // longest)
        taken, order = order[:size], order[size:]
        tokens = torch.zeros(len(taken), longest, dtype=torch.int64)
        scored = []
        for row, index in enumerate(taken):
            text, after = whole[index], len(ids[index][1])
            tokens[row, : len(text) - 1] = torch.tensor(text[:-1])
            begin = len(text) - after
            scored += [(row, at - 1, text[at], index) for at in range(begin, len(text))]
        yield Asked(tokens, *torch.tensor(scored).unbind(1))
