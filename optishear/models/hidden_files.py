"""What goes between decoder blocks, as files: larger than memory, and there after a kill."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from optishear.errors import StorageError
from optishear.models.blocks import Hidden
from optishear.models.shared_state import NOTHING, Shared


class StateFiles:
    """What goes into block `block`, a file a batch; what is set goes into the block after it.

    Files are mapped when they are read: the system keeps in memory what it has room for. `turn`
    moves on to the next block. Nothing is deleted before `tidy`, so whoever is killed begins the
    block again with what went into it.

    With `step` 0 what is set is what is got, whatever the block. With -1 they are gradients on
    their way back, those of what goes into `block`, and what is set is of the block before it.
    """

    def __init__(self, folder: Path, block: int, device: torch.device, step: int = 1) -> None:
        self.folder, self.block, self.device, self.step = folder, block, device, step

    def read(self, batch: int) -> dict[str, Tensor]:
        """The tensors that go into the next block, by name."""
        path = self._path(self.block, batch)
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name).to(self.device) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"{path}: cannot be read ({error}). Empty the folder and begin again."
            ) from error

    def write(self, batch: int, tensors: Mapping[str, Tensor]) -> None:
        path = self._path(self.block + self.step, batch)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, path)
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"{path}: could not be written ({error}). Free some space."
            ) from error

    def turn(self) -> None:
        """All batches are set: their states go into the next block."""
        self.block += self.step

    def tidy(self) -> None:
        """Deletes all but what goes into the next block."""
        for path in self.folder.glob("*"):
            if path.name != str(self.block):
                shutil.rmtree(path)

    def _path(self, block: int, batch: int) -> Path:
        return self.folder / str(block) / f"{batch}.safetensors"


class HiddenFiles(StateFiles):
    """Hidden states; before the first block there are none."""

    def __getitem__(self, batch: int) -> Hidden | None:
        return self.read(batch)["hidden"] if self.block else None

    def __setitem__(self, batch: int, hidden: Hidden) -> None:
        self.write(batch, {"hidden": hidden})


class SharedFiles(StateFiles):
    """What blocks share beside hidden states; nothing before the first block."""

    def __getitem__(self, batch: int) -> Shared:
        if not self.block:
            return NOTHING
        return {_key_of(name): tensor for name, tensor in self.read(batch).items()}

    def __setitem__(self, batch: int, shared: Shared) -> None:
        self.write(batch, {"/".join(map(str, key)): tensor for key, tensor in shared.items()})


def _key_of(name: str) -> tuple[str, str, int]:
    argument, rest = name.split("/", 1)
    key, place = rest.rsplit("/", 1)
    return argument, key, int(place)
