"""Verification of a checkpoint folder: all checks that can be made; those that cannot say why."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optishear.calibration.origin import SEQUENTIAL, Origin, read_recipe
from optishear.errors import ConfigError
from optishear.export.checkpoint import RECIPE_FILE
from optishear.export.verify.check import FAILED, OK, UNCHECKED, Check
from optishear.export.verify.dense import (
    check_architecture,
    check_kept,
    check_others,
    check_tied,
    compare,
)
from optishear.export.verify.files import (
    StoredFiles,
    check_dtype,
    check_files,
    check_finite,
    dtype_name,
    survey,
)
from optishear.export.verify.model import (
    Opened,
    check_groups,
    check_keys,
    check_recipe,
    check_reload,
    check_zeros_of,
    open_plainly,
)
from optishear.models.as_stored import AsStored
from optishear.models.discover import layout_of
from optishear.models.folder import ModelFolder
from optishear.models.load import AS_STORED
from optishear.models.weights import read
from optishear.pruning.beside import changed_beside
from optishear.recipe.layout import ModelLayout
from optishear.recipe.metric_forms import GIVEN
from optishear.recipe.parts import Parts
from optishear.recipe.recipe import Recipe
from optishear.runs.prepare import BATCH_TOKENS, GRADIENT_SEQUENCES
from optishear.runs.watcher import Watcher
from optishear.text.tokens import token_batches
from optishear.tools.prune import pruned


CHECKS = (
    "files",
    "dtype",
    "finite",
    "keys",
    "reload",
    "recipe",
    "zeros",
    "n:m groups",
    "dense model",
    "kept weights",
    "other tensors",
    "tied",
)
AGAIN = "again"


def verify(
    folder: Path, against: str | None, again: bool, device: str, watcher: Watcher
) -> list[Check]:
    """A check for every name in `CHECKS`, and `again` if asked for.

    - `against`: the dense model; None is the one that the recipe was made with, if it says.
    - `again`: prune anew as the recipe says, on `device`, and compare bit for bit.

    Raises a `ConfigError` where the folder is no checkpoint or `against` cannot be loaded.
    Memory: the model, and a block of both beside it; with `again` two models.
    """
    config = _config(folder)
    found: dict[str, Check] = {}

    def tell(check: Check) -> Check:
        found[check.name] = check
        return check

    why = _look(folder, config, against, again, device, watcher, tell)
    names = (*CHECKS, AGAIN) if again else CHECKS
    return [found.get(name) or Check(name, UNCHECKED, why) for name in names]


def _look(
    folder: Path,
    config: Mapping[str, Any],
    against: str | None,
    again: bool,
    device: str,
    watcher: Watcher,
    tell: Callable[[Check], Check],
) -> str:
    """Makes the checks; returns why those that were not made could not be."""
    watcher.stage("reading the files")
    stored = survey(folder)
    tell(check_files(stored))
    if stored.damage:
        return "The weights cannot be read."
    recipe, origin = _recipe(folder, tell)
    tell(check_dtype(stored, config, origin.save_dtype))
    finite = tell(check_finite(stored)).status == OK
    watcher.stage("opening it with transformers")
    dtype = dtype_name(stored)
    try:
        opened = open_plainly(folder, dtype)
        if tell(check_keys(opened)).status == FAILED and opened.missing:
            return "Tensors are missing, transformers fills them with random numbers."
        layout = layout_of(opened.model)
    except ConfigError as error:
        tell(Check("reload", FAILED, str(error)))
        return "The model cannot be opened."
    model = opened.model
    if recipe is not None and tell(check_recipe(recipe, layout)).status == FAILED:
        recipe = None
    watcher.stage("counting zeros")
    tell(check_zeros_of(model, layout, recipe))
    tell(check_groups(model, layout, recipe))
    if not finite:
        return "Some weights are NaN or infinite."
    tell(check_reload(folder, model, dtype))
    why = _beside_dense(
        folder, config, opened, layout, recipe, origin, against, stored, watcher, tell
    )
    if again:
        watcher.stage("pruning anew")
        tell(_again(folder, stored, layout, recipe, origin, against, device))
    return why


def _beside_dense(
    folder: Path,
    config: Mapping[str, Any],
    opened: Opened,
    layout: ModelLayout,
    recipe: Recipe | None,
    origin: Origin,
    against: str | None,
    stored: StoredFiles,
    watcher: Watcher,
    tell: Callable[[Check], Check],
) -> str:
    model, name = opened.model, against or origin.pinned_model
    if name is None:
        tell(check_tied(model, None, stored))
        return "Nothing says which the dense model is: name it with --against."
    watcher.stage(f"comparing with {name}")
    try:
        found = ModelFolder.of(name)
        dense = AsStored(found.path, found.weights)
    except ConfigError as error:
        if against is not None:
            raise
        tell(check_tied(model, None, stored))
        return f"The dense model cannot be had, name it with --against: {error}"
    here = found.hash()
    same = tell(_dense_check(model, layout, dense, name, here, origin, against)).status
    if same == FAILED:
        tell(check_tied(model, None, stored))
        return "It is not the dense model that this was made of."
    tell(check_dtype(stored, config, origin.save_dtype, dense.files))
    tell(check_keys(opened, dense.unknown))
    solvers = recipe and {x.name: _solver(recipe.at(x)) for x in layout.layers}
    moving = None if recipe is None else recipe.reconstruct
    others = [] if recipe is None else changed_beside(model, layout, recipe)
    beside = compare(AsStored(folder.resolve(), stored.files), dense, layout, others)
    tell(check_kept(beside, solvers, moving is not None))
    tell(check_others(beside))
    tell(check_tied(model, dense, stored))
    return ""


def _solver(parts: Parts) -> str:
    """What decides whether kept weights are the dense ones: a mask's are, unless it is of a shifted
    target."""
    name = parts.solver.name
    return f"{name} of a shifted target" if parts.quadratic.target_shift else name


def _dense_check(
    model: Any,
    layout: ModelLayout,
    dense: AsStored,
    name: str,
    here: str,
    origin: Origin,
    against: str | None,
) -> Check:
    check = check_architecture(model, layout, dense)
    said = origin.model_hash or here
    if check.status == FAILED or said == here:
        return check
    told = f"The recipe was made with a model of hash {said}, {name} has {here}."
    if against is None:
        return Check(check.name, FAILED, told)
    return Check(check.name, check.status, check.found, (told,))  # as asked for


def _recipe(folder: Path, tell: Callable[[Check], Check]) -> tuple[Recipe | None, Origin]:
    path = folder / RECIPE_FILE
    if not path.exists():
        tell(Check("recipe", UNCHECKED, f"There is no {RECIPE_FILE} in the folder."))
        return None, Origin()
    try:
        return read_recipe(path)
    except ConfigError as error:
        tell(Check("recipe", FAILED, str(error)))
        return None, Origin()


def _again(
    folder: Path,
    stored: StoredFiles,
    layout: ModelLayout,
    recipe: Recipe | None,
    origin: Origin,
    against: str | None,
    device: str,
) -> Check:
    """Prunes as recipe and origin say, and compares every layer bit for bit."""
    if recipe is None:
        return Check(AGAIN, UNCHECKED, "There is no recipe that fits.")
    if any(parts.metric.name == GIVEN for parts in recipe.every):
        return Check(AGAIN, UNCHECKED, "The recipe keeps a given mask, which is not in the folder.")
    wanted = ("model", "dtype", "mode", "calibration", "calibration_hash")
    if lacking := origin.lacks(*wanted):
        return Check(AGAIN, UNCHECKED, f"made_with does not say: {', '.join(lacking)}.")
    assert origin.calibration is not None  # it lacks nothing
    with pruned(
        against or str(origin.model),
        recipe,
        origin.calibration,
        str(origin.dtype),
        device,
        origin.mode == SEQUENTIAL,
        origin.gradient_sequences or GRADIENT_SEQUENCES,
        origin.batch_tokens or BATCH_TOKENS,
        origin.calibration_parts or 1,
        origin.save_dtype or AS_STORED,
        origin.around,
    ) as anew:
        hash_ = token_batches(origin.calibration, anew.tokenizer).hash
        apart, ours = {}, AsStored(folder.resolve(), stored.files)
        for block, names in enumerate(ours.parts[1:]):
            with ours.reading(names):
                for layer in (layer for layer in layout.layers if layer.block == block):
                    theirs = read(anew.model, layer).cpu()
                    same = read(ours.model, layer).to(theirs.dtype) == theirs
                    apart[layer.name] = int((~same).sum())
    if hash_ != origin.calibration_hash:
        return Check(
            AGAIN,
            FAILED,
            f"The calibration text is another one now (hash {hash_}, the recipe was applied with "
            f"{origin.calibration_hash}).",
        )
    worst = sorted((name for name in apart if apart[name]), key=lambda name: -apart[name])
    if worst:
        return Check(
            AGAIN,
            FAILED,
            f"Pruned anew, {sum(apart.values())} weights in {len(worst)} of {len(apart)} layers "
            f"come out another number (the same device and number of threads are needed).",
            tuple(f"{name}: {apart[name]} of {layout.sizes[name]}" for name in worst),
        )
    return Check(AGAIN, OK, f"Pruned anew, all {len(apart)} layers come out the same bit for bit.")


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; see to the path.")
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: is no checkpoint folder, for it has no config.json. Give the folder that "
            f"`optishear prune` or `save_pretrained` wrote."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is damaged ({error}). Write the checkpoint again.") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: is no configuration of a model. Write the checkpoint again.")
    return config
