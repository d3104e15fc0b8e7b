"""A running search seen from its manifest and journal alone; nothing is written.

Works for a run that goes on, here or on another machine whose folder is shared or copied, for one
that was stopped, and for one that is over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from optishear.reading.shapes import Shape, shaped
from optishear.records.journal import has_writer
from optishear.records.packed import written_at
from optishear.records.reader import JournalReader
from optishear.records.run_directory import MEND, RunDirectory
from optishear.records.run_files import FINISHED, read_manifest
from optishear.report.progress import Goal, Progress, State, goal_of


RUNNING = "running"
SHOWN = ("key", "rung", "values", "reason", "seconds")  # of an entry, to one who looks on


class _Finished(Shape):
    evaluations: int = Field(ge=0)


@dataclass(frozen=True)
class RunSnapshot:
    """A run at one moment.

    - `state`: None before anything was measured and the rungs are known.
    - `latest`: the last few evaluations of the search, as journal entries, the newest last.
    - `came`: when the journal was last written to; None before the first evaluation.
    - `written`: whether a process holds the journal; None where that cannot be told.
    """

    manifest: Mapping[str, Any]
    goal: Goal
    state: State | None
    latest: tuple[Mapping[str, Any], ...]
    came: datetime | None
    written: bool | None

    @property
    def status(self) -> str:
        return self.manifest["status"]

    @property
    def over(self) -> bool:
        return self.status != RUNNING

    @property
    def title(self) -> str:
        experiment = self.manifest["experiment"]
        return f"{experiment['name']} {self.manifest['hash']} on {experiment['model']}"

    def to_json(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "experiment": manifest["experiment"]["name"],
            "model": manifest["experiment"]["model"],
            **{key: manifest.get(key) for key in ("hash", "status", "started", "finished")},
            "ended": manifest.get("ended"),
            "has_writer": self.written,
            "last_evaluation": self.came and self.came.isoformat(timespec="seconds"),
            "state": self.state and self.state.to_json(),
            "latest": [
                {**{key: entry[key] for key in SHOWN}, "remembered": entry.get("memo", False)}
                for entry in self.latest
            ],
        }


class RunWatch:
    """Looks at one run again and again, and reads of its journal only what has come since.

    - `entries`: the journal's entries of the search itself, in the order made; the baselines that
      are measured after it are none. (A search that ends before its budget is spent is known to
      be over when its manifest says so; until then up to three baselines count as candidates.)
    """

    def __init__(self, run: RunDirectory, latest: int = 5):
        self.run = run
        self.reader = JournalReader(run.journal)
        self.entries: list[Mapping[str, Any]] = []
        self._latest = latest
        self._read: list[Mapping[str, Any]] = []
        self._goal: Goal | None = None
        self._progress: Progress | None = None

    def snapshot(self) -> RunSnapshot:
        """The run as it is now. A `ConfigError` for a damaged journal or manifest."""
        manifest = read_manifest(self.run.manifest)  # before the journal, which only grows
        new = self.reader.new()
        self._read += new
        goal = _goal(manifest, self._read, str(self.run.manifest))
        if goal != self._goal:  # at the start, and when it turns out how many were asked for
            self._goal, self._progress, new = goal, None, self._read
            self.entries = []
        if self._progress is None and goal.rungs is not None:
            self._progress = Progress(goal)
        if self._progress is not None:
            self.entries += [entry for entry in new if self._progress.add(entry)]
        over = manifest["status"] != RUNNING
        return RunSnapshot(
            manifest,
            goal,
            self._progress and self._progress.state(over=over),
            tuple(self.entries[-self._latest :]),
            self._came() if self._read else None,
            has_writer(self.run.journal),
        )

    def _came(self) -> datetime:
        return datetime.fromtimestamp(written_at(self.run.journal), UTC)


def _goal(manifest: Mapping[str, Any], entries: list[Mapping[str, Any]], where: str) -> Goal:
    """As the experiment says it, with what only the run can know."""
    goal = goal_of(manifest["experiment"])
    if rungs := manifest.get("rungs"):
        goal = goal.on(rungs)
    elif goal.rungs is None and entries:  # written before manifests had the rungs
        listed = manifest["experiment"]["search"].get("rungs", ())
        goal = goal.on(sorted({*listed, *(entry["rung"] for entry in entries)}))
    if manifest["status"] == FINISHED:
        shaped(_Finished, manifest, where, MEND)
        goal = goal.of(manifest["evaluations"])
    return goal
