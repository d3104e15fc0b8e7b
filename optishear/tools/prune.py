"""One recipe, one model, one folder: what `optishear prune` does."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.origin import (
    BYTES,
    ONE_SHOT,
    SEQUENTIAL,
    Around,
    Origin,
    read_recipe,
)
from optishear.errors import ConfigError
from optishear.export.checkpoint import Checked, dtype_text, rewritten_of, write_checkpoint
from optishear.export.place import RECIPE_FILE, place_for, refuse_changed, refuse_filled
from optishear.models.load import AS_STORED, LoadedModel, load
from optishear.models.stored import StoredTensors, dtypes_of
from optishear.models.weights import WorkingWeights, working_weights
from optishear.pruning.beside import changed_beside
from optishear.pruning.block_loop import InMemory, apply_by_block
from optishear.pruning.oneshot import PruneLayers, apply, prune, refuse_one_shot
from optishear.pruning.reconstruction import WindowReport
from optishear.pruning.result import LayerReport
from optishear.pruning.rounded import rounded
from optishear.recipe.recipe import Recipe
from optishear.runs.prepare import (
    BATCH_TOKENS,
    GRADIENT_SEQUENCES,
    Prepared,
    prepare,
)
from optishear.runs.watcher import Silent, Watcher
from optishear.solvers.methods import needs_of
from optishear.text.sources import TextSpec
from optishear.tools.named import NamedMethod, masks_of, recipe_of_masks
from optishear.tools.texts import usual_text
from optishear.workers.cluster import Workers
from optishear.workers.layers import pruning_with


if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 256  # of the calibration text: the reopened checkpoint must give equal logits

SILENT = Silent()

Masks = Mapping[str, Bool[Tensor, "out in"]]


@dataclass(frozen=True)
class How:
    """In which way a recipe is applied, beside what it says itself.

    - `sequential`: block by block, statistics of the already pruned model; else all layers with
      statistics of the dense model, or of another recipe's, as the search does.
    - `gradient_sequences`: of the calibration text, each a sample of MOONSHOT's Fisher term.
    - `batch_tokens`, `calibration_parts`: how statistics are summed up, which decides last bits;
      the parts where not `sequential`.
    - `found_with`: what the file of the recipe says of itself.
    - `save_dtype`: of all tensors written, or `AS_STORED`: each in that of the dense files. `dtype`
      is only what is computed in.
    - `beyond`: fields that a recipe is given in place of its own.
    - `workers`: solve the layers; they change no bit where each has this process' threads.
    """

    calibration: TextSpec
    dtype: str = "float32"
    device: str = "cpu"
    sequential: bool = True
    gradient_sequences: int = GRADIENT_SEQUENCES
    batch_tokens: int = BATCH_TOKENS
    calibration_parts: int = 1
    found_with: Origin | None = None
    save_dtype: str = AS_STORED
    workers: Workers = field(default_factory=lambda: Workers.of(1))
    beyond: Mapping[str, Any] = field(default_factory=dict)

    @property
    def around(self) -> Around | None:
        """What the statistics are of, where a recipe was found around another one."""
        found = self.found_with
        return None if self.sequential or found is None else found.around


@dataclass(frozen=True)
class Applied:
    """What became of a recipe's layers, and what reconstructions gained."""

    reports: list[LayerReport]
    windows: list[WindowReport] = field(default_factory=list)


def workers_for(number: int, device: str, address: str) -> Workers:
    """So many for a prune: each with its share of the cores, but no more than this process uses."""
    if address and number == 1:
        raise ConfigError(
            "--ray-address: one worker is this process, which needs no cluster. Give --workers."
        )
    shared = Workers.of(number, None, device, address)
    return replace(shared, threads=min(shared.threads, torch.get_num_threads()))


