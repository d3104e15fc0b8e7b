"""Commands about an experiment: plan, search."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optishear.cli.console import (
    FAILED_RUN,
    USER_MISTAKE,
    JsonFlag,
    note,
    say,
    say_json,
    speaking,
)
from optishear.cli.held_out import say_held_out, without_sequences


if TYPE_CHECKING:
    from optishear.config import Experiment
    from optishear.experiment.results import Run


def register(app: typer.Typer) -> None:
    for command in (plan, search):
        app.command()(command)


ExperimentName = Annotated[
    str, typer.Argument(metavar="EXPERIMENT.yaml", help="A file, or a shipped one by name.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. search.seed=3."),
]
RunsFolder = Annotated[Path, typer.Option("--out", help="Where runs are kept.")]


@speaking
def plan(
    experiment: ExperimentName,
    set_: Settings = None,
    out: RunsFolder = Path("results"),
    json_: bool = JsonFlag,
) -> None:
    """What a search would cost, by a dry run of a few candidates, and all that is wrong with it.

    Fills the cache with what the search needs; writes no run. Exit code 2 if it would be refused.

    Example: optishear plan smollm2_60 --set search.evaluations=600
    """
    import time

    import psutil

    from optishear.cli.progress import Stages
    from optishear.experiment.plan.plan import plan as make_plan

    stages, begun = Stages(), time.time() - psutil.Process().create_time()
    try:
        made = make_plan(experiment, set_ or (), out, stages, begun=begun)
    finally:
        stages.close()
    if json_:
        say_json(made.to_json())
    else:
        from optishear.cli.plan_page import say_plan

        say_plan(made)
    if made.findings.refused:
        raise typer.Exit(USER_MISTAKE if made.findings.mistakes else FAILED_RUN)


@speaking
def search(
    experiment: ExperimentName,
    set_: Settings = None,
    out: RunsFolder = Path("results"),
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Progress as JSON lines, and only these, on stderr.")
    ] = False,
    json_: bool = JsonFlag,
) -> None:
    """Search for a Pareto front. The same command again resumes, or shows the finished run.

    Example: optishear search quickstart --set search.evaluations=96
    """
    from optishear.cli.json_log import json_on_stderr

    with json_on_stderr() if log_json else nullcontext():
        plan, run = _followed(experiment, set_ or (), out, log_json)
    if json_:
        manifest = run.manifest
        keys = ("status", "hash", "evaluations", "failed", "measured_now", "seconds", "ended")
        say_json(
            {
                "run": str(run.directory.path),
                **{key: manifest[key] for key in keys},
                "picked": run.front.pick().recipe.key,
                "held_out": without_sequences(run.evaluation),
            }
        )
        return
    say_held_out(run.evaluation, plan.pick)
    manifest = run.manifest
    if not log_json:
        note(
            f"{manifest['evaluations']} recipes ({manifest['failed']} failed), "
            f"{len(run.front.entries)} on the front; {manifest['ended']}."
        )
    say(f"run: {run.directory.path}")


def _followed(
    experiment: str, settings: Sequence[str], out: Path, log_json: bool
) -> "tuple[Experiment, Run]":
    """The experiment, and its run with somebody told of it: a person, or a program."""
    from optishear.config import load_experiment

    plan = load_experiment(experiment, settings)
    from optishear.cli.json_log import JsonWatcher
    from optishear.cli.progress import LiveWatcher
    from optishear.experiment.search import search as run_search
    from optishear.report.progress import goal_of

    goal = goal_of(plan.model_dump(mode="json"))
    watcher = JsonWatcher(goal) if log_json else LiveWatcher(goal)
    try:
        run = run_search(plan, out, watcher)
    finally:
        watcher.close()
    if isinstance(watcher, JsonWatcher):
        watcher.finished(run)
    return plan, run
