"""A search as one sees it: a bar with rate, time left and the best so far; lines in a pipe."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from optishear.cli.console import note
from optishear.experiment.search import Watcher
from optishear.search.evaluator import Evaluation, minimised
from optishear.search.front import knee, non_dominated
from optishear.search.loop import Found


LINES = 10  # in a pipe: about so many lines a search


class LiveWatcher(Watcher):
    """rich's progress bar on stderr where that is a terminal, plain lines where it is not.

    - `objectives`: {name: whether it is maximised}; the best so far is the knee of the front, or
      the lowest value of `prefer` where one quantity decides.
    """

    def __init__(self, objectives: Mapping[str, bool], prefer: str | None):
        self.objectives, self.prefer = dict(objectives), prefer
        self.bar: Any = None
        self.task: Any = None
        self.measured = 0
        self.started = time.monotonic()

    def stage(self, text: str) -> None:
        self.close()
        if text == "searching":
            self.started, self.measured = time.monotonic(), 0
            if sys.stderr.isatty():
                self._open()
        else:
            note(f"{text} …")

    def evaluated(self, found: Found, evaluation: Evaluation, total: int) -> None:
        self.measured += 1
        done = len(found.evaluations)
        if self.bar is not None:
            rate = self.measured / max(time.monotonic() - self.started, 1e-9)
            self.bar.update(
                self.task, total=total, completed=done, rate=f"{rate:.1f}/s", best=self._best(found)
            )
        elif done % max(1, total // LINES) == 0 or done == total:
            rate = self.measured / max(time.monotonic() - self.started, 1e-9)
            left = (total - done) / rate
            note(f"  {done}/{total}  {rate:.2f}/s  {left:.0f} s left  {self._best(found)}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _open(self) -> None:
        from rich import progress
        from rich.console import Console

        self.bar = progress.Progress(
            progress.TextColumn("searching"),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[best]}"),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("searching", total=None, rate="", best="")
        self.bar.start()

    def _best(self, found: Found) -> str:
        if not found.good:
            return f"{len(found.evaluations)} failed"
        names = list(self.objectives)
        values = np.array(minimised(found.good, names, list(self.objectives.values())))
        front = non_dominated(values)
        if self.prefer is not None:
            best = min((e.values or {})[self.prefer] for e in found.good)
            text = f"lowest {self.prefer} {best:.4g}"
        else:
            at = found.good[front[knee(values[front])]].values or {}
            text = "knee " + ", ".join(f"{name} {at[name]:.4g}" for name in names)
        failed = len(found.evaluations) - len(found.good)
        return f"front {len(front)}, {text}" + (f", {failed} failed" if failed else "")
