"""Progress as JSON lines, one event each on stderr: `optishear search --log-json`.

Every object has `event` and `time` (UTC, ISO 8601). Events:

- `stage`: `text`. What is being done now: `loading embedded`, `searching`, ...
- `level`: `done`, `total`, `seconds` so far. A layer was solved at one level, before the search.
- `evaluation`: one recipe on one rung was measured or remembered. `recipe` (its key), `rung`
  (search tokens), `values` ({quantity: value}, null for a failure), `reason` (of a failure, else
  empty), `seconds` (what it took), `remembered` (known from another run's journal); and the search
  after it: `asked` recipes of at most `most`, `failed`, `front` (size) on `front_rung`, and whether
  this recipe is `on_front`. A search that is resumed tells all it already has once more.
- `progress`: at most once a second, and when the search is over: `report.progress.State` as JSON,
  with hypervolume, best recipe, rate and seconds left.
- `block`: `done`, `total`. A block was pruned, for the comparison on held-out text.
- `warning`: `text`, from a library or from ours.
- `finished`: `run` (the directory), `hash`, `evaluations`, `failed`, `measured_now`, `seconds`,
  `ended` (why) and `front` (its size), as in the manifest.
- `error`: `text` and `exit_code`. The last line of a search that did not finish; of several the
  others go on. (A bug's traceback follows it, and is the only text on stderr that is no JSON.)
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import typer

from optishear.cli.console import FAILED_RUN, USER_MISTAKE, json_text
from optishear.cli.progress import EVERY, SHARE, entry_of
from optishear.cli.stopping import exit_code, how_it_ended
from optishear.errors import ConfigError, OptiShearError
from optishear.report.progress import Goal, Progress
from optishear.runs.results import Run
from optishear.runs.watcher import Watcher
from optishear.search.evaluator import Evaluation
from optishear.search.loop import Found


def emit(event: str, **data: Any) -> None:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json_text({"event": event, "time": time, **data}, sys.stderr)
    print(line, file=sys.stderr, flush=True)


class JsonWatcher(Watcher):
    """Tells everything that a watcher is told."""

    def __init__(self, goal: Goal):
        self.goal = goal
        self.progress: Progress | None = None
        self._next = 0.0

    def stage(self, text: str) -> None:
        self.close()
        emit("stage", text=text)

    def evaluated(self, found: Found, evaluation: Evaluation, total: int) -> None:
        if self.progress is None:
            self.progress = Progress(self.goal.on(found.rungs).of(total))
        progress, entry = self.progress, entry_of(evaluation)
        progress.add(entry)
        emit(
            "evaluation",
            recipe=entry["key"],
            rung=evaluation.rung,
            values=entry["values"],
            reason=evaluation.reason,
            seconds=evaluation.seconds,
            remembered=evaluation.remembered,
            asked=found.asked,
            most=total,
            failed=progress.failed,
            front=progress.front_size,
            front_rung=progress.front_rung,
            on_front=evaluation.rung == progress.front_rung and progress.on_front(entry["key"]),
        )
        if time.monotonic() >= self._next:
            self._tell(progress)

    def levels(self, done: int, total: int, seconds: float) -> None:
        emit("level", done=done, total=total, seconds=round(seconds, 3))

    def pruned(self, blocks: int, total: int) -> None:
        emit("block", done=blocks, total=total)

    def close(self) -> None:
        """Says the last numbers of the search."""
        if self.progress is not None:
            self._tell(self.progress)
            self.progress = None

    def finished(self, run: Run) -> None:
        self.close()
        emit("finished", **run.summary, front=len(run.front.entries))

    def _tell(self, progress: Progress) -> None:
        started = time.monotonic()
        emit("progress", **progress.state().to_json())
        took = time.monotonic() - started
        self._next = started + max(EVERY, took / SHARE)


class _Records(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        emit("warning", text=record.getMessage())


@contextmanager
def json_on_stderr() -> Iterator[None]:
    """While it is open, warnings and the error that ends a command are events, too."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = root.handlers
    root.handlers = [_Records()]
    logging.captureWarnings(True)
    try:
        yield
    except OptiShearError as error:
        code = USER_MISTAKE if isinstance(error, ConfigError) else FAILED_RUN
        emit("error", text=str(error), exit_code=code)
        raise typer.Exit(code) from None
    except KeyboardInterrupt as stop:
        emit("error", text=how_it_ended(stop), exit_code=exit_code(stop))
        raise typer.Exit(exit_code(stop)) from None
    except Exception as error:
        emit("error", text=f"{type(error).__name__}: {error}", exit_code=FAILED_RUN)
        raise
    finally:
        logging.captureWarnings(False)
        root.handlers = handlers
