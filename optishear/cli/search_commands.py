"""Commands about an experiment: search."""

from pathlib import Path
from typing import Annotated

import typer

from optishear.cli.console import JsonFlag, note, say, say_json, speaking
from optishear.cli.held_out import say_held_out, without_sequences


def register(app: typer.Typer) -> None:
    for command in (search,):
        app.command()(command)


@speaking
def search(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT.yaml", help="A file, or a shipped one by name.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. search.seed=3."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("results"),
    json_: bool = JsonFlag,
) -> None:
    """Search for a Pareto front. The same command again resumes, or shows the finished run.

    Example: optishear search quickstart --set search.evaluations=96
    """
    from optishear.config import load_experiment

    plan = load_experiment(experiment, set_ or ())
    from optishear.cli.progress import LiveWatcher
    from optishear.experiment.search import search as run_search
    from optishear.objectives import make_objective

    objectives = {name: make_objective(name).maximise for name in plan.objectives}
    lowest = plan.pick.removeprefix("lowest:") if plan.pick.startswith("lowest:") else None
    watcher = LiveWatcher(objectives, lowest)
    try:
        run = run_search(plan, out, watcher)
    finally:
        watcher.close()
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
    note(
        f"{manifest['evaluations']} recipes ({manifest['failed']} failed), "
        f"{len(run.front.entries)} on the front; {manifest['ended']}."
    )
    say(f"run: {run.directory.path}")
