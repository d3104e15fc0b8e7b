"""The tensors of a pruned checkpoint: those of the dense files, with what was pruned."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from optishear.errors import ConfigError
from optishear.models.discover import decoder_blocks
from optishear.models.folder import ModelFolder
from optishear.models.load import AS_STORED, DTYPES, refuse_too_large
from optishear.models.stored import StoredTensors, keys_by_name, parameter_of, unknown_place
from optishear.recipe.layout import ModelLayout


class Rewritten:
    """What each tensor of a pruned checkpoint is: the dense file's own, or what it was changed to.

    Names, shapes and types are those of the dense files, so what the model does not know (the
    heads of other tasks) or reads in another type (norms in fp32) stays what it was. A weight that
    has the value that was read of it stays bit for bit what is stored, whatever the type computed
    in; one that changed is rounded to the type stored; one that is zero is zero.

    - `blocks`: the decoder blocks' paths; only what lies in them is asked of the model.
    - `saved_as`: a type for all floating tensors, or `AS_STORED`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layout: ModelLayout,
        stored: StoredTensors,
        saved_as: str = AS_STORED,
    ) -> None:
        self.model, self.stored = model, stored
        self.saved_as = DTYPES.get(saved_as)
        prefix, blocks = decoder_blocks(model)
        self.blocks = [f"{prefix}.{index}" for index in range(len(blocks))]
        self.keys_of = keys_by_name(model, stored.file_of)
        self._block_of: dict[str, str] = {}
        for name, keys in self.keys_of.items():
            path = ".".join(name.split(".")[: prefix.count(".") + 2])
            if path in self.blocks:
                self._block_of |= dict.fromkeys(keys, path)
        self._refuse_lost({parameter_of(model, layer.name) for layer in layout.layers})

    @property
    def dtype(self) -> torch.dtype:
        """Of most numbers that are written."""
        if self.saved_as is not None:
            return self.saved_as
        return ModelFolder.of(str(self.stored.folder)).stored_dtype

    def block_of(self, key: str) -> str | None:
        """The decoder block that a tensor is in; None outside of them."""
        return self._block_of.get(key)

    def outside(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """These as the dense files have them."""
        return {key: self._cast(key, tensor) for key, tensor in self.stored.read(keys)}

    @torch.no_grad()
    def block(self, path: str) -> dict[str, Tensor]:
        """All tensors of a decoder block, with its weights as the model has them now."""
        made = self._made(self.model.get_submodule(path).state_dict(prefix=f"{path}."))
        keys = [key for key, block in self._block_of.items() if block == path]
        return {
            key: self._changed(key, tensor, made[key]) if key in made else self._cast(key, tensor)
            for key, tensor in self.stored.read(keys)
        }

    def _made(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """These tensors of the model by their keys in the files, as far as they are there."""
        reverted = revert_weight_conversion(self.model, dict(state))
        prefix = f"{self.model.base_model_prefix}."
        found = {}
        for key, tensor in reverted.items():
            for each in (key, key.removeprefix(prefix), prefix + key):
                if each in self.stored.file_of:
                    found[each] = tensor
                    break
        return found

    def _changed(self, key: str, stored: Tensor, new: Tensor) -> Tensor:
        cast, new = self._cast(key, stored), new.detach().cpu()
        if not stored.is_floating_point() and torch.equal(new, stored):
            return stored  # a table, such as which experts a token goes to
        if new.shape != stored.shape or not stored.is_floating_point():
            raise ConfigError(
                f"{self.stored.file_of[key]}: {key} is {stored.dtype} {tuple(stored.shape)}, the "
                f"model has {new.dtype} {tuple(new.shape)} for it. Save the model again with "
                f"transformers, and prune that."
            )
        read = cast if self.saved_as is not None else stored
        same = (new == read.to(new.dtype)) & ((new != 0) | (stored == 0))
        return cast if same.all() else torch.where(same, cast, new.to(cast.dtype))

    def _cast(self, key: str, tensor: Tensor) -> Tensor:
        if self.saved_as is None or not tensor.is_floating_point():
            return tensor
        cast = tensor.to(self.saved_as)
        refuse_too_large(key, tensor, cast)
        return cast

    def _refuse_lost(self, pruned: set[str]) -> None:
        """A `ConfigError` before anything is computed where a pruned weight would not come to lie
        in a tensor of the files."""
        for path in self.blocks:
            state = self.model.get_submodule(path).state_dict(prefix=f"{path}.")
            made = self._made(
                {name: torch.empty_like(t, device="meta") for name, t in state.items()}
            )
            for name in pruned & state.keys():
                if not self.keys_of.get(name) or not made.keys() >= set(self.keys_of[name]):
                    raise unknown_place(self.stored, name)