def apply_to(
    prepared: Prepared,
    working: WorkingWeights,
    recipe: Recipe,
    sequential: bool,
    gradient_sequences: int = GRADIENT_SEQUENCES,
    given: Masks | None = None,
    watcher: Watcher = SILENT,
    prune_layers: PruneLayers = prune,
) -> Applied:
    """Writes the recipe's weights into the model's working weights, those that change rounded to
    what the files hold; collects what that needs."""
    needs, layout, dtypes = needs_of(recipe), prepared.layout, stored_dtypes(prepared, recipe)
    prune_layers = rounded(prune_layers, dtypes)
    guide = prepared.guide(recipe, watcher.stage)
    if not sequential:
        refuse_one_shot(recipe, prepared.around is not None)
        watcher.stage("collecting statistics")
        calibrated = prepared.calibrate(needs, gradient_sequences, watcher.stage, guide=guide)
        data = calibrated.data.with_masks(given or {})
        watcher.stage("pruning layer by layer")
        return Applied(apply(layout.layers, working, data, recipe, prune_layers, dtypes))
    dense = prepared.calibrate(needs & {LayerGradients}, gradient_sequences, watcher.stage)
    watcher.stage("pruning block by block")
    source = InMemory(prepared.loaded.model, working, layout)
    reports = apply_by_block(
        source,
        recipe,
        prepared.batches,
        gradients=dense.data.gradients,
        given=given,
        guide=guide,
        progress=watcher.pruned,
        prune_layers=prune_layers,
        dtypes=dtypes,
    )
    return Applied(reports, source.windows)


def check_on(prepared: Prepared, recipe: Recipe) -> None:
    """Raises a `ConfigError` unless the recipe says what this model can be."""
    recipe.check(prepared.layout)
    changed_beside(prepared.loaded.model, prepared.layout, recipe)


def stored_dtypes(prepared: Prepared, recipe: Recipe) -> dict[str, tuple[torch.dtype, ...]]:
    """By layer the types in which its weight is written; and by name of other parameters that the
    recipe moves."""
    loaded, layout = prepared.loaded, prepared.layout
    model, stored = cast("PreTrainedModel", loaded.model), StoredTensors.of(loaded.folder)
    others = changed_beside(model, layout, recipe)
    return dtypes_of(model, layout, stored, loaded.saved_as, others)


def prune_to(
    model: str,
    recipe_for: Callable[[Prepared], Recipe] | None,
    folder: Path,
    how: How,
    mask_from: tuple[str, bool] | None = None,
    watcher: Watcher = SILENT,
    any_model: bool = False,
) -> tuple[Checked, bool]:
    """Writes the pruned checkpoint and checks it; False where the folder already held just this.

    Either `recipe_for`, or `mask_from`: another checkpoint or a mask file, and whether to refit its
    mask. `any_model` takes a mask file that was made for another model.
    """
    with place_for(folder) as finished:
        return _prune_to(model, recipe_for, folder, how, mask_from, watcher, any_model, finished)


