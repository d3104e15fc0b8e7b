"""A pruned checkpoint that transformers loads as it loads the dense one, and the proof that it is.

Dense safetensors with zeros in place: what transformers, vLLM and others read. It is no smaller
than the dense checkpoint, and no faster by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from optishear.calibration.origin import Origin, write_recipe
from optishear.errors import ConfigError, StorageError
from optishear.export.carried import carry
from optishear.export.place import ANOTHER, HASHES_FILE, RECIPE_FILE, REPORT_FILE, seal
from optishear.export.rewritten import Rewritten
from optishear.models.coverage import Coverage
from optishear.models.discover import layout_of
from optishear.models.finite import not_finite
from optishear.models.load import LoadedModel, load
from optishear.models.stored import StoredTensors
from optishear.models.weights import read
from optishear.pruning.reconstruction import WindowReport, notes_of
from optishear.pruning.result import LayerReport
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.recipe import Recipe
from optishear.records.atomic import whole_folder
from optishear.records.run_directory import write_json
from optishear.solvers.masks import in_groups
from optishear.tasks import Batch, task_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel

WINDOWS_FILE = "optishear_windows.json"
COVERAGE_FILE = "optishear_coverage.json"

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Checked:
    """What the reopened checkpoint was found to hold; `notes` are the layers' own, on what was not
    carried over, and whatever else its maker has to say. `dtype` is that of most numbers.
    `sparsity` is of the prunable weights, which are what `coverage` says."""

    folder: Path
    sparsity: float
    dtype: str
    layers: int
    bytes: int
    coverage: Coverage
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        folder: Path,
        layout: ModelLayout,
        recipe: Recipe,
        dtype: str,
        coverage: Coverage,
        reports: Sequence[LayerReport] = (),
        notes: Sequence[str] = (),
        windows: Sequence[WindowReport] = (),
    ) -> "Checked":
        """A folder whose checks were passed, with its size."""
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        told = (f"{report.name}: {note}" for report in reports for note in report.notes)
        layers = len(layout.layers)
        gained = (*told, *notes_of(windows), *notes)
        return cls(folder, layout.sparsity(recipe.drop), dtype, layers, size, coverage, gained)

    def with_note(self, note: str | None) -> "Checked":
        """The same with a note before the others; None is none."""
        return self if note is None else replace(self, notes=(note, *self.notes))


def write_checkpoint(
    loaded: LoadedModel,
    rewritten: Rewritten,
    layout: ModelLayout,
    recipe: Recipe,
    folder: Path,
    origin: Origin,
    probe: Batch,
    coverage: Coverage,
    reports: Sequence[LayerReport] = (),
    windows: Sequence[WindowReport] = (),
) -> Checked:
    """Saves the model as it is now, then reopens it and compares; half a checkpoint is never left.

    What is written is what `Rewritten` says. `probe`: samples on which the logits of both must be
    equal. Beside it are written the `coverage`; `reports`: what each layer lost, at which cost and
    damping, and why it was raised; and what reconstructions of `windows` gained.
    """
    with whole_folder(folder.resolve(), ANOTHER) as half:
        notes = _save(rewritten, half)
        write_reports(half, coverage, reports, windows)
        _check(loaded, layout, recipe, half, probe)
        seal(half)
        write_recipe(half / RECIPE_FILE, recipe, origin)
    dtype = dtype_text(rewritten.dtype)
    return Checked.of(folder, layout, recipe, dtype, coverage, reports, notes, windows)


def rewritten_of(loaded: LoadedModel, layout: ModelLayout) -> Rewritten:
    """What the files of this model's checkpoint are to be; a `ConfigError` where that cannot be."""
    model = cast("PreTrainedModel", loaded.model)
    return Rewritten(model, layout, StoredTensors.of(loaded.folder), loaded.saved_as)


def write_reports(
    folder: Path,
    coverage: Coverage,
    reports: Sequence[LayerReport],
    windows: Sequence[WindowReport],
) -> None:
    write_json(folder / COVERAGE_FILE, asdict(coverage))
    for name, found in ((REPORT_FILE, reports), (WINDOWS_FILE, windows)):
        if found:
            write_json(folder / name, [asdict(report) for report in found])


def dtype_text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def write_beside(rewritten: Rewritten, folder: Path) -> list[str]:
    """All that a checkpoint has beside its weights and our own files; notes on what it has not."""
    stored = rewritten.stored
    return carry(
        stored.folder,
        folder,
        stored.files,
        (RECIPE_FILE, REPORT_FILE, WINDOWS_FILE, COVERAGE_FILE, HASHES_FILE),
        rewritten.dtype,
        rewritten.saved_as,
    )


