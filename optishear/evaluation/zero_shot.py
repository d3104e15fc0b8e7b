"""Zero-shot accuracy by EleutherAI's lm-eval, on a model in memory."""

import copy
import logging
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from torch import nn

from optishear.errors import ConfigError
from optishear.evaluation.paired import paired_difference
from optishear.recipe.lookup import did_you_mean
from optishear.text.task_files import LocalTask


if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

FEWSHOT_SEED = 1234  # lm-eval's own; only tasks that bring examples with them draw any


@dataclass(frozen=True)
class Tasks:
    """What to ask a model.

    - `names`: registered in lm-eval; their data come from the Hugging Face hub.
    - `limit`: the first so many questions of each task; None is all.
    - `batch_size`: questions answered at a time; padding changes last bits of a likelihood.
    """

    names: tuple[str, ...] = ()
    local: tuple[LocalTask, ...] = ()
    limit: int | None = None
    batch_size: int = 8

    @property
    def specs(self) -> list[Any]:
        return [*self.names, *(task.for_lm_eval() for task in self.local)]


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task (or group of tasks) for one model.

    - `error`: lm-eval's standard error; None where it has none.
    - `n`: questions answered, of `of` there are; None for a group.
    - `each`: the metric of every question in order; None where it is no mean of such numbers.
    """

    task: str
    metric: str
    value: float
    error: float | None
    n: int | None
    of: int | None
    each: tuple[float, ...] | None

    def minus(self, other: "TaskScore") -> tuple[float, float] | None:
        """Own less the other's, question by question, and the standard error of that."""
        if self.each is None or other.each is None:
            return None
        return paired_difference(self.each, other.each)


def check_tasks(tasks: Tasks) -> None:
    """Raises `ConfigError` before a model is loaded: lm-eval is missing, or a task is."""
    manager = _manager(bool(tasks.names))
    known = manager.all_tasks
    for name in tasks.names:
        if name not in known:  # a path would be read as YAML that may run code
            raise ConfigError(
                f"lm-eval has no task {name!r}.{did_you_mean(name, known)} For files of your own "
                f"use --task-files."
            )
    names = [*tasks.names, *(task.name for task in tasks.local)]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"Two tasks are called {doubled[0]!r}. Leave one out, or rename it.")
    _loaded(manager, tasks)


def harness_version() -> str:
    return version("lm_eval")


def score(model: nn.Module, tokenizer: Any, tasks: Tasks, bars: bool = False) -> list[TaskScore]:
    """Every metric of every task, the model in memory as it is; `bars` shows lm-eval's progress.

    Special tokens are those that the tokenizer adds by itself; a question that is too long for
    the model loses its beginning. No global random state is touched.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    manager = _manager(bool(tasks.names))
    with _quiet():
        loaded = _loaded(manager, tasks)
        make: Any = HFLM  # registered by a decorator that hides its parameters
        asked = make(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),  # it is given a padding token
            batch_size=tasks.batch_size,
            trust_remote_code=False,
        )
        if not bars:
            asked.loglikelihood = partial(asked.loglikelihood, disable_tqdm=True)
        try:
            results: Any = evaluate(lm=asked, task_dict=loaded, limit=tasks.limit, log_samples=True)
        except ValueError as error:
            if "unsafe" not in str(error):
                raise
            raise ConfigError(f"{error} optishear does not run code that a model wrote.") from None
    return [found for name in results["results"] for found in _scores(name, results)]


def _scores(name: str, results: Any) -> Iterator[TaskScore]:
    numbers = results["results"][name]
    counts = results["n-samples"].get(name)
    samples = sorted(results["samples"].get(name, []), key=lambda sample: sample["doc_id"])
    for key, value in numbers.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, float | int):
            continue
        error = numbers.get(f"{metric}_stderr,{kind}")
        each = [sample.get(metric) for sample in samples if sample["filter"] == kind]
        mean = all(isinstance(x, float | int) for x in each) and each
        if not mean or not math.isclose(math.fsum(each) / len(each), value, abs_tol=1e-9):
            each = None
        yield TaskScore(
            name,
            metric if kind == "none" else f"{metric} ({kind})",
            float(value),
            float(error) if isinstance(error, float | int) else None,
            counts["effective"] if counts else None,
            counts["original"] if counts else None,
            None if each is None else tuple(float(x) for x in each),
        )


def _loaded(manager: "TaskManager", tasks: Tasks) -> Any:
    with _quiet():
        try:
            loaded: Any = manager.load(tasks.specs)
        except Exception as error:  # a network and each task's own way of failing
            names = ", ".join([*tasks.names, *(task.name for task in tasks.local)])
            first = next(iter(str(error).strip().splitlines()), "no reason given")
            raise ConfigError(
                f"lm-eval could not load {names} ({type(error).__name__}: {first}). Registered "
                f"tasks read their data from the Hugging Face hub; without it use --task-files."
            ) from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


@cache
def _manager(registered: bool) -> "TaskManager":
    """lm-eval's table of tasks; with its own 14,000 it takes seconds to build."""
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        if error.name != "lm_eval" and not str(error.name).startswith("lm_eval."):
            raise
        raise ConfigError('Zero-shot tasks need lm-eval: pip install "optishear[eval]".') from None
    with _quiet():
        return TaskManager(include_defaults=registered)


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval warns of what it is given on purpose (a model in memory, data in memory), and draws
    names that nobody reads from Python's global random state."""
    logger = logging.getLogger("lm_eval")
    before, drawn = logger.level, random.getstate()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
        random.setstate(drawn)