def _prune_to(
    model: str,
    recipe_for: Callable[[Prepared], Recipe] | None,
    folder: Path,
    how: How,
    mask_from: tuple[str, bool] | None,
    watcher: Watcher,
    any_model: bool,
    finished: bool,
) -> tuple[Checked, bool]:
    prepared = prepare(
        model,
        how.dtype,
        how.device,
        how.calibration,
        how.batch_tokens,
        how.calibration_parts,
        saved_as=how.save_dtype,
        around=how.around,
    )
    masks: dict[str, Bool[Tensor, "out in"]] = {}
    if mask_from is not None:
        masks = masks_of(mask_from[0], prepared.layout, prepared.loaded.hash, any_model)
        recipe = recipe_of_masks(masks, refit=mask_from[1])
    elif recipe_for is not None:
        recipe = recipe_for(prepared)
    else:
        raise ValueError("Neither a recipe nor a mask was given.")
    recipe = replace(recipe, **how.beyond)
    check_on(prepared, recipe)
    origin = origin_of(prepared, recipe, how)
    if finished:
        check_what_is_there(folder, recipe, origin, watcher)
        stored = load(str(folder), dtype=how.dtype, device=how.device).stored_dtype
        dtype = dtype_text(stored)
        checked = Checked.of(folder, prepared.layout, recipe, dtype, prepared.coverage)
        return checked.with_note(found_elsewhere(origin)), False
    probe = prepared.probe(PROBE_TOKENS)
    rewritten = rewritten_of(prepared.loaded, prepared.layout)
    with (
        pruning_with(how.workers, watcher.stage) as prune_layers,
        working_weights(prepared.loaded.model, prepared.layout) as working,
    ):
        applied = apply_to(
            prepared,
            working,
            recipe,
            how.sequential,
            how.gradient_sequences,
            masks,
            watcher,
            prune_layers,
        )
        watcher.stage("writing and checking the checkpoint")
        checked = write_checkpoint(
            prepared.loaded,
            rewritten,
            prepared.layout,
            recipe,
            folder,
            origin,
            probe,
            prepared.coverage,
            applied.reports,
            applied.windows,
        )
    return checked.with_note(found_elsewhere(origin)), True


def origin_of(prepared: Prepared, recipe: Recipe, how: How) -> Origin:
    """On what a pruned checkpoint is made."""
    samples = None
    if LayerGradients in needs_of(recipe):
        samples = min(how.gradient_sequences, len(prepared.calibration))
    mode = SEQUENTIAL if how.sequential else ONE_SHOT
    origin = prepared.origin(how.calibration, mode, samples)
    return replace(origin, found_with=how.found_with, save_dtype=how.save_dtype)


def found_elsewhere(origin: Origin) -> str | None:
    """A sentence where a checkpoint's recipe was found on another model or other text."""
    return None if origin.found_with is None else origin.found_with.elsewhere(origin)


def check_what_is_there(folder: Path, recipe: Recipe, origin: Origin, watcher: Watcher) -> None:
    """Refuses a finished folder that holds another checkpoint, or not the bytes of this one."""
    watcher.stage("checking what is there")
    if not holds(folder, recipe, origin):
        refuse_filled(folder)
    refuse_changed(folder)


def holds(folder: Path, recipe: Recipe, origin: Origin) -> bool:
    """Whether the folder is a checkpoint made by this recipe of just this."""
    path = folder / RECIPE_FILE
    if not path.exists():
        return False
    stored, said = read_recipe(path)
    needed = ("model_hash", "dtype", "save_dtype", "calibration_hash", "mode", "code")
    return stored == recipe and not said.lacks(*needed) and not said.differs(origin, *BYTES)


@contextmanager
def pruned(
    model: str,
    recipe: Recipe | NamedMethod,
    calibration: TextSpec | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    sequential: bool = True,
    gradient_sequences: int = GRADIENT_SEQUENCES,
    batch_tokens: int = BATCH_TOKENS,
    calibration_parts: int = 1,
    save_dtype: str = AS_STORED,
    around: Around | None = None,
) -> Iterator[LoadedModel]:
    """The model with the recipe applied, for as long as the context is open: the numbers that
    `prune` writes, in `dtype`.

    `calibration` None is the model's usual text (for `embedded` its own train split, else the
    Wikipedia passages). `around`: of a recipe that was found around another one, if one-shot.
    """
    text = calibration or usual_text(model, "train")
    prepared = prepare(
        model,
        dtype,
        device,
        text,
        batch_tokens,
        calibration_parts,
        saved_as=save_dtype,
        around=None if sequential else around,
    )
    if isinstance(recipe, NamedMethod):
        recipe = recipe.on(prepared)
    check_on(prepared, recipe)
    with working_weights(prepared.loaded.model, prepared.layout) as working:
        apply_to(prepared, working, recipe, sequential, gradient_sequences)
        yield prepared.loaded
