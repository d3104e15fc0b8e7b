"""The place that a command writes to: checked and made before any work."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optishear.errors import ConfigError


@contextmanager
def folder_for(folder: Path, option: str) -> Iterator[None]:
    """A folder that `option` names, there and writable before the work inside is begun.

    A `ConfigError` says why it cannot be. Folders made for it go again if nothing came to lie in
    them, so that a mistake found later leaves nothing.
    """
    made = _make(folder, option)
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):  # something lies in it
                path.rmdir()


@contextmanager
def file_for(path: Path | None, option: str) -> Iterator[None]:
    """As `folder_for`, for a file in it, which is replaced if it is there; None needs none."""
    if path is None:
        yield
        return
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder. Name a file, for instance one in it.")
    with folder_for(path.parent, option):
        yield


def refuse_unwritable(folder: Path, option: str) -> None:
    """A `ConfigError` where the folder is not there and could not be made, or not be written to.
    Nothing is left behind."""
    with folder_for(folder, option):
        pass


def _make(folder: Path, option: str) -> list[Path]:
    """The folders that were not there before, innermost first."""
    missing: list[Path] = []
    try:
        for path in (folder, *folder.parents):
            if path.exists() or path.is_symlink():
                break
            missing.append(path)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # has no name on most systems, so that not even a date changes
    except OSError as error:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise ConfigError(
            f"{option} {folder}: {_why(folder, error)}. Name another place, or see to its "
            f"permissions."
        ) from None
    return missing


def _why(folder: Path, error: OSError) -> str:
    for path in (folder, *folder.parents):
        with suppress(OSError):
            if path.is_symlink() and not path.exists():
                return f"{path} is a link to nothing"
            if path.exists() and not path.is_dir():
                return f"{path} is a file" if path != folder else "is a file"
    return f"cannot be written to ({error.strerror or error})"
