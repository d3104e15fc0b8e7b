"""One recipe, one model, one folder: what `optishear prune` and `optishear evaluate` do."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.evaluation.perplexity import HeldOut, held_out
from optishear.experiment.prepare import Calibrated, calibrate
from optishear.export.checkpoint import RECIPE_FILE, Checked, write_checkpoint
from optishear.models.load import LoadedModel, load
from optishear.models.weights import lent
from optishear.pruning.oneshot import apply
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import lookup
from optishear.recipe.pattern import parse_n_of_m, parse_pattern
from optishear.recipe.profile import check_sparsity, uniform
from optishear.recipe.recipe import Recipe
from optishear.solvers.methods import METHODS
from optishear.text.sources import SOURCES, TextSpec
from optishear.text.tokens import token_batches


EMBEDDED = "embedded"
PROBE_TOKENS = 256  # of the calibration text: the reopened checkpoint must give equal logits


def usual_text(model: str, split: str) -> TextSpec:
    """The text that is used for a model where the user names none."""
    if model == EMBEDDED:
        return TextSpec(EMBEDDED, split, 64 if split == "train" else 128, 256)
    return TextSpec("wikipedia-passages", split, 32, 512)


def text_named(text: str, sequences: int, seq_len: int) -> TextSpec:
    """`SOURCE` or `SOURCE@SPLIT`; a named source's evaluation split, all of anything else."""
    source, at, split = text.rpartition("@")
    if not at:
        source, split = text, "evaluation" if text in SOURCES else "all"
    return TextSpec(source, split, sequences, seq_len)


def named_recipe(
    layout: ModelLayout, method: str, sparsity: float | None, pattern: str | None
) -> Recipe:
    """A named method with the uniform profile, counted as its own code counts.

    `pattern` None is the method's own; under N:M the sparsity follows from it and another one is
    refused.
    """
    chosen = lookup(METHODS, method, kind="method")
    fixed = parse_n_of_m(pattern) if pattern else None
    if fixed is not None:
        n, where = fixed
        implied = 1 - n / where.m
        if sparsity is not None and abs(sparsity - implied) > 1e-9:
            raise ConfigError(
                f"--pattern {pattern} has a sparsity of {implied:g}, but --sparsity says "
                f"{sparsity:g}. Leave --sparsity out."
            )
        sparsity = implied
    else:
        where = parse_pattern(pattern or chosen.pattern)
        if sparsity is None:
            raise ConfigError(f"--method {method} needs --sparsity, for instance 0.5.")
    check_sparsity(sparsity, "--sparsity")
    for layer in layout.layers:
        where.check(layer)
    return Recipe(chosen.metric, uniform(layout, where, sparsity), where.text, chosen.solver)


def prune_to(
    model: str,
    recipe_for: Callable[[ModelLayout], Recipe],
    folder: Path,
    calibration: TextSpec,
    dtype: str = "float32",
    device: str = "cpu",
) -> tuple[Checked, bool]:
    """Writes the pruned checkpoint and checks it; False where the folder already held just this."""
    calibrated = calibrate(model, dtype, device, calibration)
    recipe = recipe_for(calibrated.layout)
    recipe.check(calibrated.layout)
    made_with = made_with_text(model, dtype, calibration, calibrated)
    if _already(folder, recipe, made_with):
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        stored = load(str(folder), dtype=dtype, device=device).stored_dtype
        sparsity = calibrated.layout.sparsity(recipe.drop)
        name = str(stored).removeprefix("torch.")
        return Checked(folder, sparsity, name, len(calibrated.layout.layers), size), False
    probe = calibrated.calibration.tokens[:1, :PROBE_TOKENS]
    with lent(calibrated.loaded.model, calibrated.layout) as working:
        apply(working, calibrated.layout, calibrated.stats, recipe)
        checked = write_checkpoint(
            calibrated.loaded, calibrated.layout, recipe, folder, made_with, probe
        )
    return checked, True


def made_with_text(
    model: str, dtype: str, calibration: TextSpec, calibrated: Calibrated
) -> dict[str, Any]:
    """On what a pruned checkpoint was made; the same keys as the front's `made_with`."""
    return {
        "model": model,
        "model_hash": calibrated.loaded.hash,
        "dtype": dtype,
        "calibration": asdict(calibration),
        "calibration_hash": calibrated.calibration.hash,
    }


def calibration_of(made_with: Mapping[str, Any], where: str) -> TextSpec | None:
    """The calibration text that a recipe file names, if it names one."""
    if "calibration" not in made_with:
        return None
    try:
        return TextSpec(**made_with["calibration"])
    except TypeError as error:
        raise ConfigError(f"{where}: made_with.calibration is no text: {error}.") from None


def evaluate(
    model: str, text: TextSpec, dtype: str = "float32", device: str = "cpu"
) -> tuple[HeldOut, dict[str, Any]]:
    """Perplexity of a model or pruned folder on a text, each sequence on its own."""
    loaded = load(model, dtype=dtype, device=device)
    tokens = token_batches(text, loaded.tokenizer)
    return held_out(loaded.model, tokens), {"model_hash": loaded.hash, "text_hash": tokens.hash}


def _already(folder: Path, recipe: Recipe, made_with: Mapping[str, Any]) -> bool:
    path = folder / RECIPE_FILE
    if not path.exists():
        return False
    data = json.loads(path.read_text(encoding="utf-8"))
    return Recipe.from_json(data, str(path)) == recipe and data.get("made_with") == made_with


@contextmanager
def pruned(
    model: str,
    recipe: Recipe,
    calibration: TextSpec | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Iterator[LoadedModel]:
    """The model with the recipe applied, for as long as the context is open.

    `calibration` None is the model's usual text (for `embedded` its own train split, else the
    Wikipedia passages).
    """
    calibrated = calibrate(model, dtype, device, calibration or usual_text(model, "train"))
    recipe.check(calibrated.layout)
    with lent(calibrated.loaded.model, calibrated.layout) as working:
        apply(working, calibrated.layout, calibrated.stats, recipe)
        yield calibrated.loaded
