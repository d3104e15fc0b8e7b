"""Files of tensors with a checksum over all of them: whatever was damaged is refused when read."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from optishear.records.atomic import whole_file
from optishear.records.cache import OTHER_CACHE


def save_checked(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """There whole or not at all. `about`: texts beside the tensors."""
    metadata = {**about, "sha256": _checksum(tensors)}
    with whole_file(path, OTHER_CACHE) as half:
        save_file(dict(tensors), half, metadata)


def load_checked(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, about) as `save_checked` wrote them; a `ValueError` where they are not."""
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if about["sha256"] != _checksum(tensors):
        raise ValueError("checksum differs")
    return tensors, about


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
