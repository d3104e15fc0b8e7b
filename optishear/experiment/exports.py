"""What one takes away from a finished run or a pruned checkpoint, as files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.experiment.results import Entry, Front, open_run
from optishear.export.recipes import write_profile, write_recipe
from optishear.interchange.evopress import levels_of, write_levels
from optishear.interchange.llmcompressor import llmcompressor_recipe
from optishear.recipe.lookup import lookup
from optishear.recipe.recipe import MADE_WITH, Recipe
from optishear.records.atomic import replace_file


OPTISHEAR, LLMCOMPRESSOR, EVOPRESS, MASKS = "optishear", "llmcompressor", "evopress", "masks"
ENDINGS = {LLMCOMPRESSOR: ".yaml", EVOPRESS: ".txt", MASKS: ".safetensors"}
FORMATS = {
    OPTISHEAR: "recipe and sparsity profile",
    LLMCOMPRESSOR: "a recipe for llm-compressor",
    EVOPRESS: "levels for EvoPress",
    MASKS: "the masks of a pruned checkpoint",
}


@dataclass(frozen=True)
class Exported:
    """The files, the key of the recipe that they are of, and what they do not say."""

    key: str | None
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def export(
    place: str, to: Path, format_: str = OPTISHEAR, pick: str | None = None, step: int | None = None
) -> Exported:
    """Writes a recipe of the run at `place`, or the masks of the checkpoint there.

    `step`: weights between two EvoPress levels; None is the smallest that does.
    """
    lookup(FORMATS, format_, kind="format")
    if step is not None and format_ != EVOPRESS:
        raise ConfigError("--level-step: goes with --format evopress.")
    if format_ in ENDINGS and to.suffix != ENDINGS[format_]:
        raise ConfigError(
            f"--to {to}: name a file that ends in {ENDINGS[format_]} for --format {format_}."
        )
    if format_ == MASKS:
        if pick is not None:
            raise ConfigError("--pick: a checkpoint was made of one recipe. Leave it out.")
        return _masks(place, to)
    front = open_run(place).front
    entry = front.pick(pick)
    if format_ == LLMCOMPRESSOR:
        return _llmcompressor(front, entry, to)
    if format_ == EVOPRESS:
        levels = levels_of(entry.recipe, front.layout, step)
        return Exported(entry.recipe.key, tuple(write_levels(to, levels)), levels.notes)
    return _recipe_and_profile(front, entry, to)


def _recipe_and_profile(front: Front, entry: Entry, to: Path) -> Exported:
    if to.suffix not in ("", ".json", ".csv"):
        raise ConfigError(f"--to {to}: name a folder, or a file ending in .json or .csv.")
    names = ("recipe.json", "profile.csv", "profile.json")
    paths = (to,) if to.suffix else tuple(to / name for name in names)
    for path in paths:
        if path.suffix == ".json" and not path.stem.startswith("profile"):
            write_recipe(path, entry.recipe, front.made_with)
        else:
            write_profile(path, entry.recipe, front.layout)
    return Exported(entry.recipe.key, paths)


def _llmcompressor(front: Front, entry: Entry, to: Path) -> Exported:
    from optishear.interchange.modules import linear_modules

    modules = linear_modules(front.made_with["model"])
    written = llmcompressor_recipe(entry.recipe, front.layout, modules, front.made_with)
    replace_file(to, written.text.encode())
    return Exported(entry.recipe.key, (to,), written.notes)


def _masks(checkpoint: str, to: Path) -> Exported:
    """A checkpoint that optishear did not write has masks, too, but nobody knows of which model."""
    from optishear.experiment.named import nonzero_masks
    from optishear.interchange.masks import Provenance, write_masks
    from optishear.models.discover import layout_of
    from optishear.models.load import load

    loaded = load(checkpoint)
    masks = nonzero_masks(loaded.model, layout_of(loaded.model), checkpoint)
    made_with, key = _made_with(loaded.folder)
    model, model_hash = made_with.get("model"), made_with.get("model_hash")
    size = write_masks(to, masks, Provenance(model, model_hash, made_with, key))
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    notes = [f"{len(masks)} masks, {100 * (1 - kept / total):.2f} % zeros, {size / 1e6:.2f} MB"]
    if model_hash is None:
        notes.append(
            f"{checkpoint} does not say which dense model it was made of, so `optishear prune "
            f"--mask-from` will ask for --any-model"
        )
    return Exported(key, (to,), tuple(notes))


def _made_with(folder: Path) -> tuple[dict[str, Any], str | None]:
    from optishear.export.checkpoint import RECIPE_FILE

    path = folder / RECIPE_FILE
    if not path.exists():
        return {}, None
    recipe = Recipe.read(path)
    made_with = json.loads(path.read_text(encoding="utf-8")).get(MADE_WITH)
    return made_with if isinstance(made_with, dict) else {}, recipe.key
