"""Masks as a safetensors file of bits: which weights a model keeps, without the weights.

One uint8 tensor a layer, named as the layer, of ceil(out * in / 8) bytes. Weight (i, j) of the
layer, seen as [out, in] whatever the module stores, is bit number i * in + j, row by row; bit k is
bit k % 8 of byte k // 8, bit 0 the least significant. 1 is kept. Bits past the end are 0.

The header's metadata (strings, as safetensors has it) says under `optishear` as JSON: the format,
each layer's shape, a hash of all masks, and what is known of where they come from.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from optishear.calibration.origin import Origin
from optishear.errors import ConfigError
from optishear.reading.json_data import json_of
from optishear.recipe.layout import ModelLayout
from optishear.recipe.lookup import did_you_mean
from optishear.recipe.recipe import MADE_WITH
from optishear.records.atomic import replace_file


FORMAT = "optishear-masks/1"
KEY = "optishear"  # of the header's metadata
LAYOUT = "row-major bits of [out, in], least significant bit first, 1 is kept"

Masks = Mapping[str, Bool[Tensor, "out in"]]


def masks_hash(masks: Masks) -> str:
    """Of names and content, 16 hex digits, whatever file or checkpoint they were read from."""
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(name.encode())
        digest.update(masks[name].to(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def packed(mask: Bool[Tensor, "out in"]) -> UInt8[Tensor, " bytes"]:
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little"))


def unpacked(bits: UInt8[Tensor, " bytes"], shape: tuple[int, int]) -> Bool[Tensor, "out in"]:
    """Raises a `ValueError` where the bytes are too few or many, or bits past the end are set."""
    size = shape[0] * shape[1]
    flat = np.unpackbits(bits.numpy(), bitorder="little")
    if len(bits) != -(-size // 8):
        raise ValueError(f"{len(bits)} bytes for {size} weights")
    if flat[size:].any():
        raise ValueError("bits past its last weight are set")
    return torch.from_numpy(flat[:size].astype(bool)).view(shape)


def write_masks(path: Path, masks: Masks, origin: Origin, recipe_key: str | None) -> int:
    """Writes the file whole or not at all; returns its size in bytes. `recipe_key`: of the recipe
    that chose them, if it is known."""
    says = {
        "format": FORMAT,
        "bits": LAYOUT,
        "optishear": version("optishear"),
        "shapes": {name: list(mask.shape) for name, mask in masks.items()},
        "hash": masks_hash(masks),
        "model": origin.model,
        "model_hash": origin.model_hash,
        "recipe_key": recipe_key,
        MADE_WITH: origin.to_json(),
    }
    tensors = {name: packed(mask) for name, mask in masks.items()}
    content = save(tensors, {KEY: json.dumps(says, sort_keys=True, allow_nan=False)})
    replace_file(path, content)
    return len(content)


def read_masks(
    path: Path, layout: ModelLayout, model_hash: str, any_model: bool = False
) -> dict[str, Bool[Tensor, "out in"]]:
    """The masks of a file for a model of this layout and hash, by layer.

    Raises a `ConfigError` where the file is no such file, or is damaged, or was made for another
    model. `any_model`: another model, or an unknown one, is fine as long as names and shapes are
    the same; a fine-tuned model can take the masks of the one that it comes from.
    """
    says, bits = _open(path)
    shapes = _shapes(says, path)
    _check_layout(path, shapes, layout)
    found = says.get("model_hash")
    if found != model_hash and not any_model:
        made = f"were made for {says.get('model')!r} with the hash {found}"
        raise ConfigError(
            f"{path}: its masks {made if found else 'do not say for which model they were made'}, "
            f"the model to prune has {model_hash}. Name the right model, or add --any-model if it "
            f"is a descendant of it."
        )
    masks = {}
    for name, shape in shapes.items():
        if name not in bits or bits[name].dtype != torch.uint8 or bits[name].ndim != 1:
            raise ConfigError(f"{path}: is damaged ({name} has no bits in it). Write it again.")
        try:
            masks[name] = unpacked(bits[name], shape)
        except ValueError as error:
            raise ConfigError(f"{path}: is damaged ({name}: {error}). Write it again.") from None
    if masks_hash(masks) != says.get("hash"):
        raise ConfigError(f"{path}: is damaged (its masks have another hash). Write it again.")
    return {layer.name: masks[layer.name] for layer in layout.layers}


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the header says under `optishear`, and the tensors."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such mask file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            bits = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, struct.error, OSError) as error:
        raise ConfigError(f"{path}: is no safetensors file that can be read ({error}).") from None
    if KEY not in metadata:
        raise ConfigError(
            f"{path}: is no mask file of optishear. `optishear export CHECKPOINT --format masks` "
            f"writes one; a checkpoint is named by its folder."
        )
    says = json_of(metadata[KEY], f"{path}: is damaged, its metadata", "Write it again.")
    if not isinstance(says, dict) or says.get("format") != FORMAT:
        told = says.get("format") if isinstance(says, dict) else says
        raise ConfigError(f"{path}: its format is {told!r}, this version reads {FORMAT!r}.")
    return says, bits


def _shapes(says: Mapping[str, Any], path: Path) -> dict[str, tuple[int, int]]:
    shapes = says.get("shapes")
    good = isinstance(shapes, dict) and all(
        isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)
        for shape in shapes.values()
    )
    if not good:
        raise ConfigError(f"{path}: is damaged (it does not say its shapes). Write it again.")
    return {name: (out, in_) for name, (out, in_) in shapes.items()}  # type: ignore[union-attr]


def _check_layout(path: Path, shapes: Mapping[str, tuple[int, int]], layout: ModelLayout) -> None:
    for name in shapes:
        if name not in layout.by_name:
            raise ConfigError(
                f"{path}: has a mask for {name!r}, a layer that the model to prune lacks."
                f"{did_you_mean(name, layout.by_name)} Was it made for another model?"
            )
    for layer in layout.layers:
        want = (layer.out_features, layer.in_features)
        if layer.name not in shapes:
            raise ConfigError(
                f"{path}: has no mask for {layer.name!r}. Was it made for another model?"
            )
        if shapes[layer.name] != want:
            raise ConfigError(
                f"{path}: the mask for {layer.name!r} is {list(shapes[layer.name])}, the layer is "
                f"{list(want)}. Was it made for another model?"
            )
