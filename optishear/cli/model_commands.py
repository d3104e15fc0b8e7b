"""The command that prunes a model: prune."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from optishear.cli.console import BOS_HELP, JsonFlag, TextField, note, say, say_json, speaking
from optishear.cli.prune_options import (
    calibration_asked,
    damping_asked,
    reconstruction_asked,
    refuse_contradictions,
    refuse_gradients,
    refuse_idle,
    refuse_whole_model,
)


def register(app: typer.Typer) -> None:
    app.command()(prune)


@speaking
def prune(
    model: Annotated[
        str, typer.Option(help="A name of `optishear models`, a folder or a Hub id[@REVISION].")
    ],
    to: Annotated[Path, typer.Option(help="Folder for the pruned checkpoint.")],
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe file of `export`, or a run: what it picks.")
    ] = None,
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
    roles: Annotated[
        str | None,
        typer.Option(
            help="What layers of some roles have otherwise (pattern, metric, solver, damping, "
            "target_shift, guided), as in '{mlp.*: {pattern: 2:4}}'."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Layer sparsities: uniform (if left out), owl or alphapruning, with settings "
            "as in owl:lambda=0.05:m=7; or those of a RUN's pick, a pruned folder or a recipe "
            "file, at its own sparsity if --sparsity is left out."
        ),
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Then the best weights for the mask (OPTIMA's problem).")
    ] = False,
    moonshot_lambda: Annotated[
        float | None,
        typer.Option(help="Weight of reconstruction against Taylor loss, 1 is plain (MOONSHOT)."),
    ] = None,
    moonshot_roles: Annotated[
        str | None,
        typer.Option(
            help="Which layers are mixed: attention (if left out), all, or roles with commas."
        ),
    ] = None,
    damping: Annotated[
        str | None,
        typer.Option(
            help="Of the Hessian's mean diagonal, 0.01 if left out; or auto: each layer's is "
            "chosen by its error on calibration sequences that are held back."
        ),
    ] = None,
    target_shift: Annotated[
        float | None,
        typer.Option(
            help="How far a layer imitates what the dense model computes, where blocks before it "
            "are pruned: 0 (if left out) its own weight, 1 wholly."
        ),
    ] = None,
    guided: Annotated[
        int | None,
        typer.Option(
            help="Weigh calibration tokens as the loss hears what a layer puts out, for so many "
            "groups of its rows: 1 to 4. Takes a backward pass, once.",
        ),
    ] = None,
    centred: Annotated[
        bool,
        typer.Option(
            "--centred",
            help="Biases make up for the mean of what is pruned, and weights for the rest; for "
            "models whose layers have biases.",
        ),
    ] = False,
    order: Annotated[
        str | None,
        typer.Option(
            help="In which the layers of a block are solved: block (all at once, if left out) or "
            "site (as data flow, each after those that it reads of)."
        ),
    ] = None,
    reconstruct: Annotated[
        str | None,
        typer.Option(
            help="Then move the kept weights of each block, or of each half of one, until it does "
            "what the dense one did: none (if left out, or the recipe's), block, half; with "
            "settings as in block:epochs=10:learning_rate=1e-3:inputs=dense."
        ),
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
    text_field: Annotated[str | None, TextField] = None,
    sequences: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Calibration sequences; if left out as many as the recipe's, else the model's "
            "usual text has: 64 for embedded, 32 for others.",
        ),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            min=2, help="Their length in tokens; likewise: 256 for embedded, 512 for others."
        ),
    ] = None,
    bos: Annotated[
        str | None,
        typer.Option(help=f"Where a BOS goes, if not as in the recipe's text: {BOS_HELP}"),
    ] = None,
    gradient_sequences: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of them, how many give a gradient sample; if left out the recipe's, else 16 or "
            "all.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="To compute in: float32, bfloat16 or float16; if left out the recipe's, else "
            "float32."
        ),
    ] = None,
    save_dtype: Annotated[
        str | None,
        typer.Option(
            help="To write in: stored (each tensor as in the dense files), float32, bfloat16 or "
            "float16; if left out the recipe's, else stored."
        ),
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
    refuse_contradictions(
        {"--recipe FILE": recipe, "--method NAME": method, "--mask-from CHECKPOINT": mask_from},
        {
            "--sparsity": sparsity,
            "--pattern": pattern,
            "--roles": roles,
            "--moonshot-lambda": moonshot_lambda,
            "--damping": damping,
            "--target-shift": target_shift,
            "--guided": guided,
            "--centred": centred or None,
            "--order": order,
            "--profile": profile,
            "--moonshot-roles": moonshot_roles,
        },
        refit,
    )
    if any_model and not str(mask_from).endswith(".safetensors"):
        from optishear.errors import ConfigError

        raise ConfigError("--any-model: goes with --mask-from and a mask file (.safetensors).")
    profile = profile or "uniform"
    if stream:
        refuse_whole_model({"--mask-from": mask_from})
    from optishear.calibration.origin import Origin
    from optishear.export.place import STATE_FOLDER, place_for
    from optishear.runs.results import recipe_at

    with place_for(to, STATE_FOLDER if stream else None):
        pass  # is asked again where it is used; here before torch is imported
    # Before torch is imported: a mistake in the file is soon said.
    ready, found = (None, Origin()) if recipe is None else recipe_at(recipe)
    from optishear.calibration.gradients import LayerGradients
    from optishear.cli.progress import Stages
    from optishear.models.load import AS_STORED
    from optishear.runs.prepare import BATCH_TOKENS, GRADIENT_SEQUENCES
    from optishear.solvers.methods import check_parts, needs_of
    from optishear.tools.named import NamedMethod, roles_asked
    from optishear.tools.prune import How, prune_to, workers_for
    from optishear.tools.prune_streamed import prune_streamed, room_note

    if ready is not None:
        check_parts(ready, str(recipe))
    recipe_for = None if ready is None else lambda _prepared: ready
    reads_gradients = ready is not None and LayerGradients in needs_of(ready)
    if method is not None:
        quadratic = {
            "damping": damping_asked(damping),
            "target_shift": target_shift,
            "guided": guided,
            "centred": centred or None,
        }
        named = NamedMethod(
            method,
            sparsity,
            pattern,
            refit,
            moonshot_lambda,
            moonshot_roles or "attention",
            {k: v for k, v in quadratic.items() if v is not None},
            profile,
            () if roles is None else roles_asked(roles),
            order,
        )
        refuse_idle(named, moonshot_roles)
        if stream:
            refuse_whole_model({f"--profile {profile}": named.layer_sparsities.reads_model})
        recipe_for, reads_gradients = named.on, LayerGradients in named.needs
    calibration = calibration_asked(model, text, text_field, sequences, seq_len, bos, found)
    if gradient_sequences is not None:
        refuse_gradients(gradient_sequences, reads_gradients, calibration)
    dtype = dtype or found.dtype or "float32"
    how = How(
        calibration,
        dtype,
        device,
        not one_shot,
        gradient_sequences or found.gradient_sequences or GRADIENT_SEQUENCES,
        found.batch_tokens or BATCH_TOKENS,
        found.calibration_parts or 1,
        None if found == Origin() else found,
        save_dtype or found.save_dtype or AS_STORED,
        workers_for(workers, device, ray_address),
        reconstruction_asked(reconstruct),
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
    note(checked.coverage.text)
    say(
        f"{checked.folder}: {checked.layers} layers, sparsity {100 * checked.sparsity:.2f} %, "
        f"{checked.dtype}, {checked.bytes / 1e6:.1f} MB; zeros and logits checked"
    )
