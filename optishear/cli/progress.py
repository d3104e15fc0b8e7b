"""The terminal's watchers of long work: bars with the time left, or lines in a pipe."""

import sys
import time
from typing import Any

from optishear.cli.console import note
from optishear.cli.progress_view import line, panel
from optishear.report.progress import Goal, Progress
from optishear.runs.watcher import Watcher
from optishear.search.evaluator import Evaluation
from optishear.search.loop import Found


LINES = 10  # in a pipe: about so many lines a search
EVERY = 1.0  # seconds between two looks at the numbers, in a terminal
SHARE = 0.01  # of the time that looking may take: a large front is looked at less often


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
            bar = self.bar or self._open(what)
            bar.update(self.task, total=total, completed=done)
            if done == total:
                self.close()
        elif done and (done % max(1, total // LINES) == 0 or done == total):
            note(f"  {done}/{total}  {(total - done) * seconds / done:.0f} s left")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _open(self, what: str) -> Any:
        from rich import progress
        from rich.console import Console

        self.bar = progress.Progress(
            progress.TextColumn(what),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task(what, total=None)
        self.bar.start()
        return self.bar


class LiveWatcher(Stages):
    """The search's numbers on stderr: redrawn in place in a terminal, some plain lines in a pipe.

    What is shown is a `report.progress.State`, as `optishear watch` computes it of the journal.
    """

    def __init__(self, goal: Goal):
        super().__init__()
        self.goal = goal
        self.progress: Progress | None = None
        self.screen: Any = None
        self._next = 0.0

    def stage(self, text: str) -> None:
        if text != "searching":
            super().stage(text)
            return
        self.close()
        self.progress, self._next = None, 0.0
        if sys.stderr.isatty():
            self._open_screen(text)

    def evaluated(self, found: Found, evaluation: Evaluation, total: int) -> None:
        if self.progress is None:
            self.progress = Progress(self.goal.on(found.rungs).of(total))
        self.progress.add(entry_of(evaluation))
        if self.screen is None:
            self._say(self.progress, found, evaluation, total)
        elif time.monotonic() >= self._next:
            self._show(self.progress)

    def close(self) -> None:
        """The screen keeps the last numbers, which may be newer than those shown."""
        super().close()
        if self.screen is not None:
            if self.progress is not None:
                self._show(self.progress)
            self.screen.stop()
            self.screen = None

    def _show(self, progress: Progress) -> None:
        started = time.monotonic()
        self.screen.update(panel(progress.state(), self.goal.prefer))
        took = time.monotonic() - started
        self._next = started + max(EVERY, took / SHARE)

    def _say(self, progress: Progress, found: Found, evaluation: Evaluation, total: int) -> None:
        rung, made = evaluation.rung, len(found.rungs[evaluation.rung])
        if rung == min(found.rungs):
            if made % max(1, total // LINES) == 0 or made == total:
                note(line(progress.state(), self.goal.prefer))
        elif made == 1:
            note(f"  climbing to {rung} search tokens")
        elif not progress.ladder.by_generation:
            state = progress.state()
            expected = state.expected[rung]
            if made % max(1, expected // 4) == 0 or made == expected:
                note(line(state, self.goal.prefer))

    def _open_screen(self, what: str) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self.screen = Live(Text(f"{what} …"), console=Console(stderr=True), refresh_per_second=4)
        self.screen.start()


def entry_of(evaluation: Evaluation) -> dict[str, Any]:
    """What a journal keeps of an evaluation and progress needs to know."""
    return {
        "key": evaluation.recipe.key,
        "rung": evaluation.rung,
        "values": evaluation.values,
        "reason": evaluation.reason,
        "seconds": evaluation.seconds,
        "memo": evaluation.remembered,
    }
