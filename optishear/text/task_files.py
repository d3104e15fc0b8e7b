"""Zero-shot tasks from the user's own files, in lm-eval's YAML, read as plain data.

lm-eval's own reader resolves `!function` tags to Python code and expands templates without a
sandbox. So it never sees these files: they are read with the safe loader and a strict schema, their
templates are expanded here in a sandbox, and it gets finished questions.
"""

import ast
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from optishear.assets.fetch import sha256_of
from optishear.errors import ConfigError
from optishear.reading.json_data import json_of
from optishear.reading.texts import text_of
from optishear.recipe.lookup import did_you_mean
from optishear.text.task_schema import TaskFile, read_task_file


QUESTION, CHOICES, TARGET = "question", "choices", "target"
"""Columns of the finished questions."""


@dataclass(frozen=True)
class LocalTask:
    """Finished multiple-choice questions, each `{question, choices, target}`.

    Usually `question` is a text, followed by each of the choices in turn, and `target` the index of
    the right one. Where `question` is an index, the choices are contexts, `target` is what
    follows each, and the index says which context makes it likeliest (WinoGrande).

    - `hash`: sha256 over the task file and its data, 16 hex digits.
    """

    name: str
    questions: tuple[dict[str, Any], ...]
    metrics: tuple[str, ...]
    delimiter: str
    hash: str

    def for_lm_eval(self) -> dict[str, Any]:
        """As a task configuration without tags, templates or files."""
        from datasets import Dataset

        rows = Dataset.from_list(list(self.questions))
        means = {"aggregation": "mean", "higher_is_better": True}
        return {
            "task": self.name,
            "custom_dataset": lambda **_: {"test": rows},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": QUESTION,
            "doc_to_choice": CHOICES,
            "doc_to_target": TARGET,
            "target_delimiter": self.delimiter,
            "num_fewshot": 0,
            "metric_list": [{"metric": metric, **means} for metric in self.metrics],
        }


def read_tasks(places: Sequence[Path], data: Path | None = None) -> tuple[LocalTask, ...]:
    """The tasks in these YAML files, and in the YAML files of these folders, by name.

    `data` is where their data files are; None is beside each task file. Raises `ConfigError` with
    the file, the line or question, and what was expected.
    """
    found: dict[str, LocalTask] = {}
    for place in places:
        for path in _files(place):
            task = _read(path, path.parent if data is None else data)
            if task.name in found:
                raise ConfigError(
                    f"{path}: another task file is called {task.name!r} too. Rename one."
                )
            found[task.name] = task
    return tuple(found.values())


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        files = sorted(path for path in place.iterdir() if path.suffix in (".yaml", ".yml"))
        if not files:
            raise ConfigError(f"{place}: has no task files (.yaml).")
        return files
    if not place.is_file():
        raise ConfigError(f"{place}: there is no such task file or folder.")
    return [place]


def _read(path: Path, folder: Path) -> LocalTask:
    task = read_task_file(path)
    split = task.test_split or task.validation_split
    files = task.dataset_kwargs.data_files
    if split is None or split not in files:
        raise ConfigError(
            f"{path}: test_split (or validation_split) is {split!r}; dataset_kwargs.data_files has "
            f"{', '.join(files)}. Name one of them."
        )
    lines = _data_file(path, folder, files[split])
    finish = _finisher(task, path)
    questions = []
    for number, row in _rows(lines):
        where = f"{path}, for {lines}, line {number}"
        question = finish(row, where)
        _check(question, where)
        if questions and type(question[QUESTION]) is not type(questions[0][QUESTION]):
            raise ConfigError(
                f"{where}: doc_to_text gives texts for some lines and numbers for others."
            )
        questions.append(question)
    if not questions:
        raise ConfigError(f"{lines}: holds no questions.")
    digest = hashlib.sha256((sha256_of(path) + sha256_of(lines)).encode()).hexdigest()[:16]
    metrics = tuple(dict.fromkeys(metric.metric for metric in task.metric_list))
    return LocalTask(task.task, tuple(questions), metrics, task.target_delimiter, digest)


def _data_file(path: Path, folder: Path, name: str) -> Path:
    inside = Path(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise ConfigError(
            f"{path}: the data file {name!r} is not below the data folder {folder}. Write its name "
            f"in that folder, and name the folder with --task-data."
        )
    if not (folder / inside).is_file():
        raise ConfigError(
            f"{folder / inside}: is not there; {path} reads its questions from it. Name the folder "
            f"that has it with --task-data."
        )
    return folder / inside


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers."""
    rows = []
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = json_of(line, f"{path}, line {number}", numbers=False)
        if not isinstance(row, dict):
            raise ConfigError(
                f"{path}, line {number}: is {type(row).__name__}, not an object with named fields."
            )
        rows.append((number, row))
    return rows


def _finisher(task: TaskFile, path: Path) -> Callable[[dict[str, Any], str], dict[str, Any]]:
    """From one line of data to a finished question."""
    text = _value_of(task.doc_to_text, f"{path}: doc_to_text")
    target = _value_of(task.doc_to_target, f"{path}: doc_to_target")
    choices = _value_of(task.doc_to_choice, f"{path}: doc_to_choice")

    def finish(row: dict[str, Any], where: str) -> dict[str, Any]:
        listed = choices(row, where)
        if isinstance(listed, str):
            try:
                listed = ast.literal_eval(listed)  # what the template {{[a, b]}} expands to
            except (ValueError, SyntaxError):
                raise ConfigError(
                    f"{where}: doc_to_choice gives {listed!r}, which is no list."
                ) from None
        return {
            QUESTION: text(row, where),
            CHOICES: listed,
            TARGET: target(row, where),
        }

    return finish


def _value_of(told: Any, key: str) -> Callable[[dict[str, Any], str], Any]:
    """Reads a field of a line by its name, or expands a template with all its fields.

    What expands to digits is a number, as in lm-eval.
    """
    if not isinstance(told, str):
        return lambda _row, _where: told
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True
    )
    try:
        template = environment.from_string(told)
    except TemplateError as error:
        raise ConfigError(f"{key}: is no template ({error}).") from None

    def value(row: dict[str, Any], where: str) -> Any:
        if told in row:
            return row[told]
        if "{" not in told:
            raise ConfigError(
                f"{where}: {key.split(': ')[-1]} is {told!r}, which is no field and no template."
                f"{did_you_mean(told, row)} Fields are: {', '.join(row)}."
            )
        try:
            text = template.render(**row)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise ConfigError(f"{where}: {key.split(': ')[-1]} failed ({error}).") from None
        return int(text) if text.isdecimal() else text

    return value


def _check(question: dict[str, Any], where: str) -> None:
    text, choices, target = (question[key] for key in (QUESTION, CHOICES, TARGET))
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice for choice in choices)
    ):
        raise ConfigError(f"{where}: doc_to_choice gives {choices!r}, not two texts or more.")
    contexts = type(text) is int
    index, other, key, kind = (
        (text, target, "doc_to_text", "doc_to_target")
        if contexts
        else (target, text, "doc_to_target", "doc_to_text")
    )
    if type(index) is not int or not 0 <= index < len(choices):
        raise ConfigError(
            f"{where}: {key} gives {index!r}, which is not the index of one of the {len(choices)} "
            f"choices."
        )
    if not isinstance(other, str):
        raise ConfigError(f"{where}: {kind} gives {other!r}, not a text.")
