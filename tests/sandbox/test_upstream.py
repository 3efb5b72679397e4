"""Runs behind a proxy of the machine's own: what goes through it, what does not, and that its credentials stay here."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from mcp_conda_run.sandbox import proxy
from mcp_conda_run.sandbox.policy import NetworkPolicy
from mcp_conda_run.sandbox.upstream import UpstreamError, is_name_of_the_internet, upstream_for

from .conftest import Host
from .test_proxy import service

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
UNKNOWN = "data.example.invalid"
"""A name that nobody can look up (RFC 6761): only the proxy beyond ours could."""
WANTED = "Basic " + base64.b64encode(b"me:secret%word").decode()


@pytest.fixture(autouse=True)
def no_other_proxy(monkeypatch: pytest.MonkeyPatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def beyond(status: bytes = b"200 Connection established") -> AsyncIterator[tuple[int, list[bytes]]]:
    """A proxy that records what it is asked, and plays the destination itself."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
        if status.startswith(b"200"):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def ask(policy: str, request: str, *, more: bytes = b"") -> bytes:
    """Send a request through our proxy; return all that comes back."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with proxy.serving(listener, NetworkPolicy.parse(policy)), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.encode())
        answer = b""
        if more:
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.write(more)
        answer += await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


CONNECT = f"CONNECT {UNKNOWN}:443 HTTP/1.1\r\n\r\n"


async def test_a_run_is_connected_through_the_proxy_beyond(monkeypatch: pytest.MonkeyPatch):
    async with beyond() as (port, seen):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        answer = await ask("full", CONNECT, more=b"GET / HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"hello")
    assert seen[0] == f"CONNECT {UNKNOWN}:443 HTTP/1.1\r\nHost: {UNKNOWN}:443\r\n\r\n".encode()


async def test_a_plain_request_goes_through_it_too(monkeypatch: pytest.MonkeyPatch):
    async with beyond() as (port, seen):
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{port}")
        answer = await ask("full", f"GET http://{UNKNOWN}/a HTTP/1.1\r\nHost: {UNKNOWN}\r\n\r\n")
    assert answer.endswith(b"hello")
    assert seen[0].startswith(f"CONNECT {UNKNOWN}:80 ".encode())
    assert seen[1].startswith(b"GET /a HTTP/1.1\r\n")


async def test_its_credentials_go_to_it(monkeypatch: pytest.MonkeyPatch):
    async with beyond() as (port, seen):
        monkeypatch.setenv("ALL_PROXY", f"http://me:secret%25word@127.0.0.1:{port}")
        await ask("full", CONNECT, more=b"GET / HTTP/1.1\r\n\r\n")
    assert f"Proxy-Authorization: {WANTED}\r\n".encode() in seen[0]


async def test_what_the_run_says_of_credentials_does_not(monkeypatch: pytest.MonkeyPatch):
    async with beyond() as (port, seen):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        await ask("full", f"GET http://{UNKNOWN}/ HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\n\r\n")
    assert b"eDp5" not in b"".join(seen)


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"403 Forbidden", b"nonsense"])
async def test_a_refusal_says_why_and_holds_no_credentials(monkeypatch: pytest.MonkeyPatch, status: bytes):
    async with beyond(status) as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secretword@127.0.0.1:{port}")
        answer = await ask("full", CONNECT)
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"the proxy of this machine refuses" in answer
    assert b"secretword" not in answer
    assert b"me:" not in answer


@pytest.mark.parametrize("host", ["10.1.2.3", "169.254.169.254", "127.0.0.1", "localhost", "[::1]"])
async def test_private_addresses_are_not_asked_of_it(monkeypatch: pytest.MonkeyPatch, host: str):
    async with beyond() as (port, seen):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        answer = await ask("full", f"CONNECT {host}:443 HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert seen == []


@pytest.mark.parametrize("host", ["no-such-machine-here", "wiki.no-such.internal", "no-such-printer.local"])
async def test_names_of_private_networks_are_not_asked_of_it(monkeypatch: pytest.MonkeyPatch, host: str):
    async with beyond() as (port, seen):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        answer = await ask("full", f"CONNECT {host}:443 HTTP/1.1\r\n\r\n")
    assert answer.split()[1] in {b"403", b"502"}
    assert seen == []


async def test_a_listed_name_that_is_unknown_here_is_asked_of_it(monkeypatch: pytest.MonkeyPatch):
    async with beyond() as (port, seen):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        await ask("wiki.no-such.internal:443", "CONNECT wiki.no-such.internal:443 HTTP/1.1\r\n\r\n", more=b"\r\n\r\n")
    assert seen[0].startswith(b"CONNECT wiki.no-such.internal:443 ")


async def test_what_is_not_listed_is_not_asked_of_it(monkeypatch: pytest.MonkeyPatch):
    async with beyond() as (port, seen):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        answer = await ask("other.example.org", CONNECT)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert seen == []


async def test_a_listed_service_of_this_machine_is_reached_directly(monkeypatch: pytest.MonkeyPatch):
    async with beyond() as (port, seen), service() as (own, _):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        answer = await ask(f"localhost:{own}", f"GET http://localhost:{own}/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.endswith(b"hello")
    assert seen == []


async def test_a_proxy_that_is_not_there_is_an_answer(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    assert (await ask("full", CONNECT)).startswith(b"HTTP/1.1 502 ")


def test_a_run_knows_nothing_of_it(hosts: Callable[[str], Host], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secretword@127.0.0.1:9")
    host = Host("own", hosts("own").place)
    code = "import os; print(os.environ['HTTPS_PROXY'], 'secretword' in str(os.environ))"
    assert host.run("A", code, network="full")["out"] == "http://127.0.0.1:3128 False\n"
    host.close()


# --- which, and when --------------------------------------------------------------------------------------------------


def chosen(scheme: str, host: str, port: int = 443, **variables: str) -> str:
    found = upstream_for(scheme, host, port, variables)
    return f"{found.host}:{found.port}" if found is not None else ""


@pytest.mark.parametrize(
    ("scheme", "variables", "expected"),
    [
        ("https", {}, ""),
        ("https", {"https_proxy": "http://a:1", "http_proxy": "http://b:2"}, "a:1"),
        ("http", {"https_proxy": "http://a:1", "http_proxy": "http://b:2"}, "b:2"),
        ("http", {"https_proxy": "http://a:1"}, ""),
        ("http", {"ALL_PROXY": "http://c:3"}, "c:3"),
        ("https", {"https_proxy": "http://a:1", "HTTPS_PROXY": "http://z:9"}, "a:1"),
        ("https", {"HTTPS_PROXY": "https://a"}, "a:443"),
        ("https", {"HTTPS_PROXY": "a:8080"}, "a:8080"),
        ("https", {"HTTPS_PROXY": " "}, ""),
    ],
)
def test_the_variables_say_which(scheme: str, variables: dict[str, str], expected: str):
    assert chosen(scheme, "example.org", **variables) == expected


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("*", "example.org", True),
        ("example.org", "example.org", True),
        ("example.org", "data.example.org", True),
        (".example.org", "data.example.org", True),
        ("*.example.org", "data.example.org", True),
        ("example.org", "badexample.org", False),
        ("other.org, example.org", "example.org", True),
        ("example.org:443", "example.org", True),
        ("example.org:80", "example.org", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("fd00::/8", "fd00::1", True),
        ("10.1.2.3", "10.1.2.3", True),
        (",,", "example.org", False),
        ("not/a/network", "example.org", False),
    ],
)
def test_no_proxy_is_respected(no_proxy: str, host: str, direct: bool):
    assert (chosen("https", host, https_proxy="http://a:1", no_proxy=no_proxy) == "") is direct


@pytest.mark.parametrize("url", ["socks5://a:1", "http://", "http://a:port", "ftp://a"])
def test_a_proxy_that_cannot_be_used_is_an_error_without_its_text(url: str):
    with pytest.raises(UpstreamError) as raised:
        chosen("https", "example.org", https_proxy=url.replace("//", "//me:secretword@", 1))
    assert "secretword" not in str(raised.value)


def test_credentials_are_not_shown():
    assert "secretword" not in repr(upstream_for("https", "x.org", 443, {"https_proxy": "http://me:secretword@a:1"}))


@pytest.mark.parametrize(
    ("host", "may_be"),
    [("example.org", True), ("localhost", False), ("a.local", False), ("10.0.0.1", False), ("a.corp", False)],
)
def test_private_names_are_known_as_such(host: str, may_be: bool):
    assert is_name_of_the_internet(host) is may_be
