"""Files and folders that are there whole or not at all: all that is written beside and then moved.

While it is written it lies in a hidden folder beside its place, locked by who writes it. A process
that was killed lets go of the lock, so the next one that writes to that place clears what it left.
What comes out has the permissions that the umask gives: some libraries (safetensors among them)
write through files of their own that nobody else may read.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from optishear.errors import OptiShearError, StorageError


try:
    import fcntl
except ImportError:  # Windows: what a killed process left is then not told from what is written
    fcntl = None

NO_SPACE = "No space left on device"
ELSEWHERE = "name another place; what was written before is safe"
WRITER = ".writer"


@contextmanager
def whole_file(path: Path, advice: str = ELSEWHERE, aside: Path | None = None) -> Iterator[Path]:
    """Where to write a file that is `path` when this is left: on the disk itself, whole.

    `aside` is where it lies until then, if not beside `path`. Left by an error, nothing is
    changed; one of the disk's is a `StorageError`, and `advice` says what to do beside freeing
    space.
    """
    with storage_errors(path, advice), _scratch(path, aside) as folder:
        half = folder / path.name
        yield half
        path.parent.mkdir(parents=True, exist_ok=True)
        _settle(half, _usual_mode(folder))
        os.replace(half, path)


@contextmanager
def whole_folder(path: Path, advice: str = ELSEWHERE) -> Iterator[Path]:
    """The same for a folder, which is empty when this is entered. `path` may be an empty folder,
    but not hold anything."""
    with storage_errors(path, advice), _scratch(path, None) as folder:
        half = folder / path.name
        half.mkdir()
        yield half
        mode = _usual_mode(folder)
        for place, _, names in os.walk(half):
            for name in names:
                _settle(Path(place, name), mode)
            os.chmod(place, mode | (mode & 0o444) >> 2)  # who may read it may enter it
        os.replace(half, path)


def replace_file(path: Path, content: bytes, advice: str = ELSEWHERE) -> None:
    """The file is replaced whole or not at all: nobody ever reads half of it."""
    with whole_file(path, advice) as half:
        half.write_bytes(content)


@contextmanager
def storage_errors(where: Path, advice: str) -> Iterator[None]:
    """Says in one sentence, as a `StorageError`, that `where` could not be written and what to do.

    Libraries written in Rust report what the disk says as exceptions of their own, known by their
    text. Every other exception passes unchanged.
    """
    try:
        yield
    except OptiShearError:
        raise  # is a sentence already, perhaps of a file inside
    except Exception as error:
        number = _errno(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{where}: the disk is full ({error}). Free some space there, or {advice}."
            ) from error
        if number is not None:
            told = advice[0].upper() + advice[1:]
            raise StorageError(f"{where}: cannot be written ({error}). {told}.") from error
        raise


def _errno(error: Exception) -> int | None:
    """What the system said; None where it is not the system that said something."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if NO_SPACE in str(error):
        return errno.ENOSPC
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


@contextmanager
def _scratch(path: Path, aside: Path | None) -> Iterator[Path]:
    """A hidden folder beside `path` that is nobody else's; gone when this is left."""
    place = aside or path.parent
    place.mkdir(parents=True, exist_ok=True)
    folder, handle = _free_place(place, path.name)
    try:
        _clear(folder)
        yield folder
    finally:
        with suppress(OSError):  # what cannot be removed now is by the next one
            _clear(folder)
            (folder / WRITER).unlink()
            folder.rmdir()
        os.close(handle)


def _free_place(place: Path, name: str) -> tuple[Path, int]:
    """The first hidden folder for this name that nobody else writes in, and the handle on it."""
    for number in count():
        folder = place / f".{name}.{number}.half"
        if (handle := _claimed(folder)) is not None:
            return folder, handle
    raise AssertionError("Numbers do not come to an end.")


def _claimed(folder: Path) -> int | None:
    """A handle that keeps this folder for this process; None where another one has it."""
    try:
        folder.mkdir()
        made = True
    except FileExistsError:
        made = False
    try:
        handle = os.open(folder / WRITER, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:  # whoever had it has just removed it
        return None
    if _locked(handle, made) and _is_there(folder / WRITER, handle):
        return handle
    os.close(handle)
    return None


def _locked(handle: int, made: bool) -> bool:
    if fcntl is None:
        return made
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: what was there before may be somebody's
        return made
    return True


def _is_there(path: Path, handle: int) -> bool:
    """Not so where another one removed it between opening and locking."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _clear(folder: Path) -> None:
    """Of all but the lock, which goes last: until then nobody else may come in."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != WRITER:
            path.unlink()


def _usual_mode(folder: Path) -> int:
    """What a file gets that is made here and now. (The umask itself can only be read by setting
    it, for all threads.)"""
    probe = folder / ".mode"
    probe.touch(exist_ok=False)
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode


def _settle(path: Path, mode: int) -> None:
    if path.is_symlink():
        return
    os.chmod(path, mode)
    with path.open("rb") as file:
        os.fsync(file.fileno())
