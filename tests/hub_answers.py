"""What the Hub on this machine answers: one method for each kind of request."""

import base64
import hashlib
import json
import re
import socket
import struct
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit


if TYPE_CHECKING:
    from hub_imitation import Hub, Stored, Trouble

GOOD = "hf_goodTokenOfSomebody"
STRANGER = "hf_tokenOfAStranger"
LARGE = (".safetensors", ".bin", ".parquet")  # what the Hub stores beside git

INFO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?")
TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?")
PATHS = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/([^/]+)")
AUTH = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/auth-check")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)")
COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)")
BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
BLOB = re.compile(r"/blob/([0-9a-f]{64})")


class Answering(BaseHTTPRequestHandler):
    server: "Hub"  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self._body())

    do_PUT = do_POST

    def _body(self) -> bytes:
        if (length := self.headers.get("Content-Length")) is not None:
            return self.rfile.read(int(length))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    @property
    def token(self) -> str | None:
        said = self.headers.get("Authorization")
        return None if said is None else said.removeprefix("Bearer ")

    def _answer(self, body: bytes) -> None:
        hub, parts = self.server, urlsplit(self.path)
        raw = parts.path
        hub.note(self.command, unquote(raw), self.token, self.headers.get("Range"))
        if hub.down is not None:
            return self._refuse(hub.down, "", "Out of order")
        if self.token not in (None, GOOD, STRANGER):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        query = parse_qs(parts.query)
        ways: list[tuple[re.Pattern[str], Callable[..., None]]] = [
            (TREE, self._tree), (PATHS, self._paths), (AUTH, self._auth), (FILE, self._file),
            (PREUPLOAD, self._preupload), (COMMIT, self._commit), (BATCH, self._batch),
            (BLOB, self._blob), (INFO, self._info),
        ]  # fmt: skip
        for pattern, way in ways:
            if (found := pattern.fullmatch(raw)) is not None:
                told = [None if part is None else unquote(part) for part in found.groups()]
                return way(*told, query=query, body=body)
        if raw == "/api/repos/create":
            asked = json.loads(body)
            id = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            if ("models", id) not in hub.stored:
                private = asked.get("private") or asked.get("visibility") == "private"
                hub.model(id, {".gitattributes": b"*.safetensors filter=lfs"}, private=private)
            return self._json({"url": f"{hub.url}/{id}", "id": id})
        if raw == "/api/validate-yaml":  # the fields of a card
            return self._json({"errors": [], "warnings": []})
        if raw == "/api/whoami-v2":
            return self._json({"type": "user", "name": "somebody", "auth": {}, "orgs": []})
        return self._refuse(404, "", "There is nothing of this kind here")

    # What is answered

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, data: Any, status: int = 200) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, words: str) -> None:
        headers = {"X-Error-Message": words, **({"X-Error-Code": code} if code else {})}
        self._send(status, json.dumps({"error": words}).encode(), headers)

    def _seen(self, kind: str, id: str) -> "Stored | None":
        """The repository, if who asks may know of it; else that is answered."""
        found = self.server.stored.get((kind, id))
        if found is None or (found.private and self.token not in found.readers):
            self._refuse(401 if self.token is None else 404, "RepoNotFound", "Repository not found")
            return None
        return found

    def _commit_at(self, kind: str, id: str, revision: str | None) -> "tuple[Stored, str] | None":
        found = self._seen(kind, id)
        if found is None:
            return None
        commit = found.at(revision or "main")
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return found, commit

    def _may_read(self, found: "Stored") -> bool:
        if not found.gated or self.token in found.readers:
            return True
        words = "Access to this repository is restricted."
        self._refuse(401 if self.token is None else 403, "GatedRepo", words)
        return False

    def _info(self, kind: str, id: str, revision: str | None, **_: Any) -> None:
        if (at := self._commit_at(kind, id, revision)) is None:
            return
        found, commit = at
        self._json(
            {
                "_id": id, "id": id, "sha": commit, "private": found.private,
                "gated": "auto" if found.gated else False, "disabled": False, "downloads": 0,
                "likes": 0, "tags": [],
                "siblings": [{"rfilename": name} for name in found.commits[commit]],
            }
        )  # fmt: skip

    def _tree(self, kind: str, id: str, revision: str, under: str | None, query: Any, **_: Any):
        if (at := self._commit_at(kind, id, revision)) is None:
            return
        files, start = at[0].commits[at[1]], f"{under}/" if under else ""
        below = [name for name in files if name.startswith(start)]
        if under and not below:
            self._refuse(404, "EntryNotFound", f"{under} does not exist")
            return
        deep = query.get("recursive", ["false"])[0].lower() == "true"
        nested = [name for name in below if "/" in name[len(start) :]]
        folders = sorted({name[: name.index("/", len(start))] for name in nested})
        told = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": x} for x in folders]
        told += [_entry(x, files[x]) for x in below if deep or x not in nested]
        self._json(told)

    def _paths(self, kind: str, id: str, revision: str, body: bytes, **_: Any) -> None:
        if (at := self._commit_at(kind, id, revision)) is None:
            return
        files = at[0].commits[at[1]]
        try:
            paths = json.loads(body)["paths"]
        except ValueError:
            paths = parse_qs(body.decode())["paths"]
        self._json([_entry(path, files[path]) for path in paths if path in files])

    def _auth(self, kind: str, id: str, **_: Any) -> None:
        found = self._seen(kind, id)
        if found is not None and self._may_read(found):
            self._json({})

    def _file(self, datasets: str | None, id: str, revision: str, name: str, **_: Any) -> None:
        at = self._commit_at("datasets" if datasets else "models", id, revision)
        if at is None or not self._may_read(at[0]):
            return
        data = at[0].commits[at[1]].get(name)
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        digest = _entry(name, data)
        headers = {"X-Repo-Commit": at[1], "Accept-Ranges": "bytes"}
        headers["ETag"] = f'"{digest.get("lfs", digest)["oid"]}"'
        if name.endswith(LARGE):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
        status, first, last = 200, 0, len(data)
        if (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) is not None:
            first, last = int(asked[1]), min(int(asked[2] or last) + 1, last)
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last - 1}/{len(data)}"
        trouble = self.server.trouble.get(name)
        if self.command == "GET" and trouble is not None and trouble.times > 0:
            trouble.times -= 1
            self._troubled(trouble, status, data[first:last], headers)
            return
        self._send(status, data[first:last], headers)

    def _troubled(self, trouble: "Trouble", status: int, data: bytes, headers: Any) -> None:
        self.close_connection = True
        if isinstance(trouble.what, int):
            return self._refuse(trouble.what, "", "Out of order")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: int(len(data) * trouble.share)])
        self.wfile.flush()
        if trouble.what == "stall":
            self.server.released.wait()
        if trouble.what == "reset":  # closed with nothing to linger for: the other side is told so
            at_once = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            self.rfile.close()
            self.connection.close()
        return None

    # What is pushed

    def _preupload(self, id: str, revision: str, body: bytes, **_: Any) -> None:
        files = json.loads(body)["files"]
        modes = {f["path"]: "lfs" if f["path"].endswith(LARGE) else "regular" for f in files}
        told = [
            {"path": path, "uploadMode": mode, "shouldIgnore": False}
            for path, mode in modes.items()
        ]
        self._json({"files": told})

    def _batch(self, id: str, body: bytes, **_: Any) -> None:
        wanted = json.loads(body)["objects"]
        where = {
            o["oid"]: {"upload": {"href": f"{self.server.url}/blob/{o['oid']}"}} for o in wanted
        }
        objects = [{**each, "actions": where[each["oid"]]} for each in wanted]
        self._json({"transfer": "basic", "objects": objects})

    def _blob(self, oid: str, body: bytes, **_: Any) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.uploaded[oid] = body
        self._send(200, b"")

    def _commit(self, id: str, revision: str, body: bytes, **_: Any) -> None:
        if (found := self._seen("models", id)) is None:
            return
        files = dict(found.commits.get(found.at(revision) or "", {}))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploaded[value["oid"]]
        made = found.commit(files, revision)
        self._json({"commitOid": made, "commitUrl": f"{self.server.url}/{id}/commit/{made}"})


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """What listings say of a file."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    entry["oid"] = hashlib.sha1(data).hexdigest()
    if path.endswith(LARGE):
        entry["lfs"] = {
            "oid": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "pointerSize": 9,
        }
    return entry
