"""Commands about an experiment: plan, search."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from optishear.runs.results import Run


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
Around = Annotated[
    Path | None,
    typer.Option(
        help="A recipe file, or a run (what it picks): candidates are pruned with statistics of "
        "the model as this prunes it, in place of the dense one's."
    ),
]
RunsFolder = Annotated[Path, typer.Option("--out", help="Where runs are kept.")]


@speaking
def plan(
    experiment: ExperimentName,
    set_: Settings = None,
    out: RunsFolder = Path("results"),
    around: Around = None,
    json_: bool = JsonFlag,
) -> None:
    """What a search would cost, by a dry run of a few candidates, and all that is wrong with it.

    Fills the cache with what the search needs; writes no run. Exit code 2 if it would be refused.

    Example: optishear plan smollm2_60 --set search.evaluations=600
    """
    import time

    import psutil

    from optishear.cli.progress import Stages
    from optishear.tools.plan.plan import plan as make_plan

    stages, begun = Stages(), time.time() - psutil.Process().create_time()
    try:
        settings = (*(set_ or ()), *_around(around))
        made = make_plan(experiment, settings, out, stages, begun=begun)
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
    experiments: Annotated[
        list[str],
        typer.Argument(metavar="EXPERIMENT.yaml…", help="Files, or shipped ones by name."),
    ],
    set_: Settings = None,
    out: RunsFolder = Path("results"),
    around: Around = None,
    rounds: Annotated[
        int,
        typer.Option(
            min=1,
            help="So many searches, each around what the one before it picked, at half its step "
            "of levels.",
        ),
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Model replicas on Ray, one a GPU or some cores each; if left out as many as the "
            "experiment says, else 1.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Of a running Ray cluster; else Ray is started here."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Search together with other processes: a database's URL, or a file."),
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Progress as JSON lines, and only these, on stderr.")
    ] = False,
    json_: bool = JsonFlag,
) -> None:
    """Search for a Pareto front. The same command again resumes, or shows the finished run.

    Several experiments, and all runs that a file's `vary` makes, are run in order of cost; one that
    fails does not stop the others.

    Example: optishear search quickstart --set search.evaluations=96
    """
    from optishear.cli.json_log import emit, json_on_stderr
    from optishear.config import load_experiments
    from optishear.errors import ConfigError, OptiShearError
    from optishear.runs.rounds import in_rounds
    from optishear.runs.several import in_order_of_cost

    def tell(event: str, text: str, **more: Any) -> None:
        emit(event, text=text, **more) if log_json else note(text)

    runs, failed = [], []
    with json_on_stderr() if log_json else nullcontext():
        more = [f"workers={workers}"] if workers is not None else []
        more += [f"ray_address={ray_address}"] if ray_address is not None else []
        settings = (*(set_ or ()), *more, *_around(around))
        asked = [run for name in experiments for run in load_experiments(name, settings)]
        if ray_address and all(experiment.workers == 1 for experiment in asked):
            raise ConfigError(
                "--ray-address: one worker is this process, which needs no cluster. Give --workers."
            )
        for place, experiment in enumerate(in_order_of_cost(asked)):
            if len(asked) > 1:
                tell("stage", f"{place + 1} of {len(asked)}: {experiment.name} {experiment.hash}")
            try:
                follow = partial(_followed, out=out, log_json=log_json, study=study or "")
                made = in_rounds(experiment, rounds, follow, bool(study))
                for number, (own, run) in enumerate(made, start=1):
                    runs.append((own, run))
                    if number < rounds:
                        tell("stage", f"round {number} of {rounds}: {run.directory.path}")
            except OptiShearError as error:
                if not runs and len(asked) == 1:
                    raise
                failed.append(f"{experiment.name} {experiment.hash}: {error}")
                tell("error", f"error: {failed[-1]}", exit_code=FAILED_RUN)
    if json_:
        summaries = [_summary(run) for _, run in runs]
        say_json(
            summaries[0] if len(asked) == rounds == 1 else {"runs": summaries, "failed": failed}
        )
    else:
        for experiment, run in runs:
            _say_run(experiment, run, note if not log_json else None)
    if failed:
        raise typer.Exit(FAILED_RUN)


def _around(place: Path | None) -> list[str]:
    """The recipe there as a change of `around`."""
    from optishear.runs.results import recipe_at

    return [] if place is None else [f"around={json.dumps(recipe_at(place)[0].to_json())}"]


def _summary(run: "Run") -> dict[str, Any]:
    front = run.front
    return {
        **run.summary,
        "picked": front.pick().recipe.key,
        **({} if front.finalists is None else {"finalists": front.finalists.to_json()}),
        "held_out": without_sequences(run.evaluation),
    }


def _say_run(experiment: "Experiment", run: "Run", remark: Callable[[str], None] | None) -> None:
    say_held_out(run.evaluation, experiment.pick)
    manifest, front = run.manifest, run.front
    if front.finalists is not None:
        from optishear.report.finalists import finalists_text

        say(finalists_text(front.finalists))
    if remark is not None:
        remark(
            f"{manifest['evaluations']} recipes ({manifest['failed']} failed), "
            f"{len(front.entries)} on the front; {manifest['ended']}."
        )
        if tokens := manifest.get("search_tokens"):  # older runs do not say
            remark(f"{tokens:,} search tokens through the model, curves and slopes among them.")
    say(f"run: {run.directory.path}")


def _followed(experiment: "Experiment", out: Path, log_json: bool, study: str) -> "Run":
    """The experiment's run with somebody told of it: a person, or a program."""
    from optishear.cli.json_log import JsonWatcher
    from optishear.cli.progress import LiveWatcher
    from optishear.report.progress import goal_of
    from optishear.runs.search import search as run_search

    goal = goal_of(experiment.model_dump(mode="json"))
    watcher = JsonWatcher(goal) if log_json else LiveWatcher(goal)
    try:
        run = run_search(experiment, out, watcher, study)
    finally:
        watcher.close()
    if isinstance(watcher, JsonWatcher):
        watcher.finished(run)
    return run
