"""An HTTP server process, and plain requests to it."""

import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from .wire import SCRIPTED, started, wait_until


@dataclass
class Web:
    """A running server."""

    base: str
    process: subprocess.Popen[bytes]

    def status(self, path: str, data: bytes | None = None, **headers: str) -> int:
        """Return the HTTP status of a request."""
        request = urllib.request.Request(self.base + path, data, {k.replace("_", "-"): v for k, v in headers.items()})
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def read(self, path: str) -> str:
        with urllib.request.urlopen(self.base + path, timeout=20) as response:
            return response.read().decode()


@contextmanager
def running(env: dict[str, str], command: list[str] | None = None) -> Iterator[Web]:
    with started(command or [*SCRIPTED, "http"], env, stderr=subprocess.PIPE) as wire:
        line = wire.process.stderr.readline().decode()
        found = re.search(r"http://[^/]+", line)
        assert found, line + wire.process.stderr.read().decode()
        web = Web(found[0], wire.process)
        wait_until(lambda: web.status("/healthz") == 200)
        yield web


def connection(web: Web, transport: str):
    return sse_client(f"{web.base}/sse") if transport == "sse" else streamable_http_client(f"{web.base}/mcp")
