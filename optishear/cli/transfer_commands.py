"""The command about another model: transfer."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optishear.cli.console import (
    BOS_HELP,
    JsonFlag,
    TextField,
    note,
    say,
    say_json,
    say_table,
    speaking,
)
from optishear.cli.run_commands import PickOption
from optishear.cli.writing import writes


if TYPE_CHECKING:
    from optishear.recipe.transfer import Transferred

USUAL = "usual"


def register(app: typer.Typer) -> None:
    app.command()(transfer)


@speaking
@writes("to")
def transfer(
    model: Annotated[str, typer.Option(help="The other model: a name, a folder or a Hub id.")],
    to: Annotated[Path, typer.Option(help="Recipe file to write, such as recipe.json.")],
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="A run directory, or a folder that holds one run."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="In place of RUN: a recipe file; the model it names is loaded for it."),
    ] = None,
    pick: PickOption = None,
    sparsity: Annotated[
        float | None, typer.Option(help="Fraction to drop; the source's if left out.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Measure it beside uniform sparsities on this held-out text: SOURCE[@SPLIT], a "
            "file, or `usual` for the other model's usual one."
        ),
    ] = None,
    text_field: Annotated[str | None, TextField] = None,
    sequences: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of that text; 0 means all. If left out all of what is named, and of `usual` 128 "
            "(of embedded) or 32.",
        ),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            min=2, help="Their length in tokens; 512 if left out, 256 of embedded's usual text."
        ),
    ] = None,
    bos: Annotated[str | None, typer.Option(help=f"Where a BOS goes in them: {BOS_HELP}")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[
        str | None, typer.Option(help="Where --compare measures: cpu (if left out) or cuda.")
    ] = None,
    json_: bool = JsonFlag,
) -> None:
    """Carry a recipe to another model, by relative depth and role, onto the same sparsity.

    Example: optishear transfer results/smollm2_60 --model embedded --to recipe.json --compare usual
    """
    from optishear.errors import ConfigError

    if (run is None) == (recipe is None):
        raise ConfigError("Give either a RUN or --recipe FILE, to say what is to be transferred.")
    if recipe is not None and pick is not None:
        raise ConfigError("--pick: a recipe file holds one recipe. Leave it out, or give a RUN.")
    if compare is None and (sequences, seq_len, bos) != (None, None, None):
        raise ConfigError(
            "--sequences, --seq-len and --bos say how much of the text of --compare is read, and "
            "how it begins."
        )
    if compare is None and device is not None:
        raise ConfigError(
            "--device: says where --compare measures. Give that too, or leave it out."
        )
    if text_field is not None and compare in (None, USUAL):
        raise ConfigError("--text-field: says where the text is in the rows of a --compare FILE.")
    if to.suffix != ".json":
        raise ConfigError(f"--to {to}: name a file that ends in .json, such as recipe.json.")
    from optishear.cli.progress import Stages
    from optishear.tools.texts import held_out_text
    from optishear.tools.transfer import Target, source_of_file, source_of_run, transfer_to

    source = source_of_run(run, pick) if run is not None else source_of_file(Path(str(recipe)))
    text = None
    if compare is not None:
        named = None if compare == USUAL else compare
        text = held_out_text(model, named, text_field, sequences, seq_len, bos)
    target = Target(model, sparsity, dtype, device or "cpu", compare_on=text)
    found, rows = transfer_to(source, target, to, Stages())
    if json_:
        from optishear.cli.held_out import without_sequences

        say_json(
            {
                "file": str(to),
                "recipe": found.recipe.key,
                "from": {"recipe": source.recipe.key, "model": source.model},
                "carried": found.carried,
                "roles": [asdict(role) for role in found.roles],
                "held_out": None if rows is None else without_sequences(rows),
            }
        )
        return
    _say(found, source.model, model)
    if rows is not None:
        from optishear.cli.held_out import say_held_out

        say_held_out(rows, "transferred")
    note("how sparsities were carried: linear in relative depth, then shifted onto the budget")
    say(str(to))


def _say(found: "Transferred", source: str, target: str) -> None:
    lines = [
        [
            role.role,
            ", ".join(role.sources) or "all of the block",
            role.rule,
            str(role.layers),
            f"{100 * role.carried:.2f} %",
            f"{100 * role.sparsity:.2f} %",
        ]
        for role in found.roles
    ]
    columns = [f"role in {target}", f"from, in {source}", "rule", "layers", "carried", "sparsity"]
    say_table("transferred", columns, lines)
