"""Clients that npm has against the real server, and the protocol's own conformance suite."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.server.real import STDIO
from tests.server.web import Web

from .checks import TOOLS, check
from .clients.common import CALLS
from .environments import last_line, node_with, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the server's runs need Linux")]

HERE = Path(__file__).parent
PACKAGES = (
    "node@24",  # the suite and the inspector need a newer one than many machines have
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/inspector@2.12.0",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
)
"""In one directory, as npm lets each have its own dependencies."""


def node(modules: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of these modules with their own node."""
    programs = modules / "node_modules" / ".bin"
    return run([programs / "node", *command], PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="session")
def typescript(targets: dict[str, dict[str, object]]) -> dict[str, Any]:
    """What the TypeScript SDK's client reported of each target."""
    modules = node_with(*PACKAGES)
    script = HERE / "clients" / "typescript.cjs"
    return last_line(node(modules, script, modules, json.dumps(targets), json.dumps(CALLS)))


@pytest.mark.parametrize("transport", ["stdio", "sse", "http"])
def test_the_typescript_client_gets_along(typescript, transport):
    check(typescript[transport])


def inspect(*arguments: str) -> dict[str, Any]:
    modules = node_with(*PACKAGES)
    done = node(modules, modules / "node_modules" / ".bin" / "mcp-inspector", "--cli", *arguments)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout)


def test_the_inspector_finds_no_fault_with_the_schemas(web: Web):
    listed = inspect(f"{web.base}/mcp", "--transport", "http", "--method", "tools/list", "--strict")
    assert sorted(tool["name"] for tool in listed["tools"]) == TOOLS


def test_the_inspector_runs_code(web: Web):
    call = ("--method", "tools/call", "--tool-name", "run_python_code", "--tool-arg", "python_code=6 * 7")
    answer = inspect(f"{web.base}/mcp", "--transport", "http", *call)
    assert answer["structuredContent"]["return_value"] == 42


CLAUDE_CODE = "@anthropic-ai/claude-code@2.1.330"
QUIET = {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}


def claude(home: Path, *arguments: str) -> str:
    """Run Claude Code's command line in a home of its own; return what it said. It needs no login for this."""
    program = node_with(CLAUDE_CODE) / "node_modules" / ".bin" / "claude"
    done = run([program, "mcp", *arguments], HOME=str(home), CLAUDE_CONFIG_DIR=str(home), **QUIET)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_claude_code_connects_over_each_transport(server_env, web: Web, tmp_path):
    variables = [part for name, value in server_env.items() if name != "HOME" for part in ("-e", f"{name}={value}")]
    claude(tmp_path, "add", "--scope", "user", "over-stdio", *variables, "--", *STDIO)
    claude(tmp_path, "add", "--scope", "user", "--transport", "http", "over-http", f"{web.base}/mcp")
    claude(tmp_path, "add", "--scope", "user", "--transport", "sse", "over-sse", f"{web.base}/sse")
    claude(tmp_path, "add", "--scope", "user", "nothing", "--", "false")
    listed = {line.partition(":")[0]: line for line in claude(tmp_path, "list").splitlines()}
    for name in ("over-stdio", "over-http", "over-sse"):
        assert listed[name].endswith("Connected"), listed
    assert not listed["nothing"].endswith("Connected")


async def test_what_a_model_reads_before_its_first_call_is_few_tokens(web: Web, tmp_path, record_testsuite_property):
    async with Client(streamable_http_client(f"{web.base}/mcp")) as client:
        tools = (await client.list_tools()).tools
        texts = {
            "instructions": client.instructions,
            "descriptions": " ".join(tool.description for tool in tools),
            "input schemas": json.dumps([tool.input_schema for tool in tools], separators=(",", ":")),
            "output schemas": json.dumps([tool.output_schema for tool in tools], separators=(",", ":")),
        }
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    modules = node_with("gpt-tokenizer@3")
    counts = last_line(run(["node", HERE / "clients" / "tokens.cjs", modules, tmp_path / "texts.json"]))
    record_testsuite_property("tokens", counts)
    assert counts["instructions"] + counts["descriptions"] + counts["input schemas"] < 1500
    assert counts["output schemas"] < 6500  # few clients show them to a model


@functools.cache
def conformance(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    modules = node_with(*PACKAGES)
    suite = modules / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    return node(modules, suite, "server", "--url", url, *arguments)


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
def test_the_server_conforms_but_for_what_is_listed(web: Web, version):
    baseline = HERE / f"conformance-{version}.yml"
    done = conformance(f"{web.base}/mcp", "--spec-version", version, "--expected-failures", str(baseline))
    assert done.returncode == 0, done.stdout[-5000:]
    assert "server-sse-multiple-streams" in done.stdout


@pytest.mark.parametrize(
    "scenario",
    [
        "http-header-validation",
        "caching",
        "sep-2164-resource-not-found",
    ],
)
def test_the_newest_protocol_is_kept_to(web: Web, scenario):
    done = conformance(f"{web.base}/mcp", "--spec-version", "2026-07-28", "--force", "--scenario", scenario)
    assert done.returncode == 0, done.stdout[-5000:]
