"""The command that brings something from another tool: import. (What goes there is `export`.)"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optishear.cli.console import JsonFlag, note, say, say_json, speaking
from optishear.cli.writing import writes


if TYPE_CHECKING:
    from optishear.interchange.recipes import Asked


def register(app: typer.Typer) -> None:
    app.command("import")(import_)


@speaking
@writes("to")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A profile or metric of elsewhere.")],
    to: Annotated[Path, typer.Option(help="Recipe file to write, such as recipe.json.")],
    model: Annotated[
        str | None, typer.Option(help="For which model: a name, a folder or a Hub id.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="evopress, ratios, profile or pruner-zero, if not plain.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Of `optishear methods`; sparsegpt for EvoPress, else wanda."),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="row, layer, block:128 or n:4; the method's if left out.")
    ] = None,
    meaning: Annotated[
        str | None, typer.Option(help="What a ratio is: drop (sparsity) or keep (density, OWL).")
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="Of an EvoPress database's level 0; or for a metric tree, of all."),
    ] = None,
    weights_diff: Annotated[
        int | None, typer.Option(min=1, help="Weights between two levels of that database.")
    ] = None,
    json_: bool = JsonFlag,
) -> None:
    """Make a recipe for `optishear prune` of a profile or a metric from another tool.

    A metric tree without --sparsity becomes a metric for recipes and search spaces.

    Example: optishear import owl.txt --meaning keep --model embedded --to recipe.json
    """
    from optishear.errors import ConfigError
    from optishear.interchange.kinds import PRUNER_ZERO
    from optishear.interchange.recipes import Asked, kind_asked

    if to.suffix != ".json":
        raise ConfigError(f"--to {to}: name a file that ends in .json, such as recipe.json.")
    asked = Asked(kind, method, pattern, meaning, sparsity, weights_diff)
    if kind_asked(file, asked) == PRUNER_ZERO and sparsity is None:
        _metric(file, to, asked, model, json_)
        return
    if model is None:
        raise ConfigError("--model: say for which model, so that layers and sizes are known.")
    from optishear.tools.imports import import_for

    found = import_for(model, file, to, asked)
    if json_:
        say_json(
            {
                "file": str(to),
                "kind": found.kind,
                "recipe": found.recipe.key,
                "sparsity": found.sparsity,
                "notes": list(found.notes),
            }
        )
        return
    for line in found.notes:
        note(f"{found.kind}: {line}")
    say(str(to))


def _metric(file: Path, to: Path, asked: "Asked", model: str | None, json_: bool) -> None:
    from optishear.errors import ConfigError
    from optishear.interchange.recipes import metric_of_tree
    from optishear.records.run_directory import write_json

    if model is not None or asked.pattern is not None:
        raise ConfigError(
            "--model and --pattern: are for a recipe, and a recipe of a metric tree needs "
            "--sparsity. Leave them out for the metric alone."
        )
    metric, tree = metric_of_tree(file)
    write_json(to, metric)
    if json_:
        say_json({"file": str(to), "kind": "pruner-zero", "metric": metric})
        return
    note(f"pruner-zero: {tree}; a metric for recipes and search spaces, not a recipe")
    say(str(to))
