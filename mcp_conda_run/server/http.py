"""MCP over HTTP: streamable HTTP at /mcp and server-sent events at /sse, on one port, with /healthz and /metrics.

Called by the commands `http` and `sse`. Loopback unless told otherwise, and never beyond it without a token. TLS is a
proxy's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .. import __version__
from ..errors import HostError, SettingsError
from ..settings import Settings
from .app import make_server
from .bearer import BearerGate, read_token
from .lazy_runtime import OpenRunner
from .metrics import prometheus_text
from .patience import ImpatientProtocol
from .runs import Runs
from .shutdown import Deadline, Stop

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 1000
MAX_SESSIONS = 200
STREAMS_GRACE_S = 1
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - recognised, to be refused without allowed hosts


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in: with which token (empty: none is needed), and under which Host and Origin."""

    token: str
    security: TransportSecuritySettings


def serve(
    settings: Settings, *, host: str = "127.0.0.1", port: int = 3001, open_runner: OpenRunner | None = None
) -> int:
    """Serve until a signal comes; return the exit code.

    Args:
        settings: the knobs; `token`, `token_file` and `allowed_hosts` are of use only here.
        host: the address to listen on.
        port: the port; 0 for any free one. Where it listens is said on standard error.
        open_runner: what opens the runtime; the real one if not given.

    Raises:
        SettingsError: the host is no loopback address and the token or the allowed hosts are missing.
        HostError: the port cannot be had.
    """
    token = read_token(settings)
    access = Access(token, transport_security(settings, host, token))
    deadline = Deadline()
    with _listening(host, port) as listener:
        try:
            return asyncio.run(_serve(settings, listener, access, open_runner, deadline))
        finally:
            deadline.cancel()


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach the address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def transport_security(settings: Settings, host: str, token: str) -> TransportSecuritySettings:
    """Return which Host and Origin headers are accepted, against DNS rebinding.

    Raises:
        SettingsError: see `serve`.
    """
    names = [*_LOOPBACK_NAMES, *settings.allowed_hosts]
    if not is_loopback(host):
        if not token:
            raise SettingsError(
                f"Serving on {host} needs a token: whoever reaches this server can run code.",
                hint="Set MCP_CONDA_RUN_TOKEN or MCP_CONDA_RUN_TOKEN_FILE, or serve on 127.0.0.1 behind a proxy.",
            )
        if host in _ANY_ADDRESS and not settings.allowed_hosts:
            raise SettingsError(
                f"Serving on {host or 'every address'} needs the names under which clients reach it.",
                hint="Set MCP_CONDA_RUN_ALLOWED_HOSTS, such as lab.example.org.",
            )
        names.append(f"[{host}]" if ":" in host else host)
    hosts = [form for name in names for form in (name, f"{name}:*")]
    origins = [f"{scheme}://{form}" for scheme in ("http", "https") for form in hosts]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


def make_app(server: MCPServer[Any], runs: Runs, access: Access) -> Starlette:
    """Return both transports and the pages for operators as one application."""
    body = max(DEFAULT_MAX_REQUEST_BODY_SIZE, 2 * 1024 * runs.settings.max_code_kb)  # JSON escapes double code
    streamable = server.streamable_http_app(
        transport_security=access.security, max_request_body_size=body, max_sessions=MAX_SESSIONS
    )
    events = server.sse_app(transport_security=access.security, max_request_body_size=body)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(prometheus_text(runs), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[*streamable.routes, *events.routes, Route("/healthz", healthz), Route("/metrics", metrics)],
        middleware=[Middleware(BearerGate, token=access.token, open_paths=frozenset({"/healthz"}))],
        lifespan=lambda _: server.session_manager.run(),
    )


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its own signal handling, which would end the process before the runs are dead."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise HostError(
            f"Port {port} of {host} cannot be had: {error}.", hint="Choose another --port.", code="port-in-use"
        ) from None
    with listener:
        # Connections inherit it. asyncio sets it only on sockets that name their protocol (`socket.create_server` does
        # not), and without it an answer in two pieces waits 40 ms for the client's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


async def _serve(
    settings: Settings,
    listener: socket.socket,
    access: Access,
    open_runner: OpenRunner | None,
    deadline: Deadline,
) -> int:
    stop = Stop()
    with stop.on_signals():
        runs = Runs(settings, open_runner)
        app = make_app(make_server(runs), runs, access)
        web = _Uvicorn(
            uvicorn.Config(
                app,
                http=ImpatientProtocol,
                log_config=None,
                access_log=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=STREAMS_GRACE_S,
            )
        )
        serving = asyncio.create_task(web.serve(sockets=[listener]))
        runs.prepare()
        _announce(listener)
        ends: tuple[asyncio.Future[Any], ...] = (serving, stop.requested)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        number = stop.requested.result() if stop.requested.done() else 0
        deadline.start(128 + number if number else 1)
        web.should_exit = True
        await runs.close()  # first, so that waiting calls get their answers and their connections end
        await serving
    return 128 + number if number else 1


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    sys.stderr.write(f"mcp-conda-run serves {base}/mcp (streamable HTTP) and {base}/sse (server-sent events)\n")
    sys.stderr.flush()
