"""The real server over the real runtime, for clients of other people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.real import HTTP, STDIO, environment
from tests.server.web import Web, running


@pytest.fixture(scope="session")
def server_env(warm_small_cache: Path, small_channel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a server that needs nothing but the small channel."""
    home = tmp_path_factory.mktemp("interop")
    (home / "working").mkdir()
    return environment(warm_small_cache, small_channel, home / "working") | {"HOME": str(home)}


@pytest.fixture(scope="session")
def web(server_env: dict[str, str]) -> Iterator[Web]:
    """One HTTP server for all clients."""
    with running(server_env, HTTP) as web:
        yield web


@pytest.fixture(scope="session")
def targets(server_env: dict[str, str], web: Web) -> dict[str, dict[str, object]]:
    """How a client script reaches a server, by transport."""
    return {
        "stdio": {"transport": "stdio", "command": STDIO[0], "args": STDIO[1:], "env": server_env},
        "sse": {"transport": "sse", "url": f"{web.base}/sse"},
        "http": {"transport": "http", "url": f"{web.base}/mcp"},
    }
