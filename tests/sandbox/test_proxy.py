"""The proxy: what passes, what is refused, and that a hostile client gets nowhere; then the same from inside a run."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from mcp_conda_run.sandbox import proxy
from mcp_conda_run.sandbox.policy import NetworkPolicy

from .conftest import Host


@asynccontextmanager
async def service() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A service on the host's loopback that records what it is sent and answers with a greeting."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def ask(policy: str, request: bytes, *, more: bytes = b"") -> bytes:
    """Send a request through a proxy; return all that comes back."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with proxy.serving(listener, NetworkPolicy.parse(policy)), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = b""
        if more:
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.write(more)
        answer += await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


async def test_a_listed_service_can_be_asked_by_url():
    async with service() as (port, seen):
        answer = await ask(
            f"localhost:{port}", f"GET http://localhost:{port}/a?b=c HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
    assert answer.endswith(b"hello")
    assert seen[0].startswith(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")


async def test_a_listed_service_can_be_tunnelled_to():
    async with service() as (port, _):
        answer = await ask(
            f"127.0.0.1:{port}", f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode(), more=b"GET / HTTP/1.1\r\n\r\n"
        )
    assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK")


@pytest.mark.parametrize("form", ["CONNECT {h}:{p} HTTP/1.1\r\n\r\n", "GET http://{h}:{p}/ HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LOCALHOST", "localhost.", "0.0.0.0", "[::ffff:127.0.0.1]", "127.1", "2130706433"],
)
async def test_a_service_of_the_host_cannot_be_reached_under_any_name(host: str, form: str):
    async with service() as (port, seen):
        answer = await ask("full", form.format(h=host, p=port).encode())
    assert answer.split()[1] in {b"403", b"502"}
    assert seen == []


async def test_proxy_headers_are_not_passed_on():
    async with service() as (port, seen):
        request = f"GET http://localhost:{port}/ HTTP/1.1\r\nProxy-Authorization: secret\r\nAccept: x\r\n\r\n"
        await ask(f"localhost:{port}", request.encode())
    assert b"secret" not in seen[0]
    assert b"Accept: x" in seen[0]


@pytest.mark.parametrize(
    "request_",
    [
        *(b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"CONNECT nowhere HTTP/1.1\r\n\r\n"),
        *(b"CONNECT [::1 HTTP/1.1\r\n\r\n", b"CONNECT a:99999 HTTP/1.1\r\n\r\n", b"GET ftp://a/ HTTP/1.1\r\n\r\n"),
        b"CONNECT :80 HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_request_that_is_none_is_answered_as_such(request_: bytes):
    assert (await ask("full", request_)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("request_", [b"x" * 200_000, b"CONNECT \xff:80 HTTP/1.1\r\n\r\n"])
async def test_a_request_that_cannot_be_read_ends_the_connection(request_: bytes):
    with suppress(ConnectionError):  # reset instead of closed: the same
        assert await ask("full", request_) == b""


async def test_a_service_that_is_not_there_is_a_bad_gateway():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    answer = await ask(f"localhost:{port}", f"CONNECT localhost:{port} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 502 ")


async def test_the_end_of_the_context_ends_open_connections():
    async with service() as (port, _):
        listener = socket.create_server(("127.0.0.1", 0))
        async with proxy.serving(listener, NetworkPolicy.parse(f"localhost:{port}")):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(f"CONNECT localhost:{port} HTTP/1.1\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(20):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


# --- from inside ------------------------------------------------------------------------------------------------------

FETCH = """
import urllib.request
try:
    print(urllib.request.urlopen("http://localhost.:PORT/", timeout=10).read())
except Exception as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
@pytest.mark.parametrize(
    ("policy", "expected"),
    [("localhost:PORT", "b'hello'"), ("full", "403"), ("none", "name resolution"), ("localhost:1", "403")],
)
async def test_a_run_reaches_what_is_listed_and_nothing_else(hosts: Callable[[str], Host], policy: str, expected: str):
    async with service() as (port, _):
        code = FETCH.replace("PORT", str(port))
        network = policy.replace("PORT", str(port))
        answer = await asyncio.to_thread(hosts("own").run, "A", code, network=network)
    assert expected in answer["out"]
    assert answer["isolation"]["network"] == network
    assert answer["isolation"]["via"] == ("" if policy == "none" else "proxy")
