"""The tensors of a checkpoint as they lie in its files, and the names that a model has for them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from optishear.errors import ConfigError
from optishear.models.folder import STORED, ModelFolder
from optishear.models.load import AS_STORED, DTYPES
from optishear.models.weights import view_of
from optishear.recipe.layout import ModelLayout


# By name of a layer or another parameter, the types in which its numbers are written.
Dtypes = Mapping[str, tuple[torch.dtype, ...]]
STORED_AS_THEY_ARE: Dtypes = MappingProxyType({})


class StoredTensors:
    """The safetensors files of one checkpoint, read a tensor at a time.

    - `files`: sorted by name, those of `folder`. `file_of`: where each key is.
    """

    def __init__(self, files: Sequence[Path], folder: Path | None = None) -> None:
        self.files = tuple(files)
        self.folder = folder or files[0].parent
        self.file_of: dict[str, Path] = {}
        self._kinds: dict[str, str] = {}
        for path in self.files:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    self.file_of[key] = path
                    self._kinds[key] = file.get_slice(key).get_dtype()

    @classmethod
    def of(cls, folder: Path) -> "StoredTensors":
        """Those of a model's folder; a `ConfigError` where it is none."""
        found = ModelFolder.of(str(folder))
        return cls(found.weights, found.path)

    def dtype(self, key: str) -> torch.dtype | None:
        """In which it is stored; None where that is no dense floating type."""
        return STORED.get(self._kinds[key])

    @contextmanager
    def slices(self, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Handles of these tensors, which are read when they are indexed."""
        with ExitStack() as stack:
            wanted = sorted(keys)
            files = {
                path: stack.enter_context(safe_open(path, framework="pt"))
                for path in {self.file_of[key] for key in wanted}
            }
            yield {key: files[self.file_of[key]].get_slice(key) for key in wanted}

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """One after the other, in their order; they are mapped, not copied."""
        wanted = list(keys)
        with ExitStack() as stack:
            files = {
                path: stack.enter_context(safe_open(path, framework="pt"))
                for path in {self.file_of[key] for key in wanted}
            }
            for key in wanted:
                yield key, files[self.file_of[key]].get_tensor(key)


def keys_by_name(model: PreTrainedModel, keys: Iterable[str]) -> dict[str, list[str]]:
    """For each tensor of the model the keys in the files that it is made of, in the files' order.

    A key of which several tensors are made (a fused projection) is there for each of them; one that
    the model has no use for is not there at all.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    targets = {
        source: entry.target_patterns for entry in converters for source in entry.source_patterns
    }
    meta, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, list[str]] = {}
    for key in keys:
        name, source = rename_source_key(key, renamings, converters, prefix, meta)
        if name not in meta and key in meta:
            name, source = rename_source_key(key, [], [], prefix, meta)
        first, *more = targets.get(source or "", [""])
        for each in dict.fromkeys([name, *(name.replace(first, other) for other in more)]):
            if each in meta:
                found.setdefault(each, []).append(key)
    return found


def nearest(numbers: Tensor, dtypes: Iterable[torch.dtype]) -> Tensor:
    """The numbers of all these types that are nearest."""
    for dtype in dtypes:
        numbers = numbers.to(dtype).to(numbers.dtype)
    return numbers


def dtypes_of(
    model: PreTrainedModel,
    layout: ModelLayout,
    stored: StoredTensors,
    saved_as: str,
    others: Sequence[str] = (),
) -> dict[str, tuple[torch.dtype, ...]]:
    """For each layer, and each of the `others`, which are names of parameters, the types in which
    its numbers are written.

    A `ConfigError` where the files do not say which of their tensors it is.
    """
    if saved_as != AS_STORED:
        return dict.fromkeys([*layout.sizes, *others], (DTYPES[saved_as],))
    keys_of = keys_by_name(model, stored.file_of)
    names = {layer.name: parameter_of(model, layer.name) for layer in layout.layers}
    found = {}
    for told, name in (names | {name: name for name in others}).items():
        if name not in keys_of:
            raise unknown_place(stored, name)
        dtypes = {stored.dtype(key) for key in keys_of[name]}
        found[told] = tuple(sorted((d for d in dtypes if d is not None), key=str))
    return found


def parameter_of(model: PreTrainedModel, layer: str) -> str:
    """The name of the parameter in which a layer's weight lies; fused experts share one."""
    if view_of(model, layer).expert is not None:
        return layer.rpartition(".")[0]
    return f"{layer}.weight"


def unknown_place(stored: StoredTensors, name: str) -> ConfigError:
    """That a pruned tensor of the model has no place of its own in the files."""
    return ConfigError(
        f"{stored.folder}: it cannot be told which tensor of its files becomes {name}, so "
        f"the pruned one cannot be written. Save the model again with transformers, and prune that."
    )
