"""A memo of large files' hashes: a file that nothing was done to is not read again."""

import json
import time
from pathlib import Path

from optishear.assets.fetch import sha256_of
from optishear.records.cache import kept, key
from optishear.records.run_directory import write_json


YOUNG = 2 * 10**9  # nanoseconds: clocks of file systems are coarse, a second write could look alike


def remembered_sha256(path: Path) -> str:
    """sha256 of the file; from the cache while its size, place and times (that of its last change
    cannot be set by hand) are those of when it was read."""
    path = path.resolve()
    place, stands = key("hashes", {"path": str(path)}).path, _stands(path)
    known = kept(place, _read)
    if known is not None and known[0] == stands:
        return known[1]
    found = sha256_of(path)
    if _stands(path) == stands and time.time_ns() - max(stands[2:]) > YOUNG:
        write_json(place, {"file": stands, "sha256": found})
    return found


def _read(place: Path) -> tuple[list[int], str]:
    known = json.loads(place.read_bytes())
    return known["file"], known["sha256"]


def _stands(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
