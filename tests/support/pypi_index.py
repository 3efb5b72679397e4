"""A PyPI on loopback: the JSON form of the simple repository API over HTTP/1.1, with files, and told to misbehave.

`index = PypiIndex()` is a context manager; `index.add(make_wheel(...))` publishes a file. Old enough for the usual
cool-down and minimal age unless `days_old` says otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

JSON_TYPE = "application/vnd.pypi.simple.v1+json"


class PypiIndex:
    """Serves projects; all methods may be called at any time.

    Attributes:
        files: what is served for each file name; replace an entry to tamper with it.
        pages: what is served for each project, by its normalized name; change it at will.
        kind: the content type of pages.
        status: the HTTP status of every answer, if not 0.
        login: `user:password` that every request must give, if not empty.
        asked: the paths that were asked for.
        held: answers for paths with `held_part` wait until it is set (see `hold`).
        reached: set when one waits.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.pages: dict[str, dict[str, Any]] = {}
        self.kind = JSON_TYPE
        self.status = 0
        self.login = ""
        self.asked: list[str] = []
        self.held_part = ""
        self.held = threading.Event()
        self.held.set()
        self.reached = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.index = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.held.set()
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """The index's URL."""
        return f"http://{self.address}/simple"

    def add(self, path: Path, *, days_old: float = 365, project: str = "", **fields: Any) -> None:
        """Publish a file; `fields` are put into its row of the page."""
        data = path.read_bytes()
        name = canonicalize_name(project or path.name.partition("-")[0])
        page = self.pages.setdefault(name, {"meta": {"api-version": "1.4"}, "name": name, "files": []})
        row = {
            "filename": path.name,
            "url": f"../../files/{path.name}",
            "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
            "size": len(data),
            "upload-time": (datetime.now(UTC) - timedelta(days=days_old)).isoformat(),
        }
        page["files"].append(row | fields)
        self.files[path.name] = data

    def quarantine(self, name: str) -> None:
        """Mark a project as PEP 792 says."""
        self.pages[name]["project-status"] = {"status": "quarantined", "reason": "it steals"}

    def hold(self, part: str = "") -> None:
        """Let answers for paths with this part wait; `reached` is set when the first one does."""
        self.held_part = part
        self.reached.clear()
        self.held.clear()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    index: PypiIndex

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        index = self.server.index
        path = unquote(urlsplit(self.path).path)
        index.asked.append(path)
        if index.held_part in path and not index.held.is_set():
            index.reached.set()
            index.held.wait()
        expected = "Basic " + base64.b64encode(index.login.encode()).decode()
        if index.login and self.headers.get("authorization") != expected:
            self._answer(401, b"", "text/plain")
        elif index.status:
            self._answer(index.status, b"", "text/plain")
        elif path.startswith("/simple/") and (page := index.pages.get(path.split("/")[2])):
            self._answer(200, json.dumps(page).encode(), index.kind)
        elif path.startswith("/files/") and (data := index.files.get(path.rpartition("/")[2])):
            self._answer(200, data, "application/octet-stream")
        else:
            self._answer(404, b"", "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Keep the test's output clean."""
