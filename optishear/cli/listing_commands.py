"""The commands that list what there is: models, methods, metrics, objectives, drivers."""

import typer

from optishear.cli.console import JsonFlag, say_json, say_table, speaking


def register(app: typer.Typer) -> None:
    for command in (models, methods, metrics, objectives, drivers):
        app.command()(command)


@speaking
def models(json_: bool = JsonFlag) -> None:
    """Models by name. Any local folder and any Hub id works as well.

    Example: optishear models
    """
    from optishear.models.catalog import MODELS

    rows = [[name, entry.about, entry.size, entry.licence] for name, entry in MODELS.items()]
    _say("models", ["name", "what", "size", "licence"], rows, json_)


@speaking
def methods(json_: bool = JsonFlag) -> None:
    """Named pruning methods: metric x pattern x quadratic x solver, with paper and needs.

    Example: optishear methods --json
    """
    from optishear.solvers.methods import METHODS

    rows = [
        [name, m.metric["name"], m.pattern, m.costs, m.solver["name"], m.needs, m.paper]
        for name, m in METHODS.items()
    ]
    columns = ["name", "metric", "pattern", "quadratic", "solver", "needs", "paper"]
    _say("methods", columns, rows, json_)


@speaking
def metrics(json_: bool = JsonFlag) -> None:
    """Metrics that a recipe or a search space may name, with their settings.

    Example: optishear metrics
    """
    from dataclasses import fields

    from optishear.metrics import METRICS

    rows = []
    for name, kind in METRICS.items():
        formula = (kind.__doc__ or "").strip().splitlines()[0]
        settings = ", ".join(f.name for f in fields(kind))  # type: ignore[arg-type]
        rows.append([name, settings, formula, kind.paper])
    _say("metrics", ["name", "settings", "score", "paper"], rows, json_)


@speaking
def objectives(json_: bool = JsonFlag) -> None:
    """What an experiment may optimise or record of each candidate.

    Example: optishear objectives
    """
    from optishear.objectives import OBJECTIVES

    rows = [
        [name, "maximised" if kind.maximise else "minimised", kind.unit, kind.description]
        for name, kind in OBJECTIVES.items()
    ]
    _say("objectives", ["name", "direction", "unit", "what"], rows, json_)


@speaking
def drivers(json_: bool = JsonFlag) -> None:
    """Search drivers (`search.driver`), with the settings of `search` that each reads.

    Example: optishear drivers
    """
    from optishear.search.drivers import DRIVERS

    rows = [
        [
            name,
            ", ".join(entry.settings),
            "any" if entry.most_objectives is None else str(entry.most_objectives),
            entry.about,
            entry.paper,
        ]
        for name, entry in DRIVERS.items()
    ]
    _say("drivers", ["name", "settings", "objectives", "what", "paper"], rows, json_)


def _say(title: str, columns: list[str], rows: list[list[str]], as_json: bool) -> None:
    if as_json:
        say_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        say_table(title, columns, rows, prose=True)
