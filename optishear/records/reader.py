"""A journal that somebody else is writing, read as it grows. Nothing here writes or locks."""

import json
from pathlib import Path
from typing import Any

from optishear.errors import ConfigError
from optishear.records.journal import FORMAT


class JournalReader:
    """Reads each whole line of a journal once.

    - `layers`: names of the prunable layers in layout order; empty until the first line is there.

    The journal may not be there yet, its last line may be half written, and the file may be copied
    over from another machine again and again: only its beginning must not change.
    """

    def __init__(self, path: Path):
        self.path = path
        self.layers: list[str] = []
        self._read = 0  # bytes, all of them whole lines
        self._begun = False

    def new(self) -> list[dict[str, Any]]:
        """The entries that have come since the last call. A `ConfigError` for a damaged journal."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in content[:whole].splitlines()]
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.path}: damaged in the middle ({error}). Restore it or move it away."
            ) from None
        self._read += whole
        if lines and not self._begun:
            header, *lines = lines
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise ConfigError(
                    f"{self.path}: not a journal of this version ({FORMAT}). Move it away."
                )
            self.layers, self._begun = header["layers"], True
        return lines
