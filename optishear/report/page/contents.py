"""The data of a page, read from a run's files once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from optishear.errors import ConfigError
from optishear.records.packed import is_there
from optishear.records.run_directory import RunDirectory
from optishear.records.run_files import FINISHED, read_evaluation, read_front, read_manifest
from optishear.report.evaluations import evaluations_table
from optishear.report.page.manifest import FinishedManifest, PageManifest
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
        return self.manifest["status"] == FINISHED


def read_contents(run: RunDirectory) -> Contents:
    """A `ConfigError` where a file that every run has is missing, damaged or not ours."""
    manifest = read_manifest(run.manifest, PageManifest)
    if manifest["status"] == FINISHED:
        read_manifest(run.manifest, FinishedManifest)
    if not is_there(run.journal):
        raise ConfigError(f"{run.journal}: is not there, and a report is about what is in it.")
    front = read_front(run) if is_there(run.front) else None
    return Contents(
        run,
        manifest,
        front,
        read_run(run) if front and front["entries"] else None,
        evaluations_table(run),
        read_evaluation(run) if is_there(run.evaluation) else None,
    )
