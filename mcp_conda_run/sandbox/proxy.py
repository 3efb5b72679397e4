"""The way out of a run's empty network: an HTTP proxy in the server, on a socket that listens inside.

The listening socket is made in the run's network namespace and handed to the server, so that no process forwards and
nothing of the host is reachable but this. It asks the policy for each connection, and looks names up itself: what a
run says an address is does not count. Called by the tiers. The run is hostile: requests are bounded in size, number
and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import psutil

from .policy import Address, NetworkPolicy, address_of
from .upstream import is_name_of_the_internet, upstream_for

_log = logging.getLogger(__name__)

PORT = 3128
HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 30
IDLE_TIMEOUT_S = 600
CONNECTIONS = 128
CHUNK_BYTES = 64 * 1024

_HOP_BY_HOP = frozenset({b"proxy-connection", b"proxy-authorization", b"connection", b"keep-alive", b"te", b"upgrade"})


def proxy_variables(port: int = PORT) -> dict[str, str]:
    """Return the environment variables by which programs in a run find the proxy."""
    url = f"http://127.0.0.1:{port}"
    own = "localhost,127.0.0.1,::1"
    names = {"http_proxy": url, "https_proxy": url, "all_proxy": url, "no_proxy": own}
    return names | {name.upper(): value for name, value in names.items()}


@asynccontextmanager
async def serving(listener: socket.socket, policy: NetworkPolicy) -> AsyncIterator[None]:
    """Let the run connect to what the policy allows, for as long as the context lasts; owns the listener.

    Most runs connect to nothing: until the first of them does, this is one descriptor that the event loop looks at.
    """
    loop = asyncio.get_running_loop()
    proxy = _Proxy(policy, listener)
    listener.setblocking(False)
    loop.add_reader(listener, proxy.open)
    try:
        yield
    finally:
        await proxy.close()


class _RefusedError(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Proxy:
    def __init__(self, policy: NetworkPolicy, listener: socket.socket) -> None:
        self._policy = policy
        self._listener = listener
        self._server: asyncio.Task[asyncio.Server] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to serve: the first connection waits."""
        asyncio.get_running_loop().remove_reader(self._listener)
        start = asyncio.start_server(self.serve, sock=self._listener, limit=HEAD_BYTES)
        self._server = asyncio.ensure_future(start)

    async def close(self) -> None:
        """Serve no more, and end all connections."""
        if self._server is None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            return
        with contextlib.suppress(OSError):  # it could not be started: nothing was served
            (await self._server).close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection from the run."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio.start_server makes one for each connection
        if len(self._tasks) >= CONNECTIONS:
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except _RefusedError as error:
            await _answer(writer, error.status, str(error))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, UnicodeError) as error:
            _log.debug("a connection of a run ended: %r", error)
        except asyncio.CancelledError:
            pass  # the run is over; nobody waits for this task but close()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
        method, host, port, forwarded = _request(head)
        scheme = "https" if method == b"CONNECT" else "http"
        upstream_reader, upstream_writer = await self._connect(scheme, host, port)
        try:
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                upstream_writer.write(forwarded)
            await _relay((reader, upstream_writer), (upstream_reader, writer))
        finally:
            upstream_writer.close()

    async def _connect(self, scheme: str, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._policy.may_ask(host, port):
            raise _RefusedError("403 Forbidden", f"{host}:{port} is not on the run's allow-list")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                upstream = upstream_for(scheme, host, port)
                addresses = await self._allowed(host, port, by_name=upstream is not None)
                if upstream is None or any(map(_is_here, addresses)):
                    return await _open_first(addresses, port)
                return await upstream.connect(host, port)
        except TimeoutError:
            raise _RefusedError("504 Gateway Timeout", f"{host}:{port} does not answer") from None
        except socket.gaierror as error:
            raise _RefusedError("502 Bad Gateway", f"{host}: {error.strerror}") from None
        except OSError as error:
            raise _RefusedError("502 Bad Gateway", f"{host}:{port}: {error.strerror or error}") from None

    async def _allowed(self, host: str, port: int, *, by_name: bool) -> list[str]:
        """Return the addresses of a host that the run may connect to.

        Args:
            host: the destination's name or address.
            port: its port.
            by_name: whether another proxy will look the name up; then one that is unknown here has no addresses, and
                may be connected to if it is listed, or if nothing says that it is no name of the internet.

        Raises:
            _RefusedError: there is none.
            socket.gaierror: the host is not known.
        """
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            if by_name and (self._policy.lists(host, port) or is_name_of_the_internet(host)):
                return []
            raise
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = self._policy.allowed(host, port, addresses, own_addresses())
        if not allowed:
            raise _RefusedError(
                "403 Forbidden", f"{host}:{port} is on this machine or in a private network, and not listed"
            )
        return allowed


def _is_here(text: str) -> bool:
    address = address_of(text)
    return address is not None and (address.is_loopback or address in own_addresses())


def own_addresses() -> frozenset[Address]:
    """Return the addresses of this machine now: a service that listens on all of them is the host's all the same."""
    texts = (entry.address for entries in psutil.net_if_addrs().values() for entry in entries)
    return frozenset(address for text in texts if (address := address_of(text)) is not None)


def _request(head: bytes) -> tuple[bytes, str, int, bytes]:
    """Return the method, the destination, and the head as it goes on to the destination."""
    line, _, rest = head.partition(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3:  # noqa: PLR2004 - method, target, version (RFC 9112, 3)
        raise _RefusedError("400 Bad Request", "not a request line")
    method, target, version = parts
    if method == b"CONNECT":
        host, port = _destination(f"//{target.decode('ascii')}", 0)
        return method, host, port, b""
    url = target.decode("ascii")
    if not url.lower().startswith("http://"):
        raise _RefusedError("400 Bad Request", "this is a proxy: ask it for http:// URLs, or CONNECT")
    host, port = _destination(url, 80)
    split = urlsplit(url)
    path = (split.path or "/") + (f"?{split.query}" if split.query else "")
    rows = [row for row in rest.split(b"\r\n") if row and row.partition(b":")[0].strip().lower() not in _HOP_BY_HOP]
    forwarded = b"\r\n".join([b" ".join([method, path.encode("ascii"), version]), *rows, b"Connection: close"])
    return method, host, port, forwarded + b"\r\n\r\n"


def _destination(url: str, default_port: int) -> tuple[str, int]:
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port or default_port
    except ValueError:
        host, port = None, 0
    if not host or not port:
        raise _RefusedError("400 Bad Request", "no destination")
    return host.rstrip("."), port


async def _open_first(addresses: list[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address that answers; by address, so that no second look-up can change it."""
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            return await asyncio.open_connection(address, port)
        except OSError as error:
            failure = error
    raise failure


async def _relay(*ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Pass bytes on in both directions until both have ended, one has failed, or nothing has moved for long."""
    async with asyncio.TaskGroup() as group:
        for reader, writer in ways:
            group.create_task(_pump(reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                data = await reader.read(CHUNK_BYTES)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except (OSError, TimeoutError):
        writer.transport.abort()


async def _answer(writer: asyncio.StreamWriter, status: str, why: str) -> None:
    body = f"mcp-conda-run: {why}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            await writer.drain()
