"""Solved layers on disk, the level database: a search solves each layer once a level, then copies.

Next to EvoPress's database of whole layers (arXiv 2410.14649), ours holds only what is kept, and is
filed by what the solution depends on, not by a level's number.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from optishear.errors import StorageError
from optishear.recipe.layout import Layer
from optishear.records.atomic import replace_file
from optishear.records.cache import OTHER_CACHE, digest, kept
from optishear.solvers.base import LayerSolution
from optishear.solvers.quadratic import HeldBackError
from optishear.solvers.ranks import BITS


FORMAT = "1"
DISK_BYTES = 20 * 10**9
PIECE = 2**16  # weights that are expanded at once: few enough for the cache, a multiple of 8


@dataclass(frozen=True, eq=False)
class Stored:
    """A `LayerSolution` as it is stored and sent: what is kept, row by row, and a bit a weight.

    - `values`: the kept weights, in the dense weight's dtype; they may be zero, too.
    - `bits`: eight weights a byte, the first one lowest; 1 = kept.
    - `cost`, `damping`, `notes`, `tried`: the solution's.
    """

    shape: tuple[int, int]
    values: Float[Tensor, " kept"]
    bits: UInt8[Tensor, " bytes"]
    cost: float | None
    damping: float | None
    notes: tuple[str, ...]
    tried: tuple[HeldBackError, ...] = ()

    @classmethod
    def of(cls, name: str, solution: LayerSolution) -> "Stored":
        """On the CPU; exactly zero where nothing is kept, or it is refused, under this name."""
        weight, keep = solution.weight.detach().cpu(), solution.keep.cpu()
        if weight[~keep].view(BITS[weight.itemsize]).any():
            raise ValueError(f"{name}: its solution is not exactly zero where nothing is kept.")
        bits = np.packbits(keep.contiguous().view(-1).numpy(), bitorder="little")
        return cls(
            (weight.shape[0], weight.shape[1]),
            weight[keep],
            torch.from_numpy(bits),
            solution.cost,
            solution.damping,
            solution.notes,
            solution.tried,
        )

    @property
    def kept(self) -> int:
        return len(self.values)

    @property
    def bytes(self) -> int:
        return self.values.nbytes + self.bits.nbytes

    @property
    def keep(self) -> Bool[Tensor, "out in"]:
        return self._keep(self.bits)

    def write_into(self, out: Float[Tensor, "out in"]) -> None:
        """Makes `out` the solution's weight, bit for bit; it may be a transposed view."""
        if tuple(out.shape) != self.shape or out.dtype != self.values.dtype:
            raise ValueError(
                f"A stored {self.values.dtype} layer of {self.shape} was to be written into "
                f"{out.dtype} {tuple(out.shape)}."
            )
        target = out.detach() if out.is_contiguous() else out.new_empty(self.shape)
        if out.device.type == "cpu":
            _expand(self.values, self.bits, target)
        else:  # what travels is what is stored, not the whole weight
            keep = self._keep(self.bits.to(out.device))
            target.zero_().masked_scatter_(keep, self.values.to(out.device))
        if target.data_ptr() != out.data_ptr():
            out.detach().copy_(target)

    def _keep(self, bits: UInt8[Tensor, " bytes"]) -> Bool[Tensor, "out in"]:
        each = bits[:, None] >> torch.arange(8, dtype=torch.uint8, device=bits.device)
        flat = (each & 1).bool().flatten()
        return flat[: self.shape[0] * self.shape[1]].view(self.shape)


