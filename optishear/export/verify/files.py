"""A checkpoint's weight files as they lie on disk, read one tensor at a time. No model is built."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from optishear.export.checkpoint import INDEX, WHOLE
from optishear.export.verify.check import FAILED, INFO, OK, Check
from optishear.models.folder import PICKLED, STORED, shards_by_tensor
from optishear.models.load import AS_STORED, DTYPES
from optishear.models.stored import StoredTensors


@dataclass(frozen=True)
class StoredTensor:
    """A tensor by its header. `kind` is what safetensors calls its type."""

    name: str
    file: Path
    kind: str
    numbers: int


@dataclass(frozen=True)
class StoredFiles:
    """The safetensors files that make up a checkpoint.

    - `damage`: sentences; where there are any the weights cannot be read.
    - `leftovers`: files beside them that hold weights too and are no part of the checkpoint.
    """

    files: tuple[Path, ...]
    tensors: tuple[StoredTensor, ...]
    damage: tuple[str, ...]
    leftovers: tuple[str, ...]

    @property
    def kinds(self) -> Counter[str]:
        """Numbers of each floating type."""
        total: Counter[str] = Counter()
        for tensor in self.tensors:
            if tensor.kind.startswith(("F", "BF")):
                total[tensor.kind] += tensor.numbers
        return total

    def read(self) -> Iterator[tuple[StoredTensor, Tensor]]:
        """One tensor after the other, only one of them in memory."""
        for path in self.files:
            with safe_open(path, framework="pt") as file:
                for tensor in self.tensors:
                    if tensor.file == path:
                        yield tensor, file.get_tensor(tensor.name)


def survey(folder: Path) -> StoredFiles:
    """What transformers would read of this folder, and what it would not; only headers are read.

    transformers reads `model.safetensors` where there is one, else the shards of the index.
    """
    damage: list[str] = []
    wanted: dict[str, str] = {}  # tensor -> file, as the index says
    if (folder / WHOLE).is_file():
        files = [folder / WHOLE]
    else:
        wanted = _index(folder / INDEX, damage)
        files = [folder / name for name in sorted(set(wanted.values()))]
    damage += [f"{path.name} is missing" for path in files if not path.is_file()]
    files = [path for path in files if path.is_file()]
    tensors: list[StoredTensor] = []
    for path in files:
        try:
            tensors += _header(path)
        except (SafetensorError, OSError) as error:
            damage.append(f"{path.name} is damaged or cut off ({error})")
    held = {tensor.name: tensor.file.name for tensor in tensors}
    if not damage and (astray := [n for n, file in wanted.items() if held.get(n) != file]):
        damage.append(
            f"{len(astray)} tensors are not where the index says, the first {astray[0]!r}"
        )
    beside = {path.name for pattern in PICKLED for path in folder.glob(pattern)}
    beside |= {path.name for path in folder.glob("*.safetensors") if path not in files}
    return StoredFiles(tuple(files), tuple(tensors), tuple(damage), tuple(sorted(beside)))


def dtype_name(stored: StoredFiles) -> str:
    """Of the type that holds all numbers in the files, by the name that `load` takes; float32 where
    it has none."""
    found = [STORED.get(kind, torch.float32) for kind in stored.kinds] or [torch.float32]
    names = {dtype: name for name, dtype in DTYPES.items()}
    return names.get(reduce(torch.promote_types, found), "float32")


def check_files(stored: StoredFiles) -> Check:
    """All there and whole; safetensors only, and nothing beside that holds weights too."""
    if stored.damage:
        return Check("files", FAILED, f"The weights cannot be read: {'; '.join(stored.damage)}.")
    if stored.leftovers:
        return Check(
            "files",
            FAILED,
            f"Beside the checkpoint lie weights that are no part of it, pickles perhaps: "
            f"{', '.join(stored.leftovers)}. Remove them.",
        )
    sizes = [f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in stored.files]
    return Check("files", OK, f"Safetensors only: {', '.join(sizes)}.")


def check_dtype(
    stored: StoredFiles,
    config: Mapping[str, Any],
    saved_as: str | None,
    dense: StoredTensors | None = None,
) -> Check:
    """The type in config.json is that of most numbers, and each tensor has the type it should.

    - `saved_as`: the type that was asked for, or `AS_STORED`: that of the dense files. None where
      nothing says so.
    - `dense`: its files, where they can be looked at.
    """
    kinds = stored.kinds
    names = {kind: str(dtype).removeprefix("torch.") for kind, dtype in STORED.items()}
    [(kind, _)] = kinds.most_common(1) or [("nothing", 0)]
    most, said = names.get(kind, kind), config.get("dtype", config.get("torch_dtype"))
    others = [
        f"{tensor.name}: {names.get(tensor.kind, tensor.kind)}"
        for tensor in stored.tensors
        if tensor.kind in kinds and tensor.kind != kind
    ]
    if said != most:
        return Check("dtype", FAILED, f"config.json says {said}, the tensors are {most}.")
    wanted = {
        tensor.name: _wanted(tensor.name, saved_as, dense)
        for tensor in stored.tensors
        if tensor.kind in kinds
    }
    wrong = [
        f"{tensor.name}: {names.get(tensor.kind, tensor.kind)}, and not {want}"
        for tensor in stored.tensors
        if (want := wanted.get(tensor.name)) and want != names.get(tensor.kind)
    ]
    if wrong:
        asked = saved_as not in (None, AS_STORED)
        which = "were to be saved in" if asked else "have in the dense files"
        return Check(
            "dtype",
            INFO if saved_as is None else FAILED,
            f"{len(wrong)} of {len(stored.tensors)} tensors are of another type than they {which}.",
            tuple(wrong),
        )
    if others:
        alike = bool(wanted) and all(wanted.values())
        return Check(
            "dtype",
            OK if alike else INFO,
            f"{most}: config.json and most tensors; {len(others)} of {len(stored.tensors)} are of "
            f"another type{', as in the dense files' if alike else ''}.",
            tuple(others),
        )
    return Check("dtype", OK, f"{most}: config.json and all {len(stored.tensors)} tensors.")


def _wanted(name: str, saved_as: str | None, dense: StoredTensors | None) -> str | None:
    """The type that a tensor should have, where that can be said."""
    if saved_as not in (None, AS_STORED):
        return saved_as
    if dense is None or name not in dense.file_of:
        return None
    return str(dense.dtype(name)).removeprefix("torch.")


def check_finite(stored: StoredFiles) -> Check:
    """No NaN and no infinity in any tensor; one tensor is in memory at a time."""
    bad = {
        stored_tensor.name: int((~tensor.isfinite()).sum())
        for stored_tensor, tensor in stored.read()
        if tensor.is_floating_point()
    }
    bad = {name: count for name, count in bad.items() if count}
    if bad:
        worst = sorted(bad, key=lambda name: -bad[name])
        return Check(
            "finite",
            FAILED,
            f"{sum(bad.values())} numbers in {len(bad)} tensors are NaN or infinite.",
            tuple(f"{name}: {bad[name]}" for name in worst),
        )
    return Check("finite", OK, f"{sum(stored.kinds.values()):,} numbers, none NaN or infinite.")


def _index(path: Path, damage: list[str]) -> dict[str, str]:
    if not path.is_file():
        damage.append(f"there is no {WHOLE}")
        return {}
    try:
        return shards_by_tensor(path)
    except ValueError as error:
        damage.append(f"{path.name} is no index of shards ({error})")
        return {}


def _header(path: Path) -> list[StoredTensor]:
    with safe_open(path, framework="pt") as file:
        found = []
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(name)
            numbers = int(torch.Size(part.get_shape()).numel())
            found.append(StoredTensor(name, path, part.get_dtype(), numbers))
    return found