def write_index(folder: Path, files: Iterable[str]) -> None:
    """Which of these files has which tensor."""
    where: dict[str, str] = {}
    size = 0
    for name in files:
        with safe_open(folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                where[key] = name
                size += file.get_tensor(key).nbytes
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": where})


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """As a safetensors file that transformers reads."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})


def _save(rewritten: Rewritten, folder: Path) -> list[str]:
    """Cut into files as the dense checkpoint is, one of them and one block at a time in memory."""
    files = rewritten.stored.files
    whole = len(files) == 1 and files[0].name == WHOLE
    names = [WHOLE if whole else shard_name(number, len(files)) for number in range(len(files))]
    block, path = {}, None
    for name, file in zip(names, files, strict=True):
        keys = [key for key, where in rewritten.stored.file_of.items() if where == file]
        tensors = rewritten.outside(key for key in keys if rewritten.block_of(key) is None)
        inside = [key for key in keys if rewritten.block_of(key) is not None]
        for key in sorted(inside, key=lambda key: (rewritten.block_of(key) or "", key)):
            if rewritten.block_of(key) != path:
                path = rewritten.block_of(key) or ""
                block = rewritten.block(path)
            tensors[key] = block[key]
        save_tensors(tensors, folder / name)
    if not whole:
        write_index(folder, names)
    return write_beside(rewritten, folder)


def shard_name(number: int, of: int) -> str:
    """Of the shard of this number, from 0."""
    return f"model-{number + 1:05d}-of-{of:05d}.safetensors"


@torch.no_grad()
def _check(
    loaded: LoadedModel,
    layout: ModelLayout,
    recipe: Recipe,
    folder: Path,
    probe: Batch,
) -> None:
    parameter = next(loaded.model.parameters())
    again = load(
        str(folder),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
    )
    check_layout(layout_of(again.model), layout, folder)
    for layer in layout.layers:
        check_zeros(read(again.model, layer), layer, recipe)
    batch = probe.to(parameter.device)
    check_logits(logits_of(again.model, batch), logits_of(loaded.model, batch), folder)


def check_layout(found: ModelLayout, layout: ModelLayout, folder: Path) -> None:
    """Raises a `StorageError` unless the reopened model has the very same layers."""
    if found != layout:
        raise StorageError(f"{folder}: reopened with another layout ({len(found.layers)} layers).")


def check_logits(got: Tensor, want: Tensor, folder: Path) -> None:
    """Raises a `StorageError` unless the reopened model's logits are those that it had in memory,
    bit for bit; a `ConfigError` where those are not finite."""
    if not bool(want.isfinite().all()):
        raise ConfigError(not_finite(f"{folder}: what the pruned model makes of the text"))
    if not torch.equal(want, got):
        raise StorageError(
            f"{folder}: the reopened checkpoint's logits differ from those of the model in memory "
            f"by up to {(want - got).abs().max().item():.3g}. It is not finished."
        )


def check_zeros(weight: Tensor, layer: Layer, recipe: Recipe) -> None:
    """Raises a `StorageError` unless the layer has the zeros that its recipe asks for."""
    for wrong in (too_few_zeros(weight, layer, recipe), broken_groups(weight, layer, recipe)):
        if wrong is not None:
            raise StorageError(wrong)


def too_few_zeros(weight: Tensor, layer: Layer, recipe: Recipe) -> str | None:
    """What is wrong with the number of zeros, in a sentence, or None.

    There may be more than the recipe drops: a kept weight may have been zero before.
    """
    wanted, found = recipe.drop[layer.name], int((weight == 0).sum())
    if found >= wanted:
        return None
    return f"{layer.name}: {found} zeros were found, the recipe drops {wanted}."


def broken_groups(weight: Tensor, layer: Layer, recipe: Recipe) -> str | None:
    """What is wrong with the groups of the recipe's pattern in a layer, in a sentence, or None."""
    broken = groups = 0
    worst, wanted, size = 0, 0, 0
    for cut in recipe.at(layer).pattern.cuts(weight.shape, recipe.drop[layer.name]):
        zeros = (in_groups(weight[cut.rows, cut.columns], cut) == 0).sum(1)
        broken, groups = broken + int((zeros < cut.count).sum()), groups + len(zeros)
        if cut.count - int(zeros.min()) > wanted - worst:
            worst, wanted, size = int(zeros.min()), cut.count, cut.height * cut.width
    if not broken:
        return None
    return (
        f"{layer.name}: a group of {size} has {worst} zeros, the recipe asks for {wanted}; "
        f"{broken} of {groups} groups have too few."
    )


@torch.no_grad()
def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    return task_of(model).logits(model, batch)
