"""The command that prunes a model: prune."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optishear.cli.console import JsonFlag, note, say, say_json, speaking


if TYPE_CHECKING:
    from optishear.calibration.origin import Origin
    from optishear.text.sources import TextSpec


def register(app: typer.Typer) -> None:
    app.command()(prune)


@speaking
def prune(
    model: Annotated[str, typer.Option(help="A name of `optishear models`, a folder or a Hub id.")],
    to: Annotated[Path, typer.Option(help="Folder for the pruned checkpoint.")],
    recipe: Annotated[Path | None, typer.Option(help="A recipe file of `export`.")] = None,
    method: Annotated[str | None, typer.Option(help="A name of `optishear methods`.")] = None,
    mask_from: Annotated[
        str | None,
        typer.Option(
            help="A pruned checkpoint: keep what is not zero in it; or a mask file of `export "
            "--format masks`."
        ),
    ] = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Take a mask file made for another model.")
    ] = False,
    sparsity: Annotated[float | None, typer.Option(help="Fraction to drop, in [0, 1).")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="row, layer, block:128, or N:M such as 2:4.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Layer sparsities: uniform, owl or alphapruning.")
    ] = "uniform",
    refit: Annotated[
        bool, typer.Option("--refit", help="Then the best weights for the mask (OPTIMA's problem).")
    ] = False,
    moonshot_lambda: Annotated[
        float | None,
        typer.Option(help="Weight of reconstruction against Taylor loss, 1 is plain (MOONSHOT)."),
    ] = None,
    moonshot_roles: Annotated[
        str, typer.Option(help="Which layers are mixed: attention, all, or roles with commas.")
    ] = "attention",
    damping: Annotated[
        float | None, typer.Option(help="Of the Hessian's mean diagonal; 0.01 if left out.")
    ] = None,
    one_shot: Annotated[
        bool, typer.Option("--one-shot", help="Statistics of the dense model, not block by block.")
    ] = False,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="One decoder block in memory at a time, for models larger than that; the same "
            "command goes on where it was stopped.",
        ),
    ] = False,
    text: Annotated[
        str | None, typer.Option(help="Calibration text: SOURCE[@SPLIT] or a file.")
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Calibration sequences.")] = 32,
    seq_len: Annotated[int, typer.Option(min=2, help="Their length in tokens.")] = 512,
    gradient_sequences: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of them, how many give a gradient sample; if left out the recipe's, else 16.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; if left out the recipe's, else float32."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[
        int,
        typer.Option(min=1, help="Solve layers on Ray: one process a GPU or some cores."),
    ] = 1,
    ray_address: Annotated[
        str, typer.Option(help="Of a running Ray cluster; else Ray is started here.")
    ] = "",
    json_: bool = JsonFlag,
) -> None:
    """Write a pruned checkpoint that transformers loads; it is reopened and checked.

    Example: optishear prune --model embedded --method sparsegpt --sparsity 0.5 --to pruned/
    """
    _refuse_contradictions(
        {"--recipe FILE": recipe, "--method NAME": method, "--mask-from CHECKPOINT": mask_from},
        {
            "--sparsity": sparsity,
            "--pattern": pattern,
            "--moonshot-lambda": moonshot_lambda,
            "--damping": damping,
            "--profile": None if profile == "uniform" else profile,
        },
        refit,
    )
    if any_model and not str(mask_from).endswith(".safetensors"):
        from optishear.errors import ConfigError

        raise ConfigError("--any-model: goes with --mask-from and a mask file (.safetensors).")
    if stream:
        _refuse_whole_model(
            {"--mask-from": mask_from, f"--profile {profile}": profile != "uniform"}
        )
    from optishear.calibration.origin import Origin, read_recipe
    from optishear.export.place import STATE_FOLDER, place_for

    with place_for(to, STATE_FOLDER if stream else None):
        pass  # is asked again where it is used; here before torch is imported
    # Before torch is imported: a mistake in the file is soon said.
    ready, found = (None, Origin()) if recipe is None else read_recipe(recipe)
    from optishear.cli.progress import Stages
    from optishear.experiment.apply import How, prune_to, workers_for
    from optishear.experiment.named import NamedMethod
    from optishear.experiment.prepare import BATCH_TOKENS, GRADIENT_SEQUENCES
    from optishear.experiment.stream import prune_streamed, room_note

    recipe_for = None if ready is None else lambda _prepared: ready
    if method is not None:
        recipe_for = NamedMethod(
            method, sparsity, pattern, refit, moonshot_lambda, moonshot_roles, damping, profile
        ).on
    dtype = dtype or found.dtype or "float32"
    how = How(
        _calibration(model, text, sequences, seq_len, found),
        dtype,
        device,
        not one_shot,
        gradient_sequences or found.gradient_sequences or GRADIENT_SEQUENCES,
        found.batch_tokens or BATCH_TOKENS,
        found.calibration_parts or 1,
        None if found == Origin() else found,
        workers_for(workers, device, ray_address),
    )
    if stream and recipe_for is not None:
        checked, written = prune_streamed(model, recipe_for, to, how, Stages())
    else:
        if (large := room_note(model, dtype, device)) is not None:
            note(large)
        given = None if mask_from is None else (mask_from, refit)
        checked, written = prune_to(model, recipe_for, to, how, given, Stages(), any_model)
    if json_:
        data = {**asdict(checked), "folder": str(checked.folder), "written": written}
        say_json(data)
        return
    if not written:
        note("already there: the same recipe on the same model and text")
    for line in checked.notes:
        note(line)
    say(
        f"{checked.folder}: {checked.layers} layers, sparsity {100 * checked.sparsity:.2f} %, "
        f"{checked.dtype}, {checked.bytes / 1e6:.1f} MB; zeros and logits checked"
    )


def _refuse_contradictions(
    sources: Mapping[str, Any], of_methods: Mapping[str, Any], refit: bool
) -> None:
    """One source of what to do, and only options that go with it."""
    from optishear.errors import ConfigError

    given = [option for option, value in sources.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(f"Give one of {', '.join(sources)}; found {len(given)} of them.")
    [source] = given
    extra = [option for option, value in of_methods.items() if value is not None]
    if source.startswith("--recipe") and refit:
        extra.append("--refit")
    if not source.startswith("--method") and extra:
        raise ConfigError(
            f"{', '.join(extra)}: a recipe or a mask has its own. Leave them out, or use --method."
        )


def _refuse_whole_model(options: Mapping[str, Any]) -> None:
    """What reads all layers before the first is pruned does not go with --stream."""
    from optishear.errors import ConfigError

    if given := [option for option, value in options.items() if value]:
        raise ConfigError(
            f"{', '.join(given)}: needs the whole model in memory. Leave it or --stream out."
        )


def _calibration(
    model: str, text: str | None, sequences: int, seq_len: int, found: "Origin"
) -> "TextSpec":
    """What the user names, else what the recipe was found with, else the model's usual text."""
    from optishear.experiment.texts import text_named, usual_text

    if text is not None:
        return text_named(text, sequences, seq_len, "train")
    return found.calibration or usual_text(model, "train")
