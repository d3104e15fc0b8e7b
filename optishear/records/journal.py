"""Append-only record of evaluations: the search's memory, log, cache and resume file.

One JSON object a line. The first line says what was measured on what; every other line is one
evaluation, keyed by recipe and rung of fidelity, its counts in layout order so that it stays small.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from optishear.errors import ConfigError, StorageError
from optishear.recipe.recipe import SAID, Recipe
from optishear.records.lines import FORMAT, parsed
from optishear.records.packed import content_of


logger = logging.getLogger(__name__)

Key = tuple[str, int]  # recipe key, rung (search tokens)


class Journal:
    """The journal of one run, open for writing: locked, checked, its torn tail cut off.

    - `measure`: all that a value depends on beside the recipe; another measure is refused.
    - `layers`: names of the prunable layers in layout order.
    - `entries`: every evaluation so far by (recipe key, rung), in the order in which they came.

    Use it as a context manager; leaving it releases the lock. A process that dies releases it too.
    """

    def __init__(self, path: Path, measure: Mapping[str, Any], layers: Sequence[str]):
        self.path, self.measure, self.layers = path, dict(measure), tuple(layers)
        self.entries: dict[Key, dict[str, Any]] = {}
        self._lock = _lock_of(path)

    def __enter__(self) -> "Journal":
        _acquire(self._lock, self.path)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _open(self) -> None:
        header = {"format": FORMAT, "measure": self.measure, "layers": list(self.layers)}
        found, entries, whole = read_journal(self.path) if self.path.exists() else (None, [], 0)
        if found is None:
            self._write(header, mode="wb")
            return
        refuse_other_measure(self.path, found, header)
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)
        self.entries = {(entry["key"], entry["rung"]): entry for entry in entries}

    def append(self, recipe: Recipe, rung: int, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Writes one evaluation and returns its entry as it will be read back, keys in the same
        order: a run that was resumed tells all it knows in the same words. On disk before this
        returns."""
        entry = {
            "key": recipe.key,
            "rung": rung,
            **outcome,
            "drop": [recipe.drop[name] for name in self.layers],
        }
        said = recipe.to_json()
        entry |= {part: said[part] for part in SAID if part in said}
        entry = json.loads(self._write(entry, mode="ab"))
        self.entries[entry["key"], entry["rung"]] = entry
        return entry

    def _write(self, line: Mapping[str, Any], mode: str) -> bytes:
        text = json.dumps(line, sort_keys=True, allow_nan=False).encode() + b"\n"
        try:
            with self.path.open(mode) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"{self.path}: could not be written ({error.strerror}). The "
                f"{len(self.entries)} evaluations before are safe; free some space, then run the "
                f"same command again to go on."
            ) from error
        return text


def refuse_second_writer(path: Path) -> None:
    """Raises a `ConfigError` if a process has this journal open; asked before a model is loaded."""
    lock = _lock_of(path)
    _acquire(lock, path)
    lock.release()


def has_writer(path: Path) -> bool | None:
    """Whether a process has this journal open; None where that cannot be told (a folder one may
    not write to, a file system without locks, another machine's copy).

    Asking takes a lock that nobody holds for as long as it takes to give it back.
    """
    lock = _lock_of(path)
    if not Path(lock.lock_file).exists():
        return False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return None
    lock.release()
    return False


def _lock_of(path: Path) -> BaseFileLock:
    return FileLock(path.with_suffix(".lock"))


def _acquire(lock: BaseFileLock, path: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{path.parent}: another process is writing to this run. Wait for it, stop it, or "
            f"choose another place with --out."
        ) from None


def read_journal(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]], int]:
    """Header, entries and the number of bytes that are whole lines. Never writes.

    A last line without its end, torn by a crash, does not count; a line before it that is no entry
    is an error, since something else than a crash did that.
    """
    content = content_of(path)
    whole = content.rfind(b"\n") + 1
    header, entries = parsed(content[:whole], path, None)
    return header, entries, whole


def refuse_other_measure(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` that names every part in which two measures differ."""
    old, new = found["measure"], wanted["measure"]
    parts = [
        f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    if found["layers"] != wanted["layers"]:
        parts.append("the layers differ")
    if parts:
        raise ConfigError(
            f"{path}: this journal belongs to another measure ({'; '.join(parts)}), so its values "
            f"cannot be compared. Undo the change, or start afresh with another --out."
        )


def recipe_of(entry: Mapping[str, Any], layers: Sequence[str]) -> Recipe:
    """The recipe of a journal line, its counts named again."""
    drop = dict(zip(layers, entry["drop"], strict=True))
    return Recipe.of_parts(entry, drop)


def memo_of(
    paths: Sequence[Path], measure: Mapping[str, Any], layers: Sequence[str]
) -> dict[Key, dict[str, Any]]:
    """What other journals of the same measure already know. They are read, never written."""
    memo: dict[Key, dict[str, Any]] = {}
    for path in paths:
        try:
            header, entries, _ = read_journal(path)
        except FileNotFoundError:  # an archive may hold none that is called so
            continue
        except ConfigError as error:  # not ours to mend, and only a memo is lost
            logger.warning("%s It is not used as a memo.", error)
            continue
        if header and header["measure"] == measure and header["layers"] == list(layers):
            memo |= {(entry["key"], entry["rung"]): entry for entry in entries}
    return memo
