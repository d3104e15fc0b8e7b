"""A journal that somebody else is writing, read as it grows. Nothing here writes or locks."""

from pathlib import Path
from typing import Any

from optishear.records.lines import parsed
from optishear.records.packed import content_of


class JournalReader:
    """Reads each whole line of a journal once.

    - `layers`: names of the prunable layers in layout order; empty until the first line is there.

    The journal may not be there yet, its last line may be half written, and the file may be copied
    over from another machine again and again: only its beginning must not change.
    """

    def __init__(self, path: Path):
        self.path = path
        self._header: dict[str, Any] | None = None
        self._read = self._lines = 0  # bytes, all of them whole lines

    @property
    def layers(self) -> list[str]:
        return self._header["layers"] if self._header else []

    def new(self) -> list[dict[str, Any]]:
        """The entries that have come since the last call. A `ConfigError` for a damaged journal."""
        try:
            content = content_of(self.path, self._read)
        except FileNotFoundError:
            return []
        whole = content.rfind(b"\n") + 1
        self._header, entries = parsed(content[:whole], self.path, self._header, self._lines)
        self._read += whole
        self._lines += content[:whole].count(b"\n")
        return entries