class SolvedLayers:
    """The solutions of one measure by `layer_keys`, a file each, memory-mapped as they are read.

    - `folder`: may be shared by many measures.
    - `identity`: of the measure, in words: all that solutions depend on and keys do not say, that
      is the dense weights, calibration tokens and gradients, their dtype and device.
    - `memory_bytes`: of solutions that stay mapped between uses.
    - `disk_bytes`: of all files in `folder`. What others write there meanwhile is not seen.
    """

    def __init__(
        self, folder: Path, identity: str, memory_bytes: int, disk_bytes: int = DISK_BYTES
    ) -> None:
        self.folder, self.memory_bytes, self.disk_bytes = folder, memory_bytes, disk_bytes
        self.own = folder / digest(identity)
        self._mapped: OrderedDict[str, Stored] = OrderedDict()
        self._mapped_bytes = 0
        self._say_whose(identity)
        self._used = sum(_size(path) for path in folder.glob("*/*.safetensors"))

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def get(self, key: str) -> Stored | None:
        """None where it is not stored, or damaged, which is logged: it must be solved (anew)."""
        if key in self._mapped:
            self._mapped.move_to_end(key)
            return self._mapped[key]
        path = self._path(key)
        if (stored := kept(path, partial(_read, key=key), SafetensorError)) is None:
            return None
        self._mapped[key] = stored
        self._mapped_bytes += stored.bytes
        while self._mapped_bytes > self.memory_bytes:
            self._mapped_bytes -= self._mapped.popitem(last=False)[1].bytes
        return stored

    def put(self, key: str, solution: LayerSolution) -> None:
        """Stores it, in the place of what had this key. Raises `StorageError` where it cannot."""
        self.put_stored(key, Stored.of(key, solution))

    def put_stored(self, key: str, stored: Stored) -> None:
        """The same for a solution that came from elsewhere."""
        data = _packed(key, stored)
        path = self._path(key)
        before = _size(path)
        after = self._used - before + len(data)
        if after > self.disk_bytes:
            others = self._used - sum(_size(p) for p in self.own.glob("*.safetensors"))
            raise StorageError(
                f"Solved layers in {self.folder} would take {after:,} bytes with the next one, and "
                f"their limit is {self.disk_bytes:,}. Raise the limit, use fewer sparsity.steps or "
                f"closer bounds, or remove folders of other measures there, which take "
                f"{max(0, others):,} bytes."
            )
        replace_file(path, data, OTHER_CACHE)
        self._used = after
        if (old := self._mapped.pop(key, None)) is not None:
            self._mapped_bytes -= old.bytes

    def _path(self, key: str) -> Path:
        return self.own / f"{digest(key)}.safetensors"

    def _say_whose(self, identity: str) -> None:
        path = self.own / "identity.txt"
        if not path.exists():
            replace_file(path, f"{identity}\n".encode(), OTHER_CACHE)


def stored_bytes(layers: Iterable[Layer], drop: Mapping[str, int], itemsize: int) -> int:
    """Of these layers in files, each without its header of less than a kilobyte; `itemsize` is
    that of the weights' dtype."""
    return sum(itemsize * (x.size - drop[x.name]) + (x.size + 7) // 8 for x in layers)


def _expand(
    values: Float[Tensor, " kept"], bits: UInt8[Tensor, " bytes"], out: Float[Tensor, "out in"]
) -> None:
    """Piece by piece into a contiguous weight, as whole numbers, which numpy has of every width.

    Positions and a plain assignment to them take a quarter of the time of `masked_scatter_`.
    """
    whole = BITS[values.itemsize]
    kept, flat = values.view(whole).numpy(), out.view(-1).view(whole).numpy()
    packed, done = bits.numpy(), 0
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        part = packed[start // 8 : (start + PIECE) // 8]
        where = np.flatnonzero(np.unpackbits(part, count=piece.size, bitorder="little").view(bool))
        piece.fill(0)
        piece[where] = kept[done : done + where.size]
        done += where.size


def _packed(key: str, stored: Stored) -> bytes:
    """A solution as its file."""
    about = {
        "format": FORMAT,
        "key": key,
        "shape": stored.shape,
        "cost": stored.cost,
        "damping": stored.damping,
        "notes": stored.notes,
        "tried": [asdict(each) for each in stored.tried],
    }
    tensors = {"values": stored.values, "bits": stored.bits}
    return save(tensors, {"solution": json.dumps(about)})


def _read(path: Path, key: str) -> Stored:
    """What `_packed` made, its numbers mapped; `ValueError` where it is not as it was made."""
    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {})["solution"])
        values, bits = file.get_tensor("values"), file.get_tensor("bits")
    if (about["format"], about["key"]) != (FORMAT, key):
        raise ValueError("it is of another format or layer")
    if int(np.bitwise_count(bits.numpy()).sum(dtype=np.int64)) != len(values):
        raise ValueError("its bits are not those of its values")
    rows, columns = about["shape"]
    if len(bits) != (rows * columns + 7) // 8:
        raise ValueError("its bits are not those of its shape")
    tried = tuple(HeldBackError(**each) for each in about.get("tried", ()))
    notes = tuple(about["notes"])
    return Stored((rows, columns), values, bits, about["cost"], about["damping"], notes, tried)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
