"""The tasks extension: handles for clients that declare it, and nothing for the others."""

import os
import signal
from typing import Any

import jsonschema
import pytest
from mcp.types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY

from mcp_conda_run.server import tools
from mcp_conda_run.server.report import Report
from mcp_conda_run.server.tasks import IDENTIFIER

from .conftest import serving
from .wire import Wire, appears, is_alive, started, wait_until


class Modern(Wire):
    """Requests of the 2026 era, each with the client's envelope."""

    def __init__(self, process) -> None:
        super().__init__(process)
        self.extensions: dict[str, Any] = {IDENTIFIER: {}}

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        envelope = {
            PROTOCOL_VERSION_META_KEY: "2026-07-28",
            CLIENT_INFO_META_KEY: {"name": "wire", "version": "1"},
            CLIENT_CAPABILITIES_META_KEY: {"extensions": self.extensions},
        }
        return self.answer(self.send(method, params | {"_meta": envelope}))

    def call(self, code: str, **arguments: Any) -> dict[str, Any]:
        return self.ask("tools/call", name="run_python_code", arguments={"python_code": code, **arguments})["result"]


@pytest.fixture
def modern(tmp_path):
    with started(env={"MCP_CONDA_RUN_CACHE_DIR": str(tmp_path / "cache")}) as wire:
        yield Modern(wire.process)


def test_the_extension_is_announced(modern):
    said = modern.ask("server/discover")["result"]
    assert IDENTIFIER in said["capabilities"]["extensions"]


def test_a_short_run_is_an_ordinary_answer(modern):
    assert modern.call("echo hello")["structuredContent"]["output"] == "hello\n"


def test_a_run_that_goes_on_is_a_task(modern):
    handle = modern.call("hold", wait_s=0)
    assert (handle["resultType"], handle["status"]) == ("task", "working")
    polled = modern.ask("tasks/get", taskId=handle["taskId"])["result"]
    assert (polled["status"], polled["createdAt"]) == ("working", handle["createdAt"])
    assert polled["statusMessage"] == "download: numpy, 120 of 300 MB"


def test_a_finished_task_has_the_tools_answer(modern, tmp_path):
    handle = modern.call(f"hold {tmp_path}/pid", wait_s=0)
    child = int(appears(tmp_path / "pid"))
    os.kill(child, signal.SIGTERM)
    wait_until(lambda: modern.ask("tasks/get", taskId=handle["taskId"])["result"]["status"] == "completed")
    result = modern.ask("tasks/get", taskId=handle["taskId"])["result"]["result"]
    assert result["structuredContent"]["output"] == "the child ended\n"
    jsonschema.validate(result["structuredContent"], Report.model_json_schema())


def test_a_cancelled_task_is_killed(modern, tmp_path):
    handle = modern.call(f"hold {tmp_path}/pid", wait_s=0)
    child = int(appears(tmp_path / "pid"))
    assert modern.ask("tasks/cancel", taskId=handle["taskId"])["result"]["resultType"] == "complete"
    wait_until(lambda: not is_alive(child))
    wait_until(lambda: modern.ask("tasks/get", taskId=handle["taskId"])["result"]["status"] == "cancelled")


def test_an_unknown_task_is_refused(modern):
    assert modern.ask("tasks/get", taskId="0" * 16)["error"]["code"] == -32602


def test_a_client_that_does_not_declare_it_gets_the_run_id(modern):
    modern.extensions = {}
    answer = modern.call("hold", wait_s=0)
    assert answer["structuredContent"]["status"] == "running"
    assert "error" in modern.ask("tasks/get", taskId=answer["structuredContent"]["run_id"])


async def test_clients_without_it_wait_as_long_as_they_ask(settings, monkeypatch):
    monkeypatch.setattr(tools, "GRACE_S", 0)
    async with serving(settings) as served:
        served.runner.release.set()
        answer = await served.call(python_code="hold")
    assert answer.structured_content["status"] == "success"
