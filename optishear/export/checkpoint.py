"""A pruned checkpoint that `AutoModelForCausalLM.from_pretrained` loads, and the proof that it is.

Dense safetensors with zeros in place: what transformers, vLLM and others read. It is no smaller
than the dense checkpoint, and no faster by itself.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from optishear.calibration.origin import Origin, write_recipe
from optishear.errors import ConfigError, StorageError
from optishear.export.place import ANOTHER, RECIPE_FILE, seal
from optishear.models.catalog import quiet_transformers
from optishear.models.discover import layout_of
from optishear.models.finite import not_finite
from optishear.models.load import LoadedModel, load
from optishear.models.weights import read
from optishear.pruning.result import LayerReport
from optishear.recipe.layout import Layer, ModelLayout
from optishear.recipe.pattern import NofM
from optishear.recipe.recipe import Recipe
from optishear.records.atomic import whole_folder
from optishear.records.run_directory import write_json


if TYPE_CHECKING:
    from transformers import PreTrainedModel

REPORT_FILE = "optishear_layers.json"

AT_ONCE = 2**22  # numbers compared at a time: an embedding is a large part of the memory


@dataclass(frozen=True)
class Checked:
    """What the reopened checkpoint was found to hold; `notes` are the layers' own, and
    whatever else its maker has to say."""

    folder: Path
    sparsity: float
    dtype: str
    layers: int
    bytes: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        folder: Path,
        layout: ModelLayout,
        recipe: Recipe,
        dtype: str,
        reports: Sequence[LayerReport] = (),
    ) -> "Checked":
        """A folder whose checks were passed, with its size."""
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        notes = tuple(f"{report.name}: {note}" for report in reports for note in report.notes)
        return cls(folder, layout.sparsity(recipe.drop), dtype, len(layout.layers), size, notes)

    def noting(self, note: str | None) -> "Checked":
        """The same with a note before the others; None is none."""
        return self if note is None else replace(self, notes=(note, *self.notes))


def write_checkpoint(
    loaded: LoadedModel,
    layout: ModelLayout,
    recipe: Recipe,
    folder: Path,
    origin: Origin,
    probe: Int[Tensor, "batch seq"],
    reports: Sequence[LayerReport] = (),
) -> Checked:
    """Saves the model as it is now, then reopens it and compares; half a checkpoint is never left.

    It is written in the dtype in which the dense checkpoint was stored if that loses nothing, else
    in the dtype in memory. `probe` are tokens on which the logits of both must be equal. `reports`
    are written beside it: what each layer lost, at which cost and damping, and why it was raised.
    """
    with whole_folder(folder.resolve(), ANOTHER) as half:
        dtype = _save(loaded, half)
        write_reports(half, reports)
        _check(loaded, layout, recipe, half, probe)
        seal(half)
        write_recipe(half / RECIPE_FILE, recipe, origin)
    return Checked.of(folder, layout, recipe, dtype, reports)


def write_reports(folder: Path, reports: Sequence[LayerReport]) -> None:
    if reports:
        write_json(folder / REPORT_FILE, [asdict(report) for report in reports])


def write_tokenizer_and_dtype(loaded: LoadedModel, folder: Path, dtype: torch.dtype) -> None:
    """Completes what `save_pretrained` wrote: it puts down the dtype in memory, not that of the
    tensors it was given, and the class in memory, where the dense checkpoint may name another."""
    loaded.tokenizer.save_pretrained(folder)
    config = folder / "config.json"
    text = json.loads(config.read_text(encoding="utf-8")) | {"dtype": dtype_text(dtype)}
    dense = json.loads((loaded.folder / "config.json").read_text(encoding="utf-8"))
    if "architectures" in dense:
        text["architectures"] = dense["architectures"]
    config.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def dtype_text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def loses_nothing(tensors: Iterable[Tensor], dtype: torch.dtype) -> bool:
    """Whether all of them that are floating point are the same numbers in `dtype`."""
    return all(
        torch.equal(piece, piece.to(dtype).to(piece.dtype))
        for tensor in tensors
        if tensor.is_floating_point() and tensor.dtype != dtype
        for piece in tensor.reshape(-1).split(AT_ONCE)
    )


def _save(loaded: LoadedModel, folder: Path) -> str:
    """Returns the name of the dtype in which the weights were written."""
    model, wanted = cast("PreTrainedModel", loaded.model), loaded.stored_dtype
    lossless = loses_nothing(model.state_dict().values(), wanted)
    dtype = wanted if lossless else next(model.parameters()).dtype
    state, converted = {}, {}
    for key, tensor in model.state_dict().items():
        # Tied weights are one tensor after the conversion too, or the file would hold them twice.
        same = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if same not in converted:
            converted[same] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        state[key] = converted[same]
    with quiet_transformers():
        model.save_pretrained(folder, state_dict=state)
    write_tokenizer_and_dtype(loaded, folder, dtype)
    return dtype_text(dtype)


@torch.no_grad()
def _check(
    loaded: LoadedModel,
    layout: ModelLayout,
    recipe: Recipe,
    folder: Path,
    probe: Int[Tensor, "batch seq"],
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
    tokens = probe.to(parameter.device)
    check_logits(logits_of(again.model, tokens), logits_of(loaded.model, tokens), folder)


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
    """Under an N:M pattern, what is wrong with the groups of a layer, in a sentence, or None."""
    pattern = recipe.pattern_object
    if not isinstance(pattern, NofM):
        return None
    each = recipe.drop[layer.name] // pattern.step(layer)
    zeros = zeros_by_group(weight, pattern.m)
    if (broken := int((zeros < each).sum())) == 0:
        return None
    return (
        f"{layer.name}: a group of {pattern.m} has {int(zeros.min())} zeros, the recipe asks for "
        f"{each}; {broken} of {len(zeros)} groups have too few."
    )


def zeros_by_group(weight: Tensor, m: int) -> Int[Tensor, " groups"]:
    """How many of every m consecutive inputs of a row are zero."""
    return (weight == 0).reshape(-1, m).sum(1)


@torch.no_grad()
def logits_of(model: nn.Module, tokens: Int[Tensor, "batch seq"]) -> Tensor:
    return model(tokens, use_cache=False).logits
