"""Commands about runs: search, front, plot, export."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optishear.cli.console import JsonFlag, note, say, say_json, say_table, speaking


if TYPE_CHECKING:
    from optishear.recipe.recipe import Recipe

RunPlace = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run directory, or a folder that holds one run.")
]
PickOption = Annotated[
    str | None,
    typer.Option(
        help="knee, lowest:NAME, highest:NAME, or constraints such as "
        "'sparsity>=0.6,perplexity<=25'. The experiment's own choice if left out."
    ),
]


def register(app: typer.Typer) -> None:
    for command in (search, front, plot, export):
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
                "held_out": _without_sequences(run.evaluation),
            }
        )
        return
    _say_held_out(run.evaluation, plan.pick)
    manifest = run.manifest
    note(
        f"{manifest['evaluations']} recipes ({manifest['failed']} failed), "
        f"{len(run.front.entries)} on the front; {manifest['ended']}."
    )
    say(f"run: {run.directory.path}")


@speaking
def front(run: RunPlace, pick: PickOption = None, json_: bool = JsonFlag) -> None:
    """Show the Pareto front, or with --pick one recipe of it.

    Example: optishear front results/quickstart --pick 'sparsity>=0.6,perplexity<=40'
    """
    from optishear.experiment.results import open_run

    found = open_run(run).front
    chosen = found.pick(pick)
    if json_:
        entries = [chosen] if pick else found.entries
        say_json(
            {
                "objectives": dict(found.objectives),
                "picked": chosen.recipe.key,
                "entries": [
                    {"key": e.recipe.key, "values": dict(e.values), "recipe": e.recipe.to_json()}
                    for e in entries
                ],
            }
        )
        return
    entries = (chosen,) if pick else found.entries
    names = list(found.entries[0].values)
    rows = [
        [
            ("→ " if entry is chosen else "  ") + entry.recipe.key,
            *[_number(name, entry.values[name]) for name in names],
            _how(entry.recipe),
        ]
        for entry in entries
    ]
    title = f"{found.experiment}: {len(found.entries)} recipes on the front"
    if not pick:
        title += f" (→ {found.usual_pick})"
    say_table(title, ["recipe", *names, "how"], rows)


@speaking
def plot(run: RunPlace, json_: bool = JsonFlag) -> None:
    """Draw the front, the picked profile and the convergence, as PNG and SVG, into RUN/figures.

    Example: optishear plot results/quickstart
    """
    from optishear.experiment.results import open_run
    from optishear.report.figures import draw_figures

    paths = draw_figures(open_run(run).directory)
    if json_:
        say_json({"figures": [str(path) for path in paths]})
        return
    for path in paths:
        say(str(path))


@speaking
def export(
    run: RunPlace,
    to: Annotated[
        Path,
        typer.Option(
            help="A folder for recipe.json, profile.csv and profile.json; or one file: "
            "recipe*.json, or a profile as *.csv or *.json."
        ),
    ],
    pick: PickOption = None,
    json_: bool = JsonFlag,
) -> None:
    """Write a recipe that `optishear prune` takes, and its sparsity profile as CSV and JSON.

    Example: optishear export results/quickstart --pick knee --to exported/
    """
    from optishear.errors import ConfigError
    from optishear.experiment.results import open_run
    from optishear.export.recipes import write_profile, write_recipe

    found = open_run(run).front
    chosen = found.pick(pick)
    if to.suffix not in ("", ".json", ".csv"):
        raise ConfigError(f"--to {to}: name a folder, or a file ending in .json or .csv.")
    paths = [to] if to.suffix else [to / "recipe.json", to / "profile.csv", to / "profile.json"]
    for path in paths:
        if path.suffix == ".json" and not path.stem.startswith("profile"):
            write_recipe(path, chosen.recipe, found.made_with)
        else:
            write_profile(path, chosen.recipe, found.layout)
    if json_:
        say_json({"picked": chosen.recipe.key, "files": [str(path) for path in paths]})
        return
    for path in paths:
        say(str(path))


def _say_held_out(rows: list[dict], pick: str) -> None:
    texts = list(rows[0]["texts"])
    for text in texts:
        lines = []
        for row in rows:
            numbers = row["texts"][text]
            error = "" if numbers["error"] is None else f" ± {numbers['error']:.2f}"
            gain = numbers["fewer_nats"].get("found")
            lines.append(
                [
                    row["name"] + (f" ({pick})" if row["name"] == "found" else ""),
                    _number("sparsity", row["sparsity"]),
                    f"{numbers['perplexity']:.2f}{error}",
                    "" if gain is None else f"{-gain['mean']:+.4f} ± {gain['error']:.4f}",
                ]
            )
        columns = ["method", "sparsity", "perplexity", "found is better by (nats/token)"]
        say_table(f"held-out: {text}", columns, lines)


def _without_sequences(rows: list[dict]) -> list[dict]:
    return [
        {
            **row,
            "texts": {
                text: {k: v for k, v in numbers.items() if k != "nats"}
                for text, numbers in row["texts"].items()
            },
        }
        for row in rows
    ]


def _number(name: str, value: float) -> str:
    if name == "sparsity":
        return f"{100 * value:.2f} %"
    if name == "bytes":
        return f"{value / 1e6:.2f} MB"
    return f"{value:.4g}"


def _how(recipe: "Recipe") -> str:
    """Metric and, where they are not the plain ones, solver and λ: `wanda, refit, λ 0.2-0.9`."""
    solver, lambdas = recipe.solver["name"], recipe.quadratic.get("lambda", {}).values()
    parts = [solver] if recipe.metric["name"] == "own" else [_metric(recipe.metric)]
    if recipe.metric["name"] != "own" and solver != "mask":
        parts.append(solver)
    if lambdas:
        ends = dict.fromkeys(f"{value:.2g}" for value in (min(lambdas), max(lambdas)))
        parts.append(f"λ {'-'.join(ends)}")
    return ", ".join(parts)


def _metric(metric: "Mapping[str, Any]") -> str:
    settings = [
        f"{key} {value:.3g}" if isinstance(value, float) else str(value)
        for key, value in metric.items()
        if key != "name"
    ]
    return metric["name"] + (f" ({', '.join(settings)})" if settings else "")
