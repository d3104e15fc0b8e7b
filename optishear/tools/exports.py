"""Exports of a finished run or a pruned checkpoint, as files."""

from dataclasses import dataclass
from pathlib import Path

from optishear.calibration.origin import Origin, read_recipe, write_recipe
from optishear.errors import ConfigError
from optishear.export.profiles import write_profile
from optishear.interchange.evopress import levels_of, write_levels
from optishear.interchange.llmcompressor import llmcompressor_recipe
from optishear.recipe.lookup import lookup
from optishear.records.atomic import replace_file
from optishear.records.output import file_for, folder_for
from optishear.runs.results import Entry, Front, open_run


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
    if format_ == OPTISHEAR and to.suffix not in ("", ".json", ".csv"):
        raise ConfigError(f"--to {to}: name a folder, or a file ending in .json or .csv.")
    if format_ == MASKS and pick is not None:
        raise ConfigError("--pick: a checkpoint was made of one recipe. Leave it out.")
    with file_for(to, "--to") if to.suffix else folder_for(to, "--to"):
        return _write(place, to, format_, pick, step)


def _write(place: str, to: Path, format_: str, pick: str | None, step: int | None) -> Exported:
    if format_ == MASKS:
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
    names = ("recipe.json", "profile.csv", "profile.json")
    paths = (to,) if to.suffix else tuple(to / name for name in names)
    for path in paths:
        if path.suffix == ".json" and not path.stem.startswith("profile"):
            write_recipe(path, entry.recipe, front.origin)
        else:
            write_profile(path, entry.recipe, front.layout)
    return Exported(entry.recipe.key, paths)


def _llmcompressor(front: Front, entry: Entry, to: Path) -> Exported:
    from optishear.interchange.modules import linear_modules

    modules = linear_modules(str(front.origin.pinned_model))
    written = llmcompressor_recipe(entry.recipe, front.layout, modules, front.origin)
    replace_file(to, written.text.encode())
    return Exported(entry.recipe.key, (to,), written.notes)


def _masks(checkpoint: str, to: Path) -> Exported:
    """A checkpoint that optishear did not write has masks, too, but nobody knows of which model."""
    from optishear.interchange.masks import write_masks
    from optishear.models.discover import layout_of
    from optishear.models.load import load
    from optishear.tools.named import nonzero_masks

    loaded = load(checkpoint)
    masks = nonzero_masks(loaded.model, layout_of(loaded.model), checkpoint)
    origin, key = _origin_of(loaded.folder)
    size = write_masks(to, masks, origin, key)
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    notes = [f"{len(masks)} masks, {100 * (1 - kept / total):.2f} % zeros, {size / 1e6:.2f} MB"]
    if origin.model_hash is None:
        notes.append(
            f"{checkpoint} does not say which dense model it was made of, so `optishear prune "
            f"--mask-from` will ask for --any-model"
        )
    return Exported(key, (to,), tuple(notes))


def _origin_of(folder: Path) -> tuple[Origin, str | None]:
    """What a checkpoint's recipe file says, and the recipe's key; nothing where there is none."""
    from optishear.export.checkpoint import RECIPE_FILE

    path = folder / RECIPE_FILE
    if not path.exists():
        return Origin(), None
    recipe, origin = read_recipe(path)
    return origin, recipe.key
