"""Clients in Python, each in an environment of its own, against the real server: what a model gets to see."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .checks import check
from .environments import last_line, python_with, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the server's runs need Linux")]

CLIENTS = Path(__file__).parent / "clients"
REQUIREMENTS = {
    "mcp2": ("mcp>=2.3,<3",),
    "mcp1": ("mcp>=1.30,<2",),
    "pydantic_ai2": ("pydantic-ai-slim[mcp]>=2,<3",),
    "pydantic_ai1": ("pydantic-ai-slim[mcp]>=1.107,<2", "mcp<2"),
    "fastmcp_client": ("fastmcp>=4,<5",),
    "openai_agents": ("openai-agents>=0.24,<1", "mcp>=2.3,<3"),
    "langchain": ("langchain-mcp-adapters>=0.3.2,<0.4",),
}


Reports = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def reports(targets: dict[str, dict[str, object]]) -> Reports:
    """What a client reported of each target; it runs once for all tests, as importing it takes most of the time."""

    @functools.cache
    def converse(client: str) -> dict[str, Any]:
        python = python_with(*REQUIREMENTS[client])
        wanted = targets if client != "mcp2" else eras(targets)
        return last_line(run([python, CLIENTS / f"{client}.py", json.dumps(wanted)]))

    return converse


def eras(targets: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return the targets with both modes of the official client; server-sent events know the older protocol only."""
    modes = [(name, mode) for name in targets for mode in ("auto", "legacy") if (name, mode) != ("sse", "auto")]
    return {f"{name}-{mode}": {**targets[name], "mode": mode} for name, mode in modes}


@pytest.mark.parametrize("transport", ["stdio", "sse", "http"])
@pytest.mark.parametrize("client", [name for name in REQUIREMENTS if name != "mcp2"])
def test_the_client_gets_along(reports, client, transport):
    check(reports(client)[transport])


@pytest.mark.parametrize(
    ("target", "protocol"),
    [
        ("stdio-auto", "2026-07-28"),
        ("stdio-legacy", "2025-11-25"),
        ("http-auto", "2026-07-28"),
        ("http-legacy", "2025-11-25"),
        ("sse-legacy", "2025-11-25"),
    ],
)
def test_the_official_client_gets_along_in_both_eras(reports, target, protocol):
    check(reports("mcp2")[target])
    assert reports("mcp2")[target]["protocol"] == protocol


def test_fastmcp_types_the_value(reports):
    assert reports("fastmcp_client")["http"]["typed"] == 10
