"""A finished run as one file, `RUN.tar.xz` in place of the folder RUN, and read where it lies.

`tar xf` makes the folder again. One archive rather than compressed files in the folder, since what
fills a repository of many small runs is as much their number of files as their bytes. Paths of
files inside are written as if the archive were a folder (`RUN.tar.xz/journal.jsonl`), so that a
message names the file that it is about. Nothing of an archive is ever written to the disk.
"""

import lzma
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from optishear.errors import ConfigError


SUFFIX = ".tar.xz"
FILES = (
    "manifest.json",
    "layout.json",
    "journal.jsonl",
    "finalists.jsonl",
    "curves.jsonl",
    "descent.jsonl",
    "slopes.jsonl",
    "front.json",
    "evaluation.json",
)
NEEDED = ("manifest.json", "journal.jsonl")
LEAST_LIMIT = 64 * 2**20  # bytes that any archive may unpack to
MOST_TIMES = 100  # its own size, beyond that; journals become 10 times smaller
MOST_MEMORY = 256 * 2**20  # bytes of dictionary; what is packed here asks for 8 MiB
MEND = "Restore it, or pack the run again."


def is_packed(path: Path) -> bool:
    """Whether this names a packed run, as opposed to a folder or a file of one."""
    return path.name.endswith(SUFFIX) and path.is_file()


def is_there(path: Path) -> bool:
    """Whether a run has this file, packed or not. A `ConfigError` for a damaged archive."""
    return path.name in _held_by(path.parent) if is_packed(path.parent) else path.exists()


def content_of(path: Path, start: int = 0) -> bytes:
    """A file of a run from byte `start` on, packed or not.

    Raises `ConfigError` for a damaged archive, and `FileNotFoundError` where there is no such file.
    """
    if is_packed(path.parent):
        held = _held_by(path.parent)
        if path.name not in held:
            raise FileNotFoundError(path)
        return held[path.name][start:]
    with path.open("rb") as file:
        file.seek(start)
        return file.read()


def written_at(path: Path) -> float:
    """Seconds since 1970 at which a file of a run, or the archive that it is in, was written."""
    return (path.parent if is_packed(path.parent) else path).stat().st_mtime


def archive_of(folder: str, files: Mapping[str, bytes]) -> bytes:
    """The archive of a folder called so; the same files always give the same bytes."""
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, BytesIO(data))
    return lzma.compress(content.getvalue(), format=lzma.FORMAT_XZ, preset=6)


def _held_by(archive: Path) -> Mapping[str, bytes]:
    status = archive.stat()
    return _read(archive, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1)  # whoever reads a run reads several of its files
def _read(archive: Path, size: int, written: int) -> Mapping[str, bytes]:
    """The files in an archive, which is looked at anew when its size or date are others."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=BytesIO(_unpacked(archive)), mode="r:") as content:
            for member in content:
                folder, _, name = member.name.partition("/")
                if not member.isreg() or not folder or name not in FILES or name in files:
                    raise ConfigError(
                        f"{archive}: holds {member.name!r}, which is none of the files of one run "
                        f"({', '.join(FILES)}). {MEND}"
                    )
                file = content.extractfile(member)
                files[name] = b"" if file is None else file.read()
    except tarfile.TarError as error:
        raise ConfigError(f"{archive}: holds no folder of a run ({error}). {MEND}") from None
    if missing := [name for name in NEEDED if name not in files]:
        raise ConfigError(f"{archive}: holds no {missing[0]}, which every run has. {MEND}")
    return files


def _unpacked(archive: Path) -> bytes:
    packed = archive.read_bytes()
    limit = max(LEAST_LIMIT, MOST_TIMES * len(packed))
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)
    try:
        content = reader.decompress(packed, max_length=limit + 1)
    except lzma.LZMAError as error:
        raise ConfigError(f"{archive}: is damaged, or not xz ({error}). {MEND}") from None
    if len(content) > limit:
        raise ConfigError(
            f"{archive}: unpacks to more than {limit / 1e6:,.0f} MB from {len(packed) / 1e6:,.1f} "
            f"MB, which no run does. If it is one, unpack it: tar xf {archive}."
        )
    if not reader.eof:
        raise ConfigError(f"{archive}: is cut off after {len(packed)} bytes. {MEND}")
    return content
