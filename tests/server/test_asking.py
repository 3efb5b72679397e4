"""Packages of PyPI need the user's yes where the client can be asked; a real run on a local index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import CallToolResult, ElicitResult

from mcp_conda_run.server.app import make_server
from mcp_conda_run.server.runs import Runs
from mcp_conda_run.settings import Settings

from ..support.pypi_index import PypiIndex
from ..support.warm import small_settings
from ..support.wheels import make_wheel

CODE = "import gurobipy\ngurobipy.answer"  # the table says that PyPI has it and conda-forge has not


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PypiIndex]:
    with PypiIndex() as index:
        index.add(make_wheel(tmp_path, "gurobipy", files={"gurobipy/__init__.py": "answer = 42\n"}))
        yield index


@pytest.fixture
def settings(warm_small_cache: Path, small_channel: Path, index: PypiIndex, tmp_path: Path) -> Callable[..., Settings]:
    def make(**others: object) -> Settings:
        return small_settings(warm_small_cache, small_channel, path=tmp_path / "work", pypi_index=index.url, **others)

    return make


async def call(settings: Settings, **client: Any) -> CallToolResult:
    async with Runs(settings) as runs, Client(make_server(runs), mode="legacy", **client) as session:
        return await session.call_tool("run_python_code", {"python_code": CODE})


def answering(action: str, install: bool, heard: list[str]) -> Callable[..., Any]:
    async def answer(_: Any, params: Any) -> ElicitResult:
        heard.append(params.message)
        return ElicitResult(action=action, content={"install": install} if action == "accept" else None)

    return answer


async def test_a_user_who_agrees_gets_the_package(settings: Callable[..., Settings]):
    heard: list[str] = []
    result = await call(settings(), elicitation_callback=answering("accept", True, heard))
    assert result.structured_content is not None
    assert result.structured_content["status"] == "success", result
    assert len(heard) == 1
    assert "gurobipy" in heard[0]


@pytest.mark.parametrize(("action", "install"), [("accept", False), ("decline", False), ("cancel", False)])
async def test_a_user_who_does_not_agree_gets_no_package(settings: Callable[..., Settings], action: str, install: bool):
    heard: list[str] = []
    result = await call(settings(), elicitation_callback=answering(action, install, heard))
    assert result.structured_content is not None
    assert result.structured_content["status"] == "run-error"
    assert "did not agree" in str(result.structured_content)
    assert len(heard) == 1


async def test_a_client_that_cannot_be_asked_gets_what_the_table_vouches_for(settings: Callable[..., Settings]):
    result = await call(settings())
    assert result.structured_content is not None
    assert result.structured_content["status"] == "success", result


async def test_where_asking_is_the_rule_a_client_that_cannot_be_asked_gets_none(settings: Callable[..., Settings]):
    result = await call(settings(pip="ask"))
    assert result.structured_content is not None
    assert result.structured_content["status"] == "run-error"
