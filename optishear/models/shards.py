"""Fills a model on the meta device from its safetensors files, a few of its tensors at a time.

How names and shapes in a file become those of the model (experts that are fused, prefixes) is
transformers' own business: its loader is called with the tensors of the part that is wanted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.modeling_utils import LoadStateDictConfig

from optishear.errors import ConfigError
from optishear.models.catalog import quiet_transformers
from optishear.models.load import refuse_non_finite


class Shards:
    """The tensors of one checkpoint, by the names that its model (on the meta device) has for them.

    What is filled is read as the dtype that the model has on the meta device. Where that is the
    dtype in the file and the device is the CPU, it is mapped, not copied.
    """

    def __init__(
        self, model: PreTrainedModel, weights: Sequence[Path], device: torch.device
    ) -> None:
        self.model, self.device, self.folder = model, device, weights[0].parent
        self._file_of = {key: path for path in weights for key in _keys(path)}
        self._conversions = model._weight_conversions  # which of them this checkpoint needs
        self._keys_of = _keys_by_name(model, self._file_of)
        self._tie_equals()
        everything = model.state_dict(keep_vars=True)
        self._meta: dict[str, Tensor] = dict(everything)
        with_keys = {id(everything[name]): name for name in self._keys_of}
        self._told = {name: with_keys.get(id(t), name) for name, t in everything.items()}

    @property
    def names(self) -> list[str]:
        """Of all tensors that a checkpoint of this model has, in the model's order."""
        return list(self._meta)

    @property
    def tied(self) -> dict[str, str]:
        """Names of tensors that are read under another name, with that name."""
        return {name: told for name, told in self._told.items() if name != told}

    def fill(self, names: Iterable[str]) -> None:
        """Gives the model these tensors; a `ConfigError` if one is not in the files or not finite.

        Memory: these tensors, and those in the files that they are converted from.
        """
        wanted = list(names)
        told = {self._told[name] for name in wanted}
        keys = sorted({key for name in told for key in self._keys_of.get(name, ())})
        mapping: Any = get_model_conversion_mapping(self.model)
        config = LoadStateDictConfig(
            device_map={"": str(self.device)}, dtype=self.model.dtype, weight_mapping=mapping
        )
        others = {name: _at(self.model, name) for name in told - set(wanted)}
        with self._slices(keys) as slices, quiet_transformers():
            convert_and_load_state_dict_in_model(self.model, slices, config)
        self.model._weight_conversions = self._conversions
        filled = {name: _at(self.model, name) for name in told}
        for name, before in others.items():  # read under the other name only
            _put(self.model, name, before)
        for name in wanted:
            _put(self.model, name, filled[self._told[name]].requires_grad_(False))
        self._refuse_bad(wanted)

    def empty(self, names: Iterable[str]) -> None:
        """Takes these tensors away again; what the model has instead is what it had before."""
        for name in names:
            _put(self.model, name, self._meta[name])

    def rows(self, name: str, ids: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"] | None:
        """Some rows of a matrix; None if it does not lie in the files as it is in the model.

        Only the pages of the file in which they lie are read.
        """
        meta, keys = self._meta[name], self._keys_of.get(self._told[name], [])
        if len(keys) != 1:
            return None
        with self._slices(keys) as slices:
            [stored] = slices.values()
            if tuple(stored.get_shape()) != tuple(meta.shape):
                return None
            rows = stored[...][ids.cpu()]
        return rows.to(self.device, meta.dtype)

    def as_stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """These tensors of the model, by the names and in the shapes that a checkpoint has."""
        return revert_weight_conversion(self.model, dict(tensors))

    @contextmanager
    def _slices(self, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Handles of tensors in the files, which are read when they are indexed."""
        with ExitStack() as stack:
            wanted = sorted(keys)
            files = {
                path: stack.enter_context(safe_open(path, framework="pt"))
                for path in {self._file_of[key] for key in wanted}
            }
            yield {key: files[self._file_of[key]].get_slice(key) for key in wanted}

    def _tie_equals(self) -> None:
        """Both of a pair in the files: one tensor if they are equal, else two, as transformers does
        it for a model in memory."""
        tied = self.model.all_tied_weights_keys
        for target, source in list(tied.items()):
            if {target, source} <= self._keys_of.keys():
                with self._slices([*self._keys_of[target], *self._keys_of[source]]) as slices:
                    equal = len(slices) == 2 and torch.equal(*(s[...] for s in slices.values()))
                if equal:
                    _put(self.model, target, _at(self.model, source))
                    del self._keys_of[target]
                else:
                    del tied[target]

    def _refuse_bad(self, names: Sequence[str]) -> None:
        found = {name: _at(self.model, name) for name in names}
        if absent := [name for name, tensor in found.items() if tensor.is_meta]:
            raise ConfigError(
                f"{self.folder}: {absent[0]} is not in the weight files by itself, so the model "
                f"cannot be streamed. Prune it without --stream."
            )
        refuse_non_finite(found.items(), self.folder)


def _keys_by_name(model: PreTrainedModel, keys: Iterable[str]) -> dict[str, list[str]]:
    """For each tensor of the model the keys in the files that it is made of.

    Of several tensors made of one key only the first is found; all of them lie in one block.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    meta, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, list[str]] = {}
    for key in keys:
        name, _ = rename_source_key(key, renamings, converters, prefix, meta)
        if name not in meta and key in meta:
            name, _ = rename_source_key(key, [], [], prefix, meta)
        if name in meta:
            found.setdefault(name, []).append(key)
    return found


def _keys(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _at(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(path), leaf)


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, tensor)
