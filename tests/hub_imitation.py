"""A Hugging Face Hub on this machine: as much of its HTTP interface as downloads and pushes use.

It keeps repositories in memory, each with commits and names for them, and misbehaves on request.
"""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from hub_answers import FILE, GOOD, INFO, STRANGER, Answering


__all__ = ["GOOD", "STRANGER", "Asked", "Hub", "Stored", "Trouble"]


@dataclass
class Stored:
    """A repository. `readers`: tokens that may see it, or, of a gated one, read its files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    readers: frozenset[str] = frozenset({GOOD})

    def commit(self, files: Mapping[str, bytes], name: str) -> str:
        content = "".join(f"{k} {hashlib.sha1(v).hexdigest()}" for k, v in sorted(files.items()))
        made = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[made] = dict(files)
        self.names[name] = made
        return made

    def at(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.names.get(revision)


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    token: str | None
    range: str | None


@dataclass
class Trouble:
    """What happens to requests of files: `reset`, `stall` or `cut` after `share` of the bytes, or a
    status; so many times."""

    what: str | int
    times: int = 10**9
    share: float = 0.4


class Hub(ThreadingHTTPServer):
    """`asked`: every request so far. `trouble`: by the path of a file in its repository."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.stored: dict[tuple[str, str], Stored] = {}
        self.asked: list[Asked] = []
        self.trouble: dict[str, Trouble] = {}
        self.down: int | None = None  # the status that all answers have then
        self.uploaded: dict[str, bytes] = {}
        self.open: list[socket.socket] = []
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def note(self, *asked: Any) -> None:
        self.asked.append(Asked(*asked))

    def get_request(self) -> Any:
        connection, address = super().get_request()
        self.open.append(connection)
        return connection, address

    def close(self) -> None:
        """No answer any more, not even on a connection that is there already."""
        self.released.set()
        self.shutdown()
        self.server_close()
        while self.open:
            with contextlib.suppress(OSError):  # the other side was first
                self.open.pop().shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: Any) -> None:
        """Connections that a client or a test breaks are no news."""

    def model(self, id: str, files: Mapping[str, bytes], name: str = "main", **more: Any) -> str:
        """A commit of a model; returns its hash."""
        return self._repository("models", id, more).commit(files, name)

    def dataset(self, id: str, files: Mapping[str, bytes], name: str = "main", **more: Any) -> str:
        return self._repository("datasets", id, more).commit(files, name)

    def _repository(self, kind: str, id: str, more: Mapping[str, Any]) -> Stored:
        return self.stored.setdefault((kind, id), Stored(**more))

    def files_asked(self, method: str = "GET") -> list[str]:
        """Names of the files whose content was asked for, in order of the requests."""
        found = [FILE.fullmatch(each.path) for each in self.asked if each.method == method]
        return [each[4] for each in found if each is not None]

    def infos(self) -> int:
        """How often it was asked what a name stands for."""
        return sum(INFO.fullmatch(each.path) is not None for each in self.asked)
