"""A server on loopback that speaks as much of Hugging Face's API as fetching a file takes."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass
class Hub:
    """What the server has, how it behaves, and what it was asked."""

    repos: dict[str, dict[str, bytes]]
    url: str = ""
    gated: str = ""  # a repository that only the holder of `token` may read
    token: str = "hf_good"
    cut_at: int | None = None  # answers end there, in bytes from where they begin
    cuts: int = 10**6  # how many are cut before the connection is good again
    cut_at_last: int | None = None  # where those after them end; None: they do not
    lie: bool = False  # send other bytes than the checksum is of
    ranges: list[str | None] = field(default_factory=list)  # of each GET of a file
    storage: str = ""  # another host that files are redirected to
    tokens: list[tuple[str, str | None]] = field(default_factory=list)  # host, Authorization


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer as GET, without the body."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Answer a tree or a file."""
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        host, token = self.headers.get("Host", ""), self.headers.get("Authorization")
        self.hub.tokens.append((host, token))
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self._tree(found[1])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[3], body=body)
        else:
            self._error(404, "EntryNotFound")

    def _tree(self, repo: str) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            self._error(401, "RepoNotFound")
            return
        entries = [
            {
                "type": "file",
                "path": name,
                "size": len(data),
                "oid": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
                "lfs": {
                    "oid": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                },
            }
            for name, data in files.items()
        ]
        self._send(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())

    def _file(self, repo: str, name: str, *, body: bool) -> None:
        hub = self.hub
        data = hub.repos.get(repo, {}).get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if repo == hub.gated and not allowed:
            self._error(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            return
        if data is None:
            self._error(404, "EntryNotFound")
            return
        head = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        host = self.headers.get("Host", "")
        if hub.storage and host not in hub.storage:
            self._send(302, {**head, "Location": f"{hub.storage}{self.path}"}, b"")
            return
        if not body:
            self._send(200, head, data, body=False)
            return
        self._content(data, head)

    def _content(self, data: bytes, head: dict[str, str]) -> None:
        asked = self.headers.get("Range")
        self.hub.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if asked:
            head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        rest = data[start:]
        if self.hub.lie:
            rest = bytes(len(rest))
        self._send(206 if asked else 200, head, rest)

    def _send(self, status: int, head: dict[str, str], data: bytes, *, body: bool = True) -> None:
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not body:
            return
        hub = self.hub
        cut = hub.cut_at if hub.cuts else hub.cut_at_last
        if cut is not None and "ETag" in head:
            hub.cuts = max(0, hub.cuts - 1)
            self.wfile.write(data[:cut])
            self.close_connection = True
            return
        self.wfile.write(data)

    def _error(self, status: int, code: str) -> None:
        self._send(status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}")


@contextmanager
def serving_hub(repos: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """Serve repositories: {"org/name": {"file": bytes}}."""
    hub = Hub(repos)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
