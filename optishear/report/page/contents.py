"""All that a page is made of, read from a run's files once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from optishear.errors import ConfigError
from optishear.records.run_directory import RunDirectory, read_json
from optishear.report.evaluations import evaluations_table
from optishear.report.run_view import RunView, read_run


@dataclass(frozen=True)
class Contents:
    """One run.

    - `front`: front.json; None while the search goes on.
    - `view`: what figures are drawn from; None without a front, or with one of no recipes.
    - `evaluations`: of every rung, in the order made.
    - `held_out`: rows of evaluation.json; None before the comparison.
    """

    run: RunDirectory
    manifest: Mapping[str, Any]
    front: Mapping[str, Any] | None
    view: RunView | None
    evaluations: pd.DataFrame
    held_out: Sequence[Mapping[str, Any]] | None

    @property
    def experiment(self) -> Mapping[str, Any]:
        return self.manifest["experiment"]

    @property
    def finished(self) -> bool:
        return self.manifest["status"] == "finished"


def read_contents(run: RunDirectory) -> Contents:
    """A `ConfigError` where a file that every run has is missing, damaged or not ours."""
    manifest = read_json(run.manifest)
    if not isinstance(manifest, dict) or not {"status", "experiment", "hash"} <= set(manifest):
        raise ConfigError(f"{run.manifest}: is no manifest of a search. Run the search again.")
    if not run.journal.exists():
        raise ConfigError(f"{run.journal}: is not there, and a report is about what is in it.")
    front = read_json(run.front) if run.front.exists() else None
    empty = isinstance(front, dict) and not front.get("entries", True)
    return Contents(
        run,
        manifest,
        front,
        None if front is None or empty else read_run(run),
        evaluations_table(run),
        read_json(run.evaluation)["rows"] if run.evaluation.exists() else None,
    )
