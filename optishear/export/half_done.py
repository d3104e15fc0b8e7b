"""A checkpoint that is written part by part, and gone on with where it stopped.

A part is a decoder block, or a module outside of them with tensors of its own, and has one shard.
Until everything is checked a folder `optishear_stream` inside says what is done; a file is written
there and then moved, so what lies beside it is whole.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from optishear.errors import ConfigError
from optishear.export.checkpoint import (
    loses_nothing,
    write_reports,
    write_tokenizer_and_dtype,
)
from optishear.export.place import ANOTHER, STATE_FOLDER
from optishear.models.catalog import quiet_transformers
from optishear.models.streamed import Streamed
from optishear.pruning.result import LayerReport
from optishear.reading.json_data import json_in
from optishear.reading.shapes import Shape, shaped
from optishear.records.atomic import storage_errors, whole_file
from optishear.records.run_directory import write_json


AGAIN = "name another --to; the same command goes on with what was written before"


class HalfDone:
    """The state of one folder; use `half_done` to get it.

    - `block`: the first decoder block that is not done.
    - `reports`: of the layers of those that are.
    - `parts`: by part its file, the dtype it is written in, and whether that of the dense
      checkpoint would lose nothing.

    A part is written in the dtype of the dense checkpoint as long as no part loses by it, and
    all are brought to the dtype in memory at the end if one does: what the whole model is written
    in, decided without having it whole.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], streamed: Streamed) -> None:
        self.folder, self.streamed = folder, streamed
        self.state_folder = folder / STATE_FOLDER
        self._state = self.state_folder / "state.json"
        self._identity = dict(identity)
        self._memory = next(streamed.loaded.model.parameters()).dtype
        self._stored = streamed.loaded.stored_dtype
        saved = streamed.saved
        self._files = {
            part: f"model-{index:05d}-of-{len(saved):05d}.safetensors"
            for index, part in enumerate(saved, 1)
        }
        self.block = 0
        self.reports: list[LayerReport] = []
        self.parts: dict[str, dict[str, Any]] = {}
        if self._state.exists():
            mend = f"Empty {folder} and begin again."
            state = json_in(self._state, mend)
            self._go_on(shaped(_State, state, str(self._state), mend), mend)
        self._commit()

    @property
    def dtype(self) -> torch.dtype:
        """In which the parts will be, as far as can be said by now."""
        lossless = all(part["lossless"] for part in self.parts.values())
        return self._stored if lossless else self._memory

    def write(self, part: str) -> None:
        """Writes the shard of a part that is resident, as it is now; `done` counts it in."""
        tensors = self.streamed.tensors(part)
        if not tensors:
            return
        lossless = loses_nothing(tensors.values(), self._stored)
        self.parts[part] = {"lossless": lossless}
        self._save(part, tensors)

    def done(self, block: int, reports: Sequence[LayerReport]) -> None:
        """All before decoder block `block` is written, with these reports since the last time."""
        self.block = block
        self.reports += reports
        self._commit()

    def finish(self) -> None:
        """All that a checkpoint has but its recipe: one dtype, index, configuration, tokenizer."""
        for part, told in self.parts.items():
            if told["dtype"] != self.dtype:
                with safe_open(self.folder / self._files[part], framework="pt") as file:
                    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                self._save(part, tensors, named=True)
        self._commit()
        with storage_errors(self.folder, AGAIN):
            write_reports(self.folder, self.reports)
            self._write_described()
            self._write_index()

    def _save(self, part: str, tensors: Mapping[str, Tensor], named: bool = False) -> None:
        """`named`: the names are those of a checkpoint already."""
        dtype, path = self.dtype, self.folder / self._files[part]
        cast = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
        cast = cast if named else self.streamed.as_stored(cast)
        with whole_file(path, AGAIN, aside=self.state_folder) as half:
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in cast.items()},
                half,
                metadata={"format": "pt"},
            )
        self.parts[part]["dtype"] = dtype

    def _write_described(self) -> None:
        """As `save_pretrained` writes them, called without weights in a folder of its own: it
        deletes shards that are not among those it was given."""
        loaded, aside = self.streamed.loaded, self.state_folder / "described"
        model: Any = loaded.model
        shutil.rmtree(aside, ignore_errors=True)
        with quiet_transformers():
            model.save_pretrained(aside, state_dict={})
        write_tokenizer_and_dtype(loaded, aside, self.dtype)
        for path in sorted(aside.iterdir()):
            if path.suffix != ".safetensors":
                os.replace(path, self.folder / path.name)

    def _write_index(self) -> None:
        where: dict[str, str] = {}
        size = 0
        for part in self.parts:
            with safe_open(self.folder / self._files[part], framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    where[key] = self._files[part]
                    size += file.get_tensor(key).nbytes
        parameters = sum(p.numel() for p in self.streamed.loaded.model.parameters())
        index = {
            "metadata": {"total_parameters": parameters, "total_size": size},
            "weight_map": dict(sorted(where.items())),
        }
        write_json(self.folder / "model.safetensors.index.json", index)

    def _go_on(self, state: "_State", mend: str) -> None:
        before = state.identity
        differ = [
            key
            for key in sorted({*before, *self._identity})
            if before.get(key) != self._identity.get(key)
        ]
        if differ:
            raise ConfigError(
                f"{self.folder}: holds a half-done pruning with another {', '.join(differ)}. Give "
                f"the same arguments to go on with it, or name another --to."
            )
        self.block = state.block
        self.reports = [
            LayerReport(**{**report.model_dump(), "notes": tuple(report.notes)})
            for report in state.reports
        ]
        dtypes = {str(dtype): dtype for dtype in (self._memory, self._stored)}
        for part, written in state.parts.items():
            if part not in self._files or written.dtype not in dtypes:
                raise ConfigError(f"{self._state}: parts.{part}: is none of this model. {mend}")
            self.parts[part] = {"lossless": written.lossless, "dtype": dtypes[written.dtype]}
            if not (self.folder / self._files[part]).is_file():
                raise ConfigError(
                    f"{self.folder}: holds a half-done pruning without {self._files[part]}, which "
                    f"was written. Empty the folder and begin again."
                )

    def _commit(self) -> None:
        state = {
            "identity": self._identity,
            "block": self.block,
            "reports": [asdict(report) for report in self.reports],
            "parts": {p: {**told, "dtype": str(told["dtype"])} for p, told in self.parts.items()},
        }
        write_json(self._state, state)


class _Part(Shape):
    lossless: bool
    dtype: str


class _Report(Shape):
    """A `LayerReport` as the state has it."""

    name: str
    size: int
    kept: int
    cost: float | None
    damping: float | None
    notes: list[str]
    taylor: float | None


class _State(Shape):
    identity: dict[str, Any]
    block: int = Field(ge=0)
    reports: list[_Report]
    parts: dict[str, _Part]


@contextmanager
def half_done(folder: Path, identity: Mapping[str, Any], streamed: Streamed) -> Iterator[HalfDone]:
    """The half-done checkpoint in `folder`, or one that begins there; nobody else writes to it.

    `identity`: what its bytes depend on. A `ConfigError` where the folder holds anything else.
    """
    state = folder / STATE_FOLDER
    with storage_errors(folder, ANOTHER):
        state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{folder}: somebody else is writing it. Wait, or name another."
        ) from None
    try:
        yield HalfDone(folder, identity, streamed)
    finally:
        lock.release()


def sweep(folder: Path) -> None:
    """Takes away what only going on needed; nothing where there is none."""
    shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)
