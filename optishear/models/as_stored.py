"""Checkpoint tensors part by part, with the very numbers and in the type that the files hold.

The names and shapes are the model's, whatever they are in the files (fused experts, prefixes).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from optishear.models.discover import decoder_blocks
from optishear.models.load import open_model
from optishear.models.shards import Shards
from optishear.models.stored import StoredTensors, keys_by_name


class AsStored:
    """The model of a folder on the meta device; no number is read before it is asked for.

    - `parts`: names of tensors that are read together: outside of the blocks, then block by block.
    - `unknown`: keys in the files that the model has no use for.
    - `tied`: names of tensors that are read under another name, with that name.
    """

    def __init__(self, folder: Path, weights: Sequence[Path]) -> None:
        self.folder, self.files = folder, StoredTensors(weights, folder)
        model = self.model = open_model(folder, torch.float32, device_map={"": "meta"})
        keys_of = keys_by_name(model, self.files.file_of)
        known = {key for keys in keys_of.values() for key in keys}
        self.unknown = sorted(self.files.file_of.keys() - known)
        _give_stored_types(model, keys_of, self.files)
        self._shards = Shards(model, weights, torch.device("cpu"))
        self.tied = self._shards.tied
        prefix, blocks = decoder_blocks(model)
        self.parts: list[list[str]] = [[] for _ in range(len(blocks) + 1)]
        for tensor in self._shards.names:
            index = tensor.removeprefix(f"{prefix}.").split(".")[0]
            inside = tensor.startswith(f"{prefix}.") and index.isdigit()
            self.parts[int(index) + 1 if inside else 0].append(tensor)

    @contextmanager
    def reading(self, names: list[str]) -> Iterator[dict[str, Tensor]]:
        """These tensors by name, which the model has, too, while this is open."""
        self._shards.fill(names)
        try:
            state = self.model.state_dict()
            yield {name: state[name] for name in names}
        finally:
            self._shards.empty(names)


def _give_stored_types(
    model: nn.Module, keys_of: dict[str, list[str]], files: StoredTensors
) -> None:
    """Makes the model's types on the meta device those of the files; where it makes one tensor of
    several, the widest of theirs, which holds the numbers of all."""
    everything = model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in everything.items():
        names.setdefault(id(tensor), []).append(name)
    for shared in names.values():
        found = {files.dtype(key) for name in shared for key in keys_of.get(name, ())}
        dtype = None
        for each in filter(None, found):
            dtype = each if dtype is None else torch.promote_types(dtype, each)
        if dtype is None:
            continue
        own = everything[shared[0]]
        other: Tensor = torch.empty_like(own, dtype=dtype, device="meta")
        if isinstance(own, nn.Parameter):
            other = nn.Parameter(other, requires_grad=False)
        for name in shared:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, other)
