"""What runs in a worker's process: one replica of the model, asked for one thing at a time."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch

from optishear.errors import ConfigError
from optishear.pipeline import MeasureFunction
from optishear.recipe.recipe import Recipe
from optishear.search.evaluator import Outcome, outcome_of
from optishear.workers import tensors
from optishear.workers.job import Job, versions


class Replica:
    """A Ray actor. Everything that can fail is in methods, so that the failure itself is told."""

    def __init__(self, threads: int, device: str, expected: Mapping[str, Any]) -> None:
        self.threads, self.device, self.expected = threads, device, expected
        self._open = ExitStack()
        self._measure: MeasureFunction | None = None
        tensors.register()

    def ready(self, job: Job) -> list[str]:
        """Takes the job up; returns what has to be said of it."""
        if differing := {k: v for k, v in versions().items() if self.expected.get(k) != v}:
            name, found = next(iter(differing.items()))
            raise ConfigError(
                f"A worker has {name} {found}, this process has {self.expected.get(name)}: their "
                f"results could not be compared. Install the same version on all hosts."
            )
        torch.set_num_threads(self.threads)
        said: list[str] = []
        self._measure = self._open.enter_context(job.to(self.device).measuring(said.append))
        return said

    def outcome(self, recipe: Recipe, rung: int) -> Outcome:
        """See `search.evaluator.outcome_of`."""
        assert self._measure is not None
        return outcome_of(self._measure, recipe, rung)
