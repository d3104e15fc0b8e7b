"""Filling of a model on the meta device from its safetensors files, a few tensors at a time.

How names and shapes in a file become those of the model (experts that are fused, prefixes) is
transformers' own business: its loader is called with the tensors of the part that is wanted.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from optishear.errors import ConfigError
from optishear.models.catalog import quiet_transformers
from optishear.models.load import AS_STORED, as_saved, refuse_non_finite
from optishear.models.stored import StoredTensors, keys_by_name


class Shards:
    """The tensors of one checkpoint, by the names that its model (on the meta device) has for them.

    What is filled is read as the dtype that the model has on the meta device. Where that is the
    dtype in the file and the device is the CPU, it is mapped, not copied. `saved_as`: see `load`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        weights: Sequence[Path],
        device: torch.device,
        saved_as: str = AS_STORED,
    ) -> None:
        self.model, self.device, self.folder = model, device, weights[0].parent
        self._saved_as = saved_as
        self._stored = StoredTensors(weights)
        self._conversions = model._weight_conversions  # which of them this checkpoint needs
        self._keys_of = keys_by_name(model, self._stored.file_of)
        self._tie_equals()
        everything = model.state_dict(keep_vars=True)
        self._meta: dict[str, Tensor] = dict(everything)
        with_keys = {id(everything[name]): name for name in self._keys_of}
        self._read_as = {name: with_keys.get(id(t), name) for name, t in everything.items()}

    @property
    def names(self) -> list[str]:
        """Of all tensors that a checkpoint of this model has, in the model's order."""
        return list(self._meta)

    @property
    def tied(self) -> dict[str, str]:
        """Names of tensors that are read under another name, with that name."""
        return {name: other for name, other in self._read_as.items() if name != other}

    def fill(self, names: Iterable[str]) -> None:
        """Gives the model these tensors; a `ConfigError` if one is not in the files or not finite.

        Memory: these tensors, and those in the files that they are converted from.
        """
        wanted = list(names)
        needed = {self._read_as[name] for name in wanted}
        keys = sorted({key for name in needed for key in self._keys_of.get(name, ())})
        mapping: Any = get_model_conversion_mapping(self.model)
        config = LoadStateDictConfig(
            device_map={"": str(self.device)}, dtype=self.model.dtype, weight_mapping=mapping
        )
        others = {name: _at(self.model, name) for name in needed - set(wanted)}
        with self._stored.slices(keys) as slices, quiet_transformers():
            convert_and_load_state_dict_in_model(self.model, slices, config)
        self.model._weight_conversions = self._conversions
        filled = {name: _at(self.model, name) for name in needed}
        for name, before in others.items():  # read under the other name only
            _put(self.model, name, before)
        for name in wanted:
            tensor = filled[self._read_as[name]].requires_grad_(False)
            tensor.data = as_saved(name, tensor.data, self._saved_as)
            _put(self.model, name, tensor)
        self._refuse_bad(wanted)

    def empty(self, names: Iterable[str]) -> None:
        """Takes these tensors away again; what the model has instead is what it had before."""
        for name in names:
            _put(self.model, name, self._meta[name])

    def rows(self, name: str, ids: Int[Tensor, " rows"]) -> Float[Tensor, "rows width"] | None:
        """Some rows of a matrix; None if it does not lie in the files as it is in the model.

        Only the pages of the file in which they lie are read.
        """
        meta, keys = self._meta[name], self._keys_of.get(self._read_as[name], [])
        if len(keys) != 1:
            return None
        with self._stored.slices(keys) as slices:
            [stored] = slices.values()
            if tuple(stored.get_shape()) != tuple(meta.shape):
                return None
            rows = stored[...][ids.cpu()]
        return as_saved(name, rows.to(self.device, meta.dtype), self._saved_as)

    def _tie_equals(self) -> None:
        """Both of a pair in the files: one tensor if they are equal, else two, as transformers does
        it for a model in memory."""
        tied = self.model.all_tied_weights_keys
        for target, source in list(tied.items()):
            if {target, source} <= self._keys_of.keys():
                with self._stored.slices(
                    [*self._keys_of[target], *self._keys_of[source]]
                ) as slices:
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


def _at(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(path), leaf)


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, tensor)
