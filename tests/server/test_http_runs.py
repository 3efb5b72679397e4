"""The real server over the real runtime, spoken to over HTTP: runs, disconnects, and what outlives them."""

import asyncio
import http.client
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from mcp_conda_run.server.tasks import IDENTIFIER

from .conftest import text
from .real import HTTP, environment
from .test_end_to_end import of_this_run
from .web import Web, connection, running
from .wire import appears, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

NEWEST = "2026-07-28"
TRANSPORTS = pytest.mark.parametrize(("transport", "mode"), [("sse", "legacy"), ("http", "legacy"), ("http", "auto")])


@pytest.fixture
def working(tmp_path) -> Path:
    (tmp_path / "working").mkdir()
    return tmp_path / "working"


@pytest.fixture
def web(warm_small_cache, small_channel, working) -> Iterator[Web]:
    env = environment(warm_small_cache, small_channel, working) | {"MCP_CONDA_RUN_CLIENT_RUNS": "2"}
    with running(env, HTTP) as web:
        yield web


def code_that_waits(marker: str) -> str:
    return (
        f"import os, time, pathlib\nos.environ['MARK'] = '{marker}'\n"
        "pid = os.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 600'], os.environ) if os.path.exists('/bin/sh') else 0\n"
        "pathlib.Path('/working/begun').write_text('yes')\n"
        "while not os.path.exists('/working/go'): time.sleep(0.05)\n"
        "'went on'"
    )


@TRANSPORTS
async def test_code_runs(web, transport, mode):
    async with Client(connection(web, transport), mode=mode) as client:
        answer = await client.call_tool("run_python_code", {"python_code": "import numpy\nint(numpy.arange(4).sum())"})
    assert "<return_value>\n6\n</return_value>" in text(answer)


def modern_request(
    method: str, about: str, params: dict, extensions: dict[str, dict] | None = None
) -> tuple[str, dict[str, str]]:
    """Return the body and the headers of a request as a client of the newest protocol sends it."""
    envelope = {
        "io.modelcontextprotocol/protocolVersion": NEWEST,
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"extensions": extensions or {}},
    }
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": NEWEST,
        "Mcp-Method": method,
        "Mcp-Name": about,
    }
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params | {"_meta": envelope}}), headers


def post_and_hang_up(web: Web, code: str, begun: Path) -> None:
    """Call a tool, and drop the connection once the code runs."""
    caller = http.client.HTTPConnection(urlsplit(web.base).netloc, timeout=60)
    call = {"name": "run_python_code", "arguments": {"python_code": code}}
    body, headers = modern_request("tools/call", "run_python_code", call)
    caller.request("POST", "/mcp", body, headers)
    appears(begun)
    caller.close()


def ask(web: Web, method: str, about: str, **params) -> dict:
    """Ask as a client that takes tasks, each time over a connection of its own."""
    body, headers = modern_request(method, about, params, {IDENTIFIER: {}})
    said = httpx2.post(f"{web.base}/mcp", content=body, headers=headers, timeout=60).text
    return json.loads(said.rpartition("data: ")[2])["result"]


def test_a_task_outlives_the_connection_that_began_it(web, working):
    arguments = {"python_code": code_that_waits("task"), "wait_s": 0}
    handle = ask(web, "tools/call", "run_python_code", name="run_python_code", arguments=arguments)
    assert (handle["resultType"], handle["status"]) == ("task", "working")
    number = handle["taskId"]
    appears(working / "begun")
    (working / "go").touch()
    wait_until(lambda: ask(web, "tasks/get", number, taskId=number)["status"] == "completed")
    result = ask(web, "tasks/get", number, taskId=number)["result"]
    assert "went on" in result["content"][0]["text"]


def test_a_dropped_connection_kills_its_run(web, working):
    marker = f"mark-{working.parent.name}"
    post_and_hang_up(web, code_that_waits(marker), working / "begun")
    wait_until(lambda: not of_this_run(marker))
    wait_until(lambda: "mcp_conda_run_runs_active 0\n" in web.read("/metrics"))
    assert 'runs_total{status="cancelled"} 1' in web.read("/metrics")


@TRANSPORTS
async def test_a_run_in_the_background_survives_its_client_and_is_collected(web, working, transport, mode):
    async with Client(connection(web, transport), mode=mode) as client:
        arguments = {"python_code": code_that_waits("background"), "wait_s": 0}
        run_id = (await client.call_tool("run_python_code", arguments)).structured_content["run_id"]
        await asyncio.to_thread(appears, working / "begun")
    (working / "go").touch()
    async with Client(connection(web, transport), mode=mode) as client:
        answer = await client.call_tool("get_run", {"run_id": run_id})
    assert "went on" in text(answer)


async def test_a_client_beyond_its_share_is_told_so(web):
    async with Client(connection(web, "http")) as client:
        arguments = {"python_code": code_that_waits("many"), "wait_s": 0}
        answers = [await client.call_tool("run_python_code", arguments) for _ in range(3)]
    assert [answer.is_error for answer in answers] == [False, False, True]
    assert "too-many-runs: This client has 2 runs under way or waiting" in text(answers[2])


async def test_clients_behind_a_proxy_of_this_machine_have_shares_of_their_own(web):
    answers = []
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1"):
        async with (
            httpx2.AsyncClient(headers={"X-Forwarded-For": address}) as proxied,
            Client(streamable_http_client(f"{web.base}/mcp", http_client=proxied)) as client,
        ):
            arguments = {"python_code": code_that_waits("shares"), "wait_s": 0}
            answers.append(await client.call_tool("run_python_code", arguments))
    assert [answer.is_error for answer in answers] == [False, False, False, True]
