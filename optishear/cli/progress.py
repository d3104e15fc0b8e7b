"""Long work as one sees it: bars with the time left in a terminal, lines in a pipe."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optishear.cli.console import note
from optishear.experiment.watcher import Watcher
from optishear.search.evaluator import Evaluation, minimised
from optishear.search.front import knee, non_dominated
from optishear.search.loop import Found


LINES = 10  # in a pipe: about so many lines a search


class Stages(Watcher):
    """Each stage a line on stderr, and a bar for blocks or levels that are done one by one."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.task: Any = None

    def stage(self, text: str) -> None:
        self.close()
        note(f"{text} …")

    def evaluated(self, found: Found, evaluation: Evaluation, total: int) -> None: ...

    def levels(self, done: int, total: int, seconds: float) -> None:
        self._counted("solving levels", done, total, seconds)

    def pruned(self, blocks: int, total: int) -> None:
        if sys.stderr.isatty():
            self._counted("pruning blocks", blocks, total)

    def _counted(self, what: str, done: int, total: int, seconds: float = 0.0) -> None:
        """A bar in a terminal; in a pipe about ten lines."""
        if sys.stderr.isatty():
            bar = self.bar or self._open(what, [])
            bar.update(self.task, total=total, completed=done)
            if done == total:
                self.close()
        elif done and (done % max(1, total // LINES) == 0 or done == total):
            note(f"  {done}/{total}  {(total - done) * seconds / done:.0f} s left")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _open(self, what: str, fields: Sequence[str]) -> Any:
        """A bar for `what`; each field is a text beside it that updates may change."""
        from rich import progress
        from rich.console import Console

        self.bar = progress.Progress(
            progress.TextColumn(what),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            *[progress.TextColumn(f"{{task.fields[{field}]}}") for field in fields],
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task(what, total=None, **dict.fromkeys(fields, ""))
        self.bar.start()
        return self.bar


class LiveWatcher(Stages):
    """rich's progress bar on stderr where that is a terminal, plain lines where it is not.

    - `objectives`: {name: whether it is maximised}; the best so far is the knee of the front, or
      the lowest value of `prefer` where one quantity decides.
    """

    def __init__(self, objectives: Mapping[str, bool], prefer: str | None):
        super().__init__()
        self.objectives, self.prefer = dict(objectives), prefer
        self.measured = 0
        self.started = time.monotonic()

    def stage(self, text: str) -> None:
        if text != "searching":
            super().stage(text)
            return
        self.close()
        self.started, self.measured = time.monotonic(), 0
        if sys.stderr.isatty():
            self._open(text, ["rate", "best"])

    def evaluated(self, found: Found, evaluation: Evaluation, total: int) -> None:
        self.measured += 1
        done, lowest = found.asked, min(found.rungs)
        rate = self.measured / max(time.monotonic() - self.started, 1e-9)
        if self.bar is not None:
            self.bar.update(
                self.task, total=total, completed=done, rate=f"{rate:.1f}/s", best=self._best(found)
            )
        elif evaluation.rung > lowest:
            if len(found.rungs[evaluation.rung]) == 1:
                note(f"  climbing to {evaluation.rung} search tokens")
        elif done % max(1, total // LINES) == 0 or done == total:
            left = (total - done) / rate
            note(f"  {done}/{total}  {rate:.2f}/s  {left:.0f} s left  {self._best(found)}")

    def _best(self, found: Found) -> str:
        """How many recipes are on which rung, and the front so far of those on the top one."""
        parts = []
        if len(found.rungs) > 1:
            on = ", ".join(f"{len(there)} on {rung}" for rung, there in found.rungs.items())
            parts.append(f"{on} tokens")
        if found.good:
            parts.append(self._front(found))
        if found.failed:
            parts.append(f"{len(found.failed)} failed")
        return ", ".join(parts)

    def _front(self, found: Found) -> str:
        names = list(self.objectives)
        values = np.array(minimised(found.good, names, list(self.objectives.values())))
        front = non_dominated(values)
        if self.prefer is not None:
            best = min((e.values or {})[self.prefer] for e in found.good)
            text = f"lowest {self.prefer} {best:.4g}"
        else:
            at = found.good[front[knee(values[front])]].values or {}
            text = "knee " + ", ".join(f"{name} {at[name]:.4g}" for name in names)
        return f"front {len(front)}, {text}"
