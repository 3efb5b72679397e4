"""A server over the scripted runner, and a client connected to it in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
from mcp import Client
from mcp.types import CallToolResult, TextContent

from mcp_conda_run.server.app import make_server
from mcp_conda_run.server.runs import Runs
from mcp_conda_run.settings import Settings

from .scripted import Scripted


@dataclass
class Served:
    """A client, and what it is connected to."""

    client: Client
    runs: Runs
    runner: Scripted

    async def call(self, tool: str = "run_python_code", **arguments: Any) -> CallToolResult:
        answer = await self.client.call_tool(tool, arguments)
        assert isinstance(answer, CallToolResult)
        return answer

    async def text(self, code: str, **arguments: Any) -> str:
        return text(await self.call(python_code=code, **arguments))


def text(answer: CallToolResult) -> str:
    first = answer.content[0]
    assert isinstance(first, TextContent)
    return first.text


@asynccontextmanager
async def serving(settings: Settings, **client_options: Any) -> AsyncIterator[Served]:
    runner = Scripted()
    async with (
        Runs(settings, lambda: nullcontext(runner)) as runs,
        Client(make_server(runs), **client_options) as client,
    ):
        yield Served(client, runs, runner)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", path=tmp_path / "working")


@pytest.fixture(params=["auto", "legacy"])
def era(request) -> str:
    """The client's `mode`: the newest protocol, or the one with an initialize handshake."""
    return request.param
