"""A channel over HTTP/1.1 on loopback, that records what was asked and can be told to misbehave.

Used through the fixture `http_channel`. Answers are never `304 Not Modified`: py-rattler's shard cache cannot live with
one that has no ETag. Paths are matched with `fnmatch` patterns, such as `*/numpy-*.conda`, against the path of the URL
(`/linux-64/numpy-2.1.3-cp312_0.conda`).
"""

from __future__ import annotations

import base64
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

CHUNK_BYTES = 64 * 1024
WAIT_S = 60


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came in."""

    method: str
    path: str


@dataclass(slots=True)
class Fault:
    """How answers for paths of a pattern differ from good ones, as often as `times` says (None: always)."""

    pattern: str
    times: int | None = None
    status: int = 0
    disconnect: bool = False
    corrupt: bool = False
    keep_bytes: int | None = None
    bytes_per_s: float = 0
    gate: Gate | None = None


@dataclass(slots=True)
class Gate:
    """Holds answers back after their first bytes, until it is opened."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def wait_until_reached(self, timeout_s: float = WAIT_S) -> None:
        """Return when a client is waiting for the rest of an answer."""
        if not self.reached.wait(timeout_s):
            raise TimeoutError("no client asked for the held path")

    def open(self) -> None:
        """Let the held answers go on."""
        self.opened.set()


class ChannelServer:
    """Serves a directory; a context manager. All methods may be called at any time from any thread."""

    def __init__(self, directory: Path, tls: ssl.SSLContext | None = None) -> None:
        self.directory = directory.resolve()
        self._lock = threading.Condition()
        self._seen: list[Seen] = []
        self._faults: list[Fault] = []
        self._stopping = threading.Event()
        self._demanded = ""
        self._prefix = ""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.channel = self
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.mend()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The channel's URL, without a slash at the end."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    # --- what was asked ---

    @property
    def requests(self) -> list[Seen]:
        """All requests so far, in the order in which they came in."""
        with self._lock:
            return list(self._seen)

    def paths(self, pattern: str = "*") -> list[str]:
        """Return the paths that were asked for with GET."""
        return [seen.path for seen in self.requests if seen.method == "GET" and fnmatchcase(seen.path, pattern)]

    def forget(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._seen.clear()

    def wait_for(self, pattern: str, timeout_s: float = WAIT_S) -> None:
        """Return when a path of the pattern has been asked for."""
        with self._lock:
            if not self._lock.wait_for(lambda: any(fnmatchcase(s.path, pattern) for s in self._seen), timeout_s):
                raise TimeoutError(f"nobody asked for {pattern}")

    # --- how to misbehave ---

    def fail(self, pattern: str, status: int = 500, times: int | None = None) -> None:
        """Answer with this HTTP status."""
        self._misbehave(Fault(pattern, times, status=status))

    def disconnect(self, pattern: str, times: int | None = None) -> None:
        """Close the connection without an answer."""
        self._misbehave(Fault(pattern, times, disconnect=True))

    def corrupt(self, pattern: str, times: int | None = None) -> None:
        """Send the right number of bytes with one of them changed."""
        self._misbehave(Fault(pattern, times, corrupt=True))

    def truncate(self, pattern: str, keep_bytes: int = 1000, times: int | None = None) -> None:
        """Announce the whole length, send the first bytes, and close the connection."""
        self._misbehave(Fault(pattern, times, keep_bytes=keep_bytes))

    def slow(self, pattern: str, bytes_per_s: float, times: int | None = None) -> None:
        """Send no faster than this."""
        self._misbehave(Fault(pattern, times, bytes_per_s=bytes_per_s))

    def hold(self, pattern: str) -> Gate:
        """Send half of the answer, and the rest when the gate that is returned has been opened."""
        gate = Gate()
        self._misbehave(Fault(pattern, gate=gate))
        return gate

    def demand_password(self, user: str, password: str) -> None:
        """Answer 401 to who does not say this, with HTTP's basic authentication."""
        self._demanded = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def demand_token(self, token: str) -> None:
        """Be a channel below `/t/TOKEN/`, and answer 401 to who asks elsewhere."""
        self._prefix = f"/t/{token}/"

    def mend(self) -> None:
        """Behave again; opens every gate."""
        with self._lock:
            gates = [fault.gate for fault in self._faults if fault.gate]
            self._faults.clear()
        for gate in gates:
            gate.open()

    def _misbehave(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    # --- for the handler ---

    def admitted(self, path: str, authorization: str) -> str | None:
        """Return the path below the channel; None for who may not enter."""
        if not path.startswith(self._prefix) or (self._demanded and authorization != self._demanded):
            return None
        return "/" + path.removeprefix(self._prefix) if self._prefix else path

    def note(self, method: str, path: str) -> Fault:
        """Record a request; return how it is to be answered."""
        with self._lock:
            self._seen.append(Seen(method, path))
            self._lock.notify_all()
            for fault in self._faults:
                if fnmatchcase(path, fault.pattern) and fault.times != 0:
                    if fault.times is not None and method == "GET":
                        fault.times -= 1
                    return fault
        return Fault("*")

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the server lives."""
        self._stopping.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    channel: ChannelServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Keep the test's output clean."""

    def _answer(self, *, with_body: bool) -> None:
        asked = unquote(urlsplit(self.path).path)
        path = self.server.channel.admitted(asked, self.headers.get("Authorization", ""))
        fault = Fault("*", status=401) if path is None else self.server.channel.note(self.command, path)
        path = path or asked
        file = (self.server.channel.directory / path.lstrip("/")).resolve()
        if fault.disconnect:
            self.close_connection = True
            return
        known = file.is_file() and file.is_relative_to(self.server.channel.directory)
        status = fault.status or (200 if known else 404)
        body = file.read_bytes() if status == 200 and known else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self._send(_damaged(body, fault), fault)

    def _send(self, body: bytes, fault: Fault) -> None:
        half = len(body) // 2
        if fault.gate:
            self.wfile.write(body[:half])
            self.wfile.flush()
            fault.gate.reached.set()
            fault.gate.opened.wait()
            self.wfile.write(body[half:])
            return
        pause: Callable[[float], None] = self.server.channel.pause
        size = CHUNK_BYTES if not fault.bytes_per_s else max(1, min(CHUNK_BYTES, int(fault.bytes_per_s / 20)))
        started = time.monotonic()
        for at in range(0, len(body), size):
            self.wfile.write(body[at : at + size])
            if fault.bytes_per_s:
                pause(max(0, (at + size) / fault.bytes_per_s - (time.monotonic() - started)))
        self.close_connection = self.close_connection or fault.keep_bytes is not None


def _damaged(body: bytes, fault: Fault) -> bytes:
    if fault.corrupt and body:
        middle = len(body) // 2
        return body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :]
    return body if fault.keep_bytes is None else body[: fault.keep_bytes]
