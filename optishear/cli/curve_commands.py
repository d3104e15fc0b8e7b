"""The command about what single layers cost: curves."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optishear.cli.console import JsonFlag, note, say, say_json, say_table, speaking
from optishear.cli.run_commands import RunPlace
from optishear.cli.wording import how_text, number_text
from optishear.cli.writing import writes


if TYPE_CHECKING:
    from optishear.recipe.layout import Layer
    from optishear.report.additivity import Additivity
    from optishear.report.measured_curves import MeasuredCurves
    from optishear.search.budget_splits import Split
    from optishear.search.budget_units import Budget

THIRDS = 3  # of the blocks, first to last


def register(app: typer.Typer) -> None:
    app.command()(curves)


@speaking
@writes("to")
def curves(
    run: RunPlace,
    layers: Annotated[bool, typer.Option("--layers", help="A row a layer, not a role.")] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET[,…]",
            help="Split these between the layers so that the curves' sum is the least: a sparsity "
            "to reach (0.5, 60%), or bytes to take at most (100MB, 1.5GiB), counted as the "
            "objective bytes counts them.",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="Write the split of one --budget as a recipe, a file ending in .json."),
    ] = None,
    json_: bool = JsonFlag,
) -> None:
    """Show what each layer of a run costs alone, and how far such costs add up; draw both into
    RUN/figures.

    A search measures curves with knapsack among its seeds, with the driver knapsack, or with guided
    variation.

    Example: optishear curves results/mine --budget 0.5,0.6,100MB
    """
    from optishear.report.additivity import additivity
    from optishear.report.curve_figures import draw_curves
    from optishear.runs.allocated import curves_at, split_recipe, splits_of

    budgets = _budgets(budget, to)
    directory, found = curves_at(run)
    solved = splits_of(directory, found, budgets) if budgets else []
    if to is not None:
        split_recipe(directory, found, solved[0], to)
    compared = additivity(directory, found)
    paths = [str(path) for path in (*draw_curves(directory, found), *([to] if to else []))]
    if json_:
        say_json(_json(found, compared, solved, paths))
        return
    _say_curves(found, layers)
    say(compared.text)
    for one in solved:
        _say_split(found, one)
    for path in paths:
        say(path)


def _budgets(said: str | None, to: Path | None) -> "list[Budget]":
    from optishear.errors import ConfigError
    from optishear.search.budget_units import Budget

    try:
        budgets = [] if said is None else [Budget.parsed(part) for part in said.split(",")]
    except ConfigError as error:
        raise ConfigError(f"--budget {said}: {error}") from None
    if to is not None and (len(budgets) != 1 or to.suffix != ".json"):
        raise ConfigError(f"--to {to}: a file ending in .json, for the split of one --budget.")
    return budgets


def _say_curves(found: "MeasuredCurves", by_layer: bool) -> None:
    """Values by layer, or summed over the layers of a role."""
    layout, quantity = found.layout, found.quantity
    groups = {layer.name: [layer] for layer in layout.layers}
    if not by_layer:
        groups = {role: [x for x in layout.layers if x.role == role] for role in layout.roles}
    lines = [
        [name, *(() if by_layer else (str(len(own)),)), *_values(found, own)]
        for name, own in groups.items()
    ]
    what = "" if by_layer else ", summed over a role's layers"
    levels = [number_text("sparsity", level) for level in found.levels]
    columns = ["layer", *levels] if by_layer else ["role", "layers", *levels]
    say_table(f"{quantity.label} of one layer pruned{what}", columns, lines)
    said = f"measured on {found.tokens:,} tokens of the search text, pruned by "
    note(f"{said}{how_text(found.recipe)}, all other layers dense")
    if found.failed:
        note(f"{found.failed} measurement{'s' * (found.failed > 1)} failed and have no value")


def _values(found: "MeasuredCurves", layers: "list[Layer]") -> list[str]:
    """By level the sum over these layers; a dash where one of them was not measured there."""
    rows = [found.at_levels(layer) for layer in layers]
    return [
        "–" if None in column else number_text(found.objective, sum(value or 0 for value in column))
        for column in zip(*rows, strict=True)
    ]


def _say_split(found: "MeasuredCurves", split: "Split") -> None:
    layout = found.layout
    count = min(THIRDS, layout.blocks)
    bounds = [layout.blocks * part // count for part in range(count + 1)]
    parts = [range(low, high) for low, high in pairwise(bounds)]

    def row(name: str, layers: "list[Layer]") -> list[str]:
        cells = [[x for x in layers if x.block in part] for part in (*parts, range(layout.blocks))]
        return [name, *(_sparsity(split, cell) for cell in cells)]

    rows = [row(role, [x for x in layout.layers if x.role == role]) for role in layout.roles]
    names = [f"blocks {p[0]}-{p[-1]}" if len(p) > 1 else f"block {p[0]}" for p in parts]
    budget = split.budget
    title = f"{number_text(budget.quantity, budget.value)}: {found.objective} "
    title += f"{number_text(found.objective, split.predicted)}, were costs to add up"
    table = [*rows, row("all", list(layout.layers))]
    say_table(title, ["sparsity", *names, "all"], table)
    if budget.quantity == "bytes":
        note(f"{split.reached:,.0f} bytes of {budget.value:,.0f}")
    if not split.exact:
        note("the totals are too many to look at each, so the split is near the least")


def _sparsity(split: "Split", layers: "list[Layer]") -> str:
    if not layers:
        return "–"
    dropped = sum(split.drop[layer.name] for layer in layers)
    return number_text("sparsity", dropped / sum(layer.size for layer in layers))


def _json(
    found: "MeasuredCurves", compared: "Additivity", solved: "list[Split]", files: list[str]
) -> dict[str, Any]:
    sizes = found.layout.sizes
    return {
        "objective": found.objective,
        "unit": found.quantity.unit,
        "tokens": found.tokens,
        "failed": found.failed,
        "how": how_text(found.recipe),
        "curves": {
            name: [
                {"dropped": count, "sparsity": count / sizes[name], "value": value}
                for count, value in points
            ]
            for name, points in found.curves.points.items()
        },
        "additivity": {
            "recipes": len(compared.recipes),
            "correlation": compared.correlation,
            "ratio": compared.ratio,
            "tokens": compared.tokens,
            "others": compared.others,
            "reason": compared.reason,
            "values": [
                {"key": recipe.key, "predicted": float(predicted), "measured": float(measured)}
                for recipe, predicted, measured in zip(
                    compared.recipes, compared.predicted, compared.measured, strict=True
                )
            ],
        },
        "budgets": [
            {one.budget.quantity: one.budget.value, "predicted": one.predicted}
            | {"exact": one.exact, "reached": one.reached, "drop": dict(one.drop)}
            for one in solved
        ],
        "files": files,
    }
