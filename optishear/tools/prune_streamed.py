"""One recipe, one folder, and a model that need not fit into memory: `optishear prune --stream`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
from torch import Tensor

from optishear.calibration.gradients import LayerGradients
from optishear.calibration.origin import write_recipe
from optishear.calibration.streamed_gradients import BlockByBlock
from optishear.errors import ConfigError
from optishear.export.checkpoint import (
    RECIPE_FILE,
    Checked,
    check_layout,
    check_logits,
    check_zeros,
    dtype_text,
    logits_of,
    rewritten_of,
)
from optishear.export.half_done import half_done, sweep
from optishear.export.place import STATE_FOLDER, place_for, seal
from optishear.models.blocks import BlockStack, proved
from optishear.models.folder import ModelFolder
from optishear.models.load import DTYPES
from optishear.models.streamed import Streamed, stream
from optishear.models.weights import read
from optishear.pruning.block_loop import apply_by_block
from optishear.pruning.rounded import rounded
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import lookup
from optishear.recipe.recipe import Recipe
from optishear.records.cache import KINDS, library_version
from optishear.runs.preconditions import text_for
from optishear.runs.prepare import Prepared, warn_of_little
from optishear.runs.watcher import Watcher
from optishear.solvers.methods import needs_of
from optishear.tasks import Batch
from optishear.tools.prune import (
    PROBE_TOKENS,
    SILENT,
    How,
    check_on,
    check_what_is_there,
    found_elsewhere,
    origin_of,
    stored_dtypes,
)
from optishear.tools.streamed_blocks import StreamedBlocks
from optishear.workers.layers import pruning_with


def prune_streamed(
    model: str,
    recipe_for: Callable[[Prepared], Recipe],
    folder: Path,
    how: How,
    watcher: Watcher = SILENT,
) -> tuple[Checked, bool]:
    """What `prune_to` does, with one decoder block in memory at a time; the same numbers come out.

    `recipe_for` may look at the layout and the identity of what is prepared, not at its weights.
    A second call with the same arguments goes on with the first block that is not done; with
    others it is a `ConfigError`.
    """
    with place_for(folder, STATE_FOLDER) as finished:
        return _prune_streamed(model, recipe_for, folder, how, watcher, finished)


def _prune_streamed(
    model: str,
    recipe_for: Callable[[Prepared], Recipe],
    folder: Path,
    how: How,
    watcher: Watcher,
    finished: bool,
) -> tuple[Checked, bool]:
    if how.around is not None:
        raise ConfigError(
            "--stream --one-shot: the recipe was found with statistics of the model as another "
            "recipe prunes it, which one block at a time has not. Leave one of them out."
        )
    watcher.stage(f"reading {model} block by block")
    streamed = stream(model, dtype=how.dtype, device=how.device, saved_as=how.save_dtype)
    layout = streamed.layout()
    calibration = text_for(streamed.loaded, how.calibration)
    place = streamed.device.type
    prepared = Prepared(streamed.loaded, layout, calibration, how.batch_tokens, place=place)
    warn_of_little(prepared)
    coverage = prepared.coverage
    recipe = replace(recipe_for(prepared), **how.beyond)
    check_on(prepared, recipe)
    origin = origin_of(prepared, recipe, how)
    if finished:
        check_what_is_there(folder, recipe, origin, watcher)
        sweep(folder)
        stored = dtype_text(ModelFolder.of(str(folder)).stored_dtype)
        checked = Checked.of(folder, layout, recipe, stored, coverage)
        return checked.with_note(found_elsewhere(origin)), False
    libraries = {name: library_version(name) for name in KINDS["levels"].libraries}
    identity = {"recipe": recipe.key, **origin.to_json(), "libraries": libraries}
    rewritten = rewritten_of(streamed.loaded, layout)
    with half_done(folder, identity, rewritten) as half:
        if half.block == 0:
            watcher.stage("copying what is outside of the blocks")
            for part in half.outside:
                half.write(part)
        stack = _proved(streamed, _probe(prepared))
        backward = BlockByBlock(streamed, stack, layout, half.state_folder / "gradients")
        dense = prepared.calibrate(
            needs_of(recipe) & {LayerGradients},
            how.gradient_sequences,
            watcher.stage,
            collect_gradients=backward,
        )
        guide = prepared.guide(recipe, watcher.stage, backward.squares)
        done = f", {half.block} of {len(streamed.blocks)} are done" if half.block else ""
        watcher.stage(f"pruning block by block{done}")
        with pruning_with(how.workers, watcher.stage) as prune_layers:
            dtypes = stored_dtypes(prepared, recipe)
            source = StreamedBlocks(streamed, stack, layout, half, _probe(prepared))
            apply_by_block(
                source,
                recipe,
                prepared.batches,
                sequential=how.sequential,
                gradients=dense.data.gradients,
                guide=guide,
                progress=watcher.pruned,
                prune_layers=rounded(prune_layers, dtypes),
                dtypes=dtypes,
            )
            want = source.logits()
        watcher.stage("checking the checkpoint")
        notes = half.finish(coverage)
        _check(folder, layout, recipe, how, _probe(prepared), want)
        seal(folder)
        write_recipe(folder / RECIPE_FILE, recipe, origin)
    sweep(folder)
    stored = dtype_text(rewritten.dtype)
    checked = Checked.of(
        folder, layout, recipe, stored, coverage, half.reports, notes, half.windows
    )
    return checked.with_note(found_elsewhere(origin)), True


def _proved(streamed: Streamed, probe: Batch) -> BlockStack:
    """The blocks, which are handed nothing but hidden states; reads the checkpoint three times."""
    instead = "Prune it without --stream, with `--one-shot`."
    return proved(streamed.loaded.model, probe, refused="run", instead=instead)


def _probe(prepared: Prepared) -> Batch:
    return prepared.probe(PROBE_TOKENS)


def _check(
    folder: Path,
    layout: ModelLayout,
    recipe: Recipe,
    how: How,
    probe: Batch,
    want: Tensor,
) -> None:
    """Reopens what was written, a block at a time: its layers, its zeros, its logits."""
    again = stream(str(folder), dtype=how.dtype, device=how.device)
    check_layout(again.layout(), layout, folder)
    for block, part in enumerate(again.blocks):
        with again.resident(part):
            for layer in layout.layers:
                if layer.block == block:
                    check_zeros(read(again.loaded.model, layer), layer, recipe)
    check_logits(logits_of(again.loaded.model, probe), want, folder)


def room_note(model: str, dtype: str, device: str) -> str | None:
    """A sentence where the whole model, dense and pruned, would not fit into the free memory."""
    if device != "cpu":
        return None
    needed = 2 * ModelFolder.of(model).numbers * lookup(DTYPES, dtype, kind="dtype").itemsize
    free = psutil.virtual_memory().available
    if needed <= free:
        return None
    return (
        f"{model} in {dtype} and its pruned copy take about {needed / 1e9:.3g} GB, "
        f"{free / 1e9:.3g} GB are free; --stream has one block of it in memory at a time"
    )
