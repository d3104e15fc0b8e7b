"""The state of a checkpoint that is written part by part, and gone on with where it stopped.

A part is a decoder block, a module outside of them with tensors of its own, or all that the model
does not know, and has one shard.
Until everything is checked a folder `optishear_stream` inside says what is done; a file is written
there and then moved, so what lies beside it is whole.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import Field

from optishear.errors import ConfigError
from optishear.export.checkpoint import (
    save_tensors,
    shard_name,
    write_beside,
    write_index,
    write_reports,
)
from optishear.export.place import ANOTHER, STATE_FOLDER
from optishear.export.rewritten import Rewritten
from optishear.models.coverage import Coverage
from optishear.pruning.reconstruction import WindowReport
from optishear.pruning.result import LayerReport
from optishear.reading.json_data import json_in
from optishear.reading.shapes import Shape, shaped
from optishear.records.atomic import storage_errors, whole_file
from optishear.records.run_directory import write_json
from optishear.solvers.quadratic import HeldBackError


AGAIN = "name another --to; the same command goes on with what was written before"
UNKNOWN = "what the model does not know"


class HalfDone:
    """The state of one folder; use `half_done` to get it.

    - `block`: the first decoder block that is not done.
    - `reports`: of the layers of those that are; `windows`: of their reconstructions.
    - `parts`: those that are written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], rewritten: Rewritten) -> None:
        self.folder, self.rewritten = folder, rewritten
        self.state_folder = folder / STATE_FOLDER
        self._state = self.state_folder / "state.json"
        self._identity = dict(identity)
        self._keys = _keys_of_parts(rewritten)
        self._files = {part: shard_name(n, len(self._keys)) for n, part in enumerate(self._keys)}
        self.block = 0
        self.reports: list[LayerReport] = []
        self.windows: list[WindowReport] = []
        self.parts: list[str] = []
        if self._state.exists():
            mend = f"Empty {folder} and begin again."
            state = json_in(self._state, mend)
            self._go_on(shaped(_State, state, str(self._state), mend), mend)
        self._commit()

    @property
    def outside(self) -> list[str]:
        """The parts that are no decoder blocks."""
        return [part for part in self._keys if part not in self.rewritten.blocks]

    def write(self, part: str) -> None:
        """Writes the shard of a part, a resident block as it is now; `done` counts it in."""
        block = part in self.rewritten.blocks
        tensors = self.rewritten.block(part) if block else self.rewritten.outside(self._keys[part])
        path = self.folder / self._files[part]
        with whole_file(path, AGAIN, aside=self.state_folder) as half:
            save_tensors(tensors, half)
        if part not in self.parts:
            self.parts.append(part)

    def done(
        self,
        block: int,
        reports: Sequence[LayerReport],
        windows: Sequence[WindowReport] = (),
    ) -> None:
        """All before decoder block `block` is written, with these reports since the last time."""
        self.block = block
        self.reports += reports
        self.windows += windows
        self._commit()

    def finish(self, coverage: Coverage) -> list[str]:
        """All that a checkpoint has but its recipe: index, what lies beside; notes on that."""
        with storage_errors(self.folder, AGAIN):
            write_reports(self.folder, coverage, self.reports, self.windows)
            notes = write_beside(self.rewritten, self.folder)
            write_index(self.folder, self._files.values())
        return notes

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
        self.reports = [report.read for report in state.reports]
        self.windows = [
            WindowReport(**{**w.model_dump(), "losses": tuple(w.losses), "notes": tuple(w.notes)})
            for w in state.windows
        ]
        self.parts = list(state.parts)
        for part in self.parts:
            if part not in self._files:
                raise ConfigError(f"{self._state}: parts: {part!r} is none of this model. {mend}")
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
            "windows": [asdict(window) for window in self.windows],
            "parts": self.parts,
        }
        write_json(self._state, state)


class _Tried(Shape):
    damping: float
    error: float


class _Report(Shape):
    """A `LayerReport` as the state has it."""

    name: str
    size: int
    kept: int
    cost: float | None
    damping: float | None
    notes: list[str]
    taylor: float | None
    tried: list[_Tried] = Field(default_factory=list)

    @property
    def read(self) -> LayerReport:
        tried = tuple(HeldBackError(each.damping, each.error) for each in self.tried)
        said = self.model_dump() | {"notes": tuple(self.notes), "tried": tried}
        return LayerReport(**said)


class _Window(Shape):
    """A `WindowReport` as the state has it."""

    window: str
    before: float
    after: float
    learned: int
    decided: int
    best: int
    losses: list[float]
    notes: list[str]


class _State(Shape):
    identity: dict[str, Any]
    block: int = Field(ge=0)
    reports: list[_Report]
    windows: list[_Window]
    parts: list[str]


@contextmanager
def half_done(
    folder: Path, identity: Mapping[str, Any], rewritten: Rewritten
) -> Iterator[HalfDone]:
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
        yield HalfDone(folder, identity, rewritten)
    finally:
        lock.release()


def _keys_of_parts(rewritten: Rewritten) -> dict[str, list[str]]:
    """The tensors of each part: modules outside of the blocks, blocks, and what nobody knows."""
    parts: dict[str, list[str]] = {}
    for name, keys in rewritten.keys_of.items():
        for key in keys:
            if rewritten.block_of(key) is None:
                parts.setdefault(name.rpartition(".")[0], []).append(key)
    for path in rewritten.blocks:
        parts[path] = [k for k in rewritten.stored.file_of if rewritten.block_of(k) == path]
    known = {key for keys in parts.values() for key in keys}
    if unknown := [key for key in rewritten.stored.file_of if key not in known]:
        parts[UNKNOWN] = unknown
    return parts


def sweep(folder: Path) -> None:
    """Takes away what only going on needed; nothing where there is none."""
    shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)
