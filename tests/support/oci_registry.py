"""A registry of the OCI kind that holds a channel, and the proxy that leads to it.

Channels lie in registries as conda's mirrors on GitHub have them: a repository for each package name and for the
repodata, a tag for each version and build, and layers that say by their media type what they are. `oci://` addresses
have no ports, so a proxy stands where HTTPS_PROXY says, and takes every connection to the registry under any name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

MEDIA_TYPES = {
    ".conda": "application/vnd.conda.package.v2",
    ".tar.bz2": "application/vnd.conda.package.v1",
    "repodata.json": "application/vnd.conda.repodata.v1+json",
    "repodata.json.zst": "application/vnd.conda.repodata.v1+json+zst",
}
TOKEN = "a-token"


@dataclass(slots=True)
class Repository:
    """Layers by tag, and files by digest."""

    tags: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    blobs: dict[str, Path] = field(default_factory=dict)

    def add(self, tag: str, file: Path, media_type: str) -> None:
        """Add a layer to a tag."""
        digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
        self.blobs[digest] = file
        layer = {"mediaType": media_type, "digest": digest, "size": file.stat().st_size}
        self.tags.setdefault(tag, []).append(layer)


def repositories(channel: Path, name: str) -> dict[str, Repository]:
    """Return the repositories of a channel, by their names below the registry."""
    found: dict[str, Repository] = {}
    for file in sorted(channel.glob("*/*")):
        subdir = f"{name}/{file.parent.name}"
        for ending, media_type in MEDIA_TYPES.items():
            if file.name == ending:
                found.setdefault(f"{subdir}/repodata.json", Repository()).add("latest", file, media_type)
            elif ending.startswith(".") and file.name.endswith(ending):
                package, version, build = file.name.removesuffix(ending).rsplit("-", 2)
                tag = f"{version}-{build}".replace("+", "__p__").replace("!", "__e__").replace("=", "__eq__")
                safe = f"zzz{package}" if package.startswith("_") else package
                found.setdefault(f"{subdir}/{safe}", Repository()).add(tag, file, media_type)
    return found


class OciRegistry:
    """Serves a channel as `oci://HOST/NAME` to who goes through its proxy; a context manager.

    Attributes:
        asked: the paths that were asked for, in order.
        demanded: what it wants to hear before it hands out tokens, as HTTP's basic authentication says it.
    """

    def __init__(self, channel: Path, name: str, tls: ssl.SSLContext) -> None:
        self.repositories = repositories(channel, name)
        self.asked: list[str] = []
        self.demanded = ""
        self._tls = tls
        self._proxy = _Proxy(("127.0.0.1", 0), _Handler)
        self._proxy.registry = self
        self._thread = threading.Thread(target=self._proxy.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join()

    def demand_password(self, user: str, password: str) -> None:
        """Hand out tokens only to who says this."""
        self.demanded = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    @property
    def proxy(self) -> str:
        """The address for HTTPS_PROXY."""
        return f"http://127.0.0.1:{self._proxy.server_address[1]}"

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """Speak TLS from now on, as the registry."""
        return self._tls.wrap_socket(connection, server_side=True)

    def answer(self, path: str, authorization: str) -> tuple[HTTPStatus, bytes]:
        """Return what the registry says."""
        self.asked.append(path)
        if path == "/token" and self.demanded in ("", authorization):
            return HTTPStatus.OK, json.dumps({"token": TOKEN}).encode()
        if authorization != f"Bearer {TOKEN}":
            return HTTPStatus.UNAUTHORIZED, b""
        for name, repository in self.repositories.items():
            if path.startswith(f"/v2/{name}/"):
                kind, _, reference = path.removeprefix(f"/v2/{name}/").partition("/")
                return self._reference(repository, kind, reference)
        return HTTPStatus.NOT_FOUND, b"{}"

    def _reference(self, repository: Repository, kind: str, reference: str) -> tuple[HTTPStatus, bytes]:
        if kind == "manifests" and reference in repository.tags:
            config = {"mediaType": "application/vnd.unknown.config.v1+json", "digest": "sha256:0", "size": 0}
            manifest = {"schemaVersion": 2, "config": config, "layers": repository.tags[reference]}
            return HTTPStatus.OK, json.dumps(manifest).encode()
        if kind == "blobs" and reference in repository.blobs:
            return HTTPStatus.OK, repository.blobs[reference].read_bytes()
        return HTTPStatus.NOT_FOUND, b"{}"


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    registry: OciRegistry

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    """Takes CONNECT, and then is the registry on the same connection."""

    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do_CONNECT(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        self.wfile.flush()
        try:
            self.connection = self.server.registry.wrap(self.connection)
        except OSError:  # a client that does not believe the certificate
            self.close_connection = True
            return
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)  # type: ignore[assignment]

    def finish(self) -> None:
        """Close what is open, of the TLS connection too."""
        with suppress(OSError):
            super().finish()
        self.connection.close()

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Keep the test's output clean."""

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        status, body = self.server.registry.answer(path, self.headers.get("Authorization", ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", f'Bearer realm="https://{self.headers["Host"]}/token",service="test"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)
