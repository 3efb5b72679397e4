"""The stdio server as a process: handshakes, what reaches the wire, and how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from .conftest import text
from .wire import PROMPT_S, ROOT, SCRIPTED, SIGNALS, Wire, appears, is_alive, started, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def env(tmp_path) -> dict[str, str]:
    return {"MCP_CONDA_RUN_CACHE_DIR": str(tmp_path / "cache"), "MCP_CONDA_RUN_PATH": str(tmp_path / "working")}


def hold(wire: Wire, tmp_path: Path) -> int:
    """Have a run that owns a child process; return the child's id."""
    wire.initialize()
    wire.begin(f"hold {tmp_path}/pid")
    return int(appears(tmp_path / "pid"))


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_each_handshake_of_the_2025_era_is_answered(env, version):
    with started(env=env) as wire:
        said = wire.initialize(version)
        assert said["protocolVersion"] == version
        assert said["serverInfo"]["name"] == "mcp-conda-run"
        assert wire.run("echo hello")["content"][0]["text"].startswith("<status>success</status>")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_is_served(env, mode):
    server = StdioServerParameters(command=SCRIPTED[0], args=SCRIPTED[1:], env=dict(os.environ) | env, cwd=ROOT)
    async with Client(stdio_client(server), mode=mode) as client:
        answer = await client.call_tool("run_python_code", {"python_code": "echo hello"})
    assert "hello" in text(answer)


def test_a_handshake_opens_no_runtime_and_imports_no_engine(env):
    command = [sys.executable, "-X", "importtime", "-m", "mcp_conda_run", "stdio"]
    with started(command, env, stderr=subprocess.PIPE) as wire:
        wire.answer(
            wire.send(
                "initialize",
                {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
            )
        )
        wire.close_input()
        imported = wire.process.stderr.read().decode()
    modules = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert "mcp_conda_run.server.stdio" in modules
    assert not {"rattler", "conda_lock", "mcp_conda_run.runtime", "mcp_conda_run.sandbox"} & modules


def test_stray_prints_do_not_reach_the_wire(env):
    with started(env=env, stderr=subprocess.DEVNULL) as wire:
        wire.initialize()
        assert "quiet" in wire.run("pollute quiet")["content"][0]["text"]


def test_ten_megabytes_of_output_are_a_small_message(env):
    with started(env=env) as wire:
        wire.initialize()
        wire.begin("big 10000000")
        message = wire.receive()
        assert len(str(message)) < 150_000


def test_the_end_of_input_kills_the_runs_and_ends_the_server(env, tmp_path):
    with started(env=env) as wire:
        child = hold(wire, tmp_path)
        wire.close_input()
        code, seconds = wire.wait()
    assert (code, is_alive(child)) == (0, False)
    assert seconds < PROMPT_S


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_kills_the_runs_and_ends_the_server(env, tmp_path, number):
    with started(env=env) as wire:
        child = hold(wire, tmp_path)
        wire.process.send_signal(number)
        code, seconds = wire.wait()
    assert (code, is_alive(child)) == (128 + number, False)
    assert seconds < PROMPT_S


def test_an_ignored_hangup_stays_ignored(env, tmp_path):
    command = ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh", *SCRIPTED]
    with started(command, env) as wire:
        wire.initialize()
        wire.process.send_signal(signal.SIGHUP)
        assert "still" in wire.run("echo still")["content"][0]["text"]


def test_a_server_whose_client_was_killed_ends_though_another_holds_its_input(env, tmp_path):
    parent = (
        "import subprocess, sys, time\n"
        "server = subprocess.Popen(sys.argv[2:], stdin=int(sys.argv[1]))\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    read_end, write_end = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", parent, str(read_end), *SCRIPTED],
            pass_fds=[read_end],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | env,
        ) as client:
            server = int(client.stdout.readline())
            os.write(write_end, b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
            assert b'"id":1' in client.stdout.readline()
            client.kill()
            wait_until(lambda: not is_alive(server), patience_s=5)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_cancel_notification_kills_the_run_and_the_connection_lives_on(env, tmp_path):
    with started(env=env) as wire:
        child = hold(wire, tmp_path)
        wire.send("notifications/cancelled", {"requestId": 2, "reason": "user"}, answered=False)
        wait_until(lambda: not is_alive(child))
        assert "still" in wire.run("echo still")["content"][0]["text"]


def test_a_client_that_reads_nothing_does_not_stop_the_end(env, tmp_path):
    with started(env=env, stderr=subprocess.DEVNULL) as wire:
        wire.initialize()
        for _ in range(40):  # more than a pipe holds
            wire.begin("big 20000")
        child_file = tmp_path / "pid"
        wire.begin(f"hold {child_file}")
        child = int(appears(child_file))
        wire.process.send_signal(signal.SIGTERM)
        code, seconds = wire.wait()
    assert (code, is_alive(child)) == (128 + signal.SIGTERM, False)
    assert seconds < PROMPT_S
