"""Commands about models: prune, evaluate."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from optishear.cli.console import JsonFlag, note, say, say_json, speaking


def register(app: typer.Typer) -> None:
    for command in (prune, evaluate):
        app.command()(command)


@speaking
def prune(
    model: Annotated[str, typer.Option(help="A name of `optishear models`, a folder or a Hub id.")],
    to: Annotated[Path, typer.Option(help="Folder for the pruned checkpoint.")],
    recipe: Annotated[Path | None, typer.Option(help="A recipe file of `export`.")] = None,
    method: Annotated[str | None, typer.Option(help="A name of `optishear methods`.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Fraction to drop, in [0, 1).")] = None,
    pattern: Annotated[str | None, typer.Option(help="row, layer, or N:M such as 2:4.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Calibration text: SOURCE[@SPLIT] or a file.")
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Calibration sequences.")] = 32,
    seq_len: Annotated[int, typer.Option(min=2, help="Their length in tokens.")] = 512,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json_: bool = JsonFlag,
) -> None:
    """Write a pruned checkpoint that transformers loads; it is reopened and checked.

    Example: optishear prune --model embedded --method wanda --sparsity 0.5 --to pruned/
    """
    from optishear.errors import ConfigError
    from optishear.recipe.recipe import MADE_WITH, Recipe

    if (recipe is None) == (method is None):
        raise ConfigError("Give either --recipe FILE or --method NAME.")
    if recipe is not None and (sparsity is not None or pattern is not None):
        raise ConfigError("--recipe has its own sparsity and pattern: leave those options out.")
    ready = Recipe.read(recipe) if recipe is not None else None
    from optishear.experiment.apply import (
        calibration_of,
        named_recipe,
        prune_to,
        text_named,
        usual_text,
    )
    from optishear.recipe.lookup import lookup
    from optishear.recipe.profile import check_sparsity
    from optishear.solvers.methods import METHODS

    if method is not None:
        lookup(METHODS, method, kind="method")
        if sparsity is not None:
            check_sparsity(sparsity, "--sparsity")
    calibration = None
    if text is not None:
        named = text if "@" in text else f"{text}@train"
        calibration = text_named(named, sequences, seq_len)
    elif recipe is not None:
        made_with = json.loads(recipe.read_text(encoding="utf-8")).get(MADE_WITH, {})
        calibration = calibration_of(made_with, str(recipe))
    calibration = calibration or usual_text(model, "train")
    checked, written = prune_to(
        model,
        lambda layout: ready or named_recipe(layout, method or "", sparsity, pattern),
        to,
        calibration,
        dtype,
        device,
    )
    if json_:
        data = {**asdict(checked), "folder": str(checked.folder), "written": written}
        say_json(data)
        return
    if not written:
        note("already there: the same recipe on the same model and text")
    say(
        f"{checked.folder}: {checked.layers} layers, sparsity {100 * checked.sparsity:.2f} %, "
        f"{checked.dtype}, {checked.bytes / 1e6:.1f} MB; zeros and logits checked"
    )


@speaking
def evaluate(
    model: Annotated[str, typer.Argument(metavar="DIR|MODEL", help="A folder, name or Hub id.")],
    text: Annotated[
        str | None, typer.Option(help="SOURCE[@SPLIT] or a .txt, .jsonl, .parquet file.")
    ] = None,
    sequences: Annotated[int, typer.Option(min=0, help="How many; 0 means all.")] = 0,
    seq_len: Annotated[int | None, typer.Option(min=2, help="Tokens a sequence.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json_: bool = JsonFlag,
) -> None:
    """Held-out perplexity with its standard error; each sequence on its own.

    Example: optishear evaluate pruned/ --text wikipedia-passages --sequences 24 --seq-len 512
    """
    from optishear.experiment.apply import evaluate as run
    from optishear.experiment.apply import text_named, usual_text
    from optishear.text.sources import TextSpec

    if text is None:
        usual = usual_text(model, "evaluation")
        count = sequences or usual.sequences
        spec = TextSpec(usual.source, usual.split, count, seq_len or usual.seq_len)
    else:
        spec = text_named(text, sequences, seq_len or 512)
    held, hashes = run(model, spec, dtype, device)
    several = len(held.nats) > 1
    if json_:
        say_json(
            {
                "model": model,
                "text": held.text,
                "perplexity": held.perplexity,
                "standard_error": held.perplexity_error if several else None,
                "nats_per_token": held.mean,
                "sequences": len(held.nats),
                "seq_len": held.seq_len,
                **hashes,
            }
        )
        return
    error = f" ± {held.perplexity_error:.3f}" if several else ""
    say(f"perplexity {held.perplexity:.3f}{error}  ({held.text})")
