"""The folder of a model's per-sequence gradients: bare numbers in fp16, and an index in JSON.

They are as many times the model's size as there are sequences, so they are never in memory: each
weight's gradient is written as soon as it is there, and all are memory-mapped after that.
"""

import hashlib
import json
import logging
import mmap
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optishear.calibration.gradients import LayerGradients, Sample, StoreSample
from optishear.recipe.layout import ModelLayout


log = logging.getLogger(__name__)

FORMAT = "1"
NUMBERS, INDEX = "gradients.f16", "index.json"


@dataclass(frozen=True, eq=False)
class GradientStore:
    """The gradients of every prunable layer, by its name.

    - `layers`: their numbers stay on disk until they are used; read-only, like the dense weights.
    - `bytes`: of the files in `folder`.
    - `seconds`: what collecting them took, whenever that was.
    """

    layers: Mapping[str, LayerGradients]
    folder: Path
    bytes: int
    seconds: float
    samples: int


def gradient_bytes(layout: ModelLayout, samples: int) -> int:
    """Of their numbers in fp16."""
    return 2 * layout.total * samples


def write_gradients(
    folder: Path, layout: ModelLayout, samples: int, collect: Callable[[StoreSample], None]
) -> float:
    """What `collect` finds, into `folder`; the seconds that took.

    Data is on the disk itself when it returns, for a size that is right is all that is looked at
    later.
    """
    start = time.monotonic()
    with open(folder / NUMBERS, "xb", buffering=0) as handle:
        file = GradientFile(handle.fileno(), layout, samples)
        collect(file.write)
        os.fsync(handle.fileno())
    seconds = time.monotonic() - start
    index = {
        "format": FORMAT,
        "samples": samples,
        "seconds": seconds,
        "layers": {
            layer.name: {
                "shape": [layer.out_features, samples, layer.in_features],
                "offset": file.offsets[layer.name],
                "scale": file.scales[layer.name],
            }
            for layer in layout.layers
        },
    }
    with open(folder / INDEX, "x", encoding="utf-8") as handle:
        json.dump({**index, "sha256": _checksum(index)}, handle)
        handle.flush()
        os.fsync(handle.fileno())
    if silent := [name for name, scales in file.scales.items() if not any(scales)]:
        log.warning(
            "%d of %d layers have no gradient from any of %d sequences, so the Taylor loss lets "
            "them go for nothing: %s%s. For experts, use more gradient sequences.",
            *(len(silent), len(layout.layers), samples, ", ".join(silent[:8])),
            ", …" if len(silent) > 8 else "",
        )
    return seconds


class GradientFile:
    """The flat fp16 file of all layers, one after another, each [out, samples, in].

    Rows are written with `pwrite`, not through a memory map: on a full disk that is an error,
    where a map would end the process with SIGBUS. What nobody writes stays zero, and the order in
    which samples are written changes nothing.
    """

    def __init__(self, handle: int, layout: ModelLayout, samples: int) -> None:
        self.handle, self.samples = handle, samples
        self.offsets: dict[str, int] = {}  # in numbers, not bytes
        end = 0
        for layer in layout.layers:
            self.offsets[layer.name] = end
            end += layer.size * samples
        self.scales = {layer.name: [0.0] * samples for layer in layout.layers}
        os.truncate(handle, 2 * end)

    def write(self, number: int, name: str, sample: Sample) -> None:
        """The gradient of sequence `number` of the layer called `name`."""
        self.scales[name][number] = sample.scale
        rows = sample.numbers.numpy()
        step = 2 * rows.shape[1]
        offset = 2 * self.offsets[name] + step * number
        for row in rows:
            if os.pwrite(self.handle, row, offset) != step:
                raise OSError("the disk took only a part of a row")
            offset += step * self.samples


def read_gradients(folder: Path) -> GradientStore:
    """What `write_gradients` wrote, its numbers mapped; an error where a file is not as it was
    written."""
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if index.pop("sha256") != _checksum(index):
        raise ValueError("the checksum of its index differs")
    entries = {name: (torch.Size(e["shape"]), e) for name, e in index["layers"].items()}
    size = 2 * sum(shape.numel() for shape, _ in entries.values())
    numbers = _mapped(folder / NUMBERS, size)
    layers = {
        name: LayerGradients(
            numbers[e["offset"] : e["offset"] + shape.numel()].view(shape),
            torch.tensor(e["scale"], dtype=torch.float32),
        )
        for name, (shape, e) in entries.items()
    }
    return GradientStore(
        layers, folder, size + (folder / INDEX).stat().st_size, index["seconds"], index["samples"]
    )


def _mapped(path: Path, size: int) -> Tensor:
    with open(path, "rb") as handle:
        found = os.fstat(handle.fileno()).st_size
        if found != size:
            raise ValueError(f"{NUMBERS} has {found:,} bytes, not {size:,}")
        # Read-only, for a map that may be written to counts as memory, and is refused when large.
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mapped, dtype=torch.float16)


def _checksum(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
