"""Commands that follow a run which somebody else makes: watch, dashboard."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated

import typer

from optishear.cli.console import FAILED_RUN, JsonFlag, json_text, note, say, say_json, speaking
from optishear.cli.progress_view import line, snapshot_view
from optishear.cli.run_commands import RunPlace
from optishear.cli.stopping import Stopped
from optishear.cli.writing import writes


if TYPE_CHECKING:
    from optishear.report.dashboard import Dashboard
    from optishear.report.optuna_mirror import Mirror
    from optishear.report.watching import RunSnapshot, RunWatch


def register(app: typer.Typer) -> None:
    for command in (watch, dashboard):
        app.command()(command)


@speaking
def watch(
    run: RunPlace,
    once: Annotated[bool, typer.Option("--once", help="Say how it stands, and leave.")] = False,
    every: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds between two looks; 2 if left out.")
    ] = None,
    json_: bool = JsonFlag,
) -> None:
    """Follow a search from its files, here or in a folder shared with another machine.

    Ends when the run does, with exit code 1 if it failed. Changes nothing. With --json one object a
    line whenever something is new.

    Example: optishear watch results/quickstart --every 5
    """
    from optishear.errors import ConfigError
    from optishear.records.run_directory import find_run
    from optishear.report.watching import FINISHED, RunWatch

    if once and every is not None:
        raise ConfigError("--every: --once looks once. Leave one of them out.")
    snapshots = _snapshots(RunWatch(find_run(run)), every or 2.0, once)
    if json_:
        snapshot = _say_lines(snapshots, once)
    elif once or not sys.stdout.isatty():
        snapshot = _say_plainly(snapshots)
    else:
        snapshot = _redraw(snapshots)
    if snapshot.over and snapshot.status != FINISHED:
        raise typer.Exit(FAILED_RUN)


@speaking
@writes("study")
def dashboard(
    run: RunPlace,
    study: Annotated[
        Path | None,
        typer.Option(
            help="Where the Optuna study is kept: *.db is SQLite, anything else Optuna's journal. "
            "RUN/optuna.log if left out."
        ),
    ] = None,
    rung: Annotated[
        int | None, typer.Option(help="Search tokens; the highest rung if left out.")
    ] = None,
    serve: Annotated[bool, typer.Option(help="Open optuna-dashboard on it.")] = True,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="8080 if left out; 0: any that is free."),
    ] = None,
    every: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds between two looks; 3 if left out.")
    ] = None,
    json_: bool = JsonFlag,
) -> None:
    """Look at a search in optuna-dashboard: its evaluations as the trials of an Optuna study.

    While the dashboard is open, new evaluations come in; Ctrl-C ends it. The study stays, and any
    of Optuna's tools can read it.

    Example: optishear dashboard results/quickstart --port 8081
    """
    from optishear.errors import ConfigError
    from optishear.records.run_directory import find_run
    from optishear.report.dashboard import open_dashboard
    from optishear.report.optuna_mirror import Mirror, open_storage

    if not serve and (port, every) != (None, None):
        raise ConfigError("--port and --every: are of the dashboard that --no-serve leaves out.")
    directory = find_run(run)
    file = study or directory.study
    dashboard = open_dashboard(8080 if port is None else port) if serve else None
    storage = open_storage(file)
    mirror = Mirror(directory, storage, rung)
    mirror.update()
    numbers = {"study": mirror.name, "file": str(file), "trials": mirror.trials}
    url = None if dashboard is None else dashboard.show(storage, mirror.study_id)
    if json_:
        say_json({**numbers, "failed": mirror.failed, "url": url})
    else:
        say(f"{mirror.trials} evaluations ({mirror.failed} failed) in {file}")
        say(f"study: {mirror.name}" + (f"\n{url}" if url else ""))
    if dashboard is not None:
        try:
            _keep_up(mirror, dashboard, every or 3.0)
        except KeyboardInterrupt as stop:
            if isinstance(stop, Stopped):
                raise
            note("closed")
        finally:
            dashboard.close()


def _keep_up(mirror: "Mirror", dashboard: "Dashboard", every: float) -> None:
    while True:
        sleep(every)
        new = mirror.update()
        dashboard.study_id = mirror.study_id
        if new:
            note(f"{new} new, {mirror.trials} in all" + (", all anew" if mirror.anew else ""))


def _snapshots(run: "RunWatch", every: float, once: bool) -> Iterator["RunSnapshot"]:
    """A snapshot now and again until the run is over."""
    while True:
        snapshot = run.snapshot()
        yield snapshot
        if once or snapshot.over:
            return
        sleep(every)


def _say_lines(snapshots: Iterator["RunSnapshot"], once: bool) -> "RunSnapshot":
    said: object = None
    for snapshot in snapshots:
        if (data := snapshot.to_json()) != said:
            say_json(data) if once else say(json_text(data, sys.stdout))
            said = data
    return snapshot


def _say_plainly(snapshots: Iterator["RunSnapshot"]) -> "RunSnapshot":
    from rich.console import Console

    console, said = Console(highlight=False, markup=False), None
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=240)
    for snapshot in snapshots:
        if said is None:
            console.print(snapshot_view(snapshot, datetime.now(UTC)))
        elif snapshot.state is not None and snapshot.state != said:
            say(line(snapshot.state, snapshot.goal.prefer))
        said = snapshot.state
    return snapshot


def _redraw(snapshots: Iterator["RunSnapshot"]) -> "RunSnapshot":
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(highlight=False, markup=False), auto_refresh=False) as live:
        for snapshot in snapshots:
            live.update(snapshot_view(snapshot, datetime.now(UTC)), refresh=True)
    return snapshot
