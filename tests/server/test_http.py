"""The HTTP server as a process: both transports, who may come in, and how it ends."""

import asyncio
import signal
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic import SecretStr

from mcp_conda_run.errors import HostError, SettingsError
from mcp_conda_run.server.bearer import read_token
from mcp_conda_run.server.http import _listening, serve, transport_security
from mcp_conda_run.settings import Settings

from .conftest import text
from .web import Web, connection, running
from .wire import appears, is_alive, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

TOKEN = "0123456789abcdef0123456789abcdef"


def serving(tmp_path, **env: str):
    """Run the scripted server with settings of its own."""
    own = {"MCP_CONDA_RUN_CACHE_DIR": str(tmp_path / "cache"), "MCP_CONDA_RUN_PATH": str(tmp_path / "working")}
    return running(own | env)


@pytest.fixture
def web(tmp_path) -> Iterator[Web]:
    with serving(tmp_path) as web:
        yield web


TRANSPORTS = pytest.mark.parametrize(("transport", "mode"), [("sse", "legacy"), ("http", "legacy"), ("http", "auto")])


@TRANSPORTS
async def test_both_transports_run_code_on_one_port(web, transport, mode):
    async with Client(connection(web, transport), mode=mode) as client:
        answer = await client.call_tool("run_python_code", {"python_code": "echo hello"})
    assert "hello" in text(answer)


@TRANSPORTS
async def test_a_cancelled_call_kills_its_run(web, tmp_path, transport, mode):
    async with Client(connection(web, transport), mode=mode) as client:
        arguments = {"python_code": f"hold {tmp_path}/pid"}
        call = asyncio.create_task(client.call_tool("run_python_code", arguments))
        child = int(await asyncio.to_thread(appears, tmp_path / "pid"))
        call.cancel()
        await asyncio.to_thread(wait_until, lambda: not is_alive(child))


@TRANSPORTS
async def test_the_largest_answer_passes(web, transport, mode):
    async with Client(connection(web, transport), mode=mode) as client:
        answer = await client.call_tool("run_python_code", {"python_code": "figures 50"})
    assert sum(block.type == "image" for block in answer.content) > 3


async def test_a_run_in_the_background_survives_its_client(web):
    async with Client(connection(web, "http")) as client:
        answer = await client.call_tool("run_python_code", {"python_code": "hold", "wait_s": 0})
        run_id = answer.structured_content["run_id"]
    async with Client(connection(web, "http")) as client:
        answer = await client.call_tool("get_run", {"run_id": run_id, "wait_s": 0})
    assert answer.structured_content["status"] == "running"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@TRANSPORTS
async def test_a_signal_kills_the_runs_and_ends_the_server(web, tmp_path, transport, mode, number):
    async def call() -> None:
        async with Client(connection(web, transport), mode=mode) as client:
            await client.call_tool("run_python_code", {"python_code": f"hold {tmp_path}/pid"})

    calling = asyncio.create_task(call())
    child = int(await asyncio.to_thread(appears, tmp_path / "pid"))
    web.process.send_signal(number)
    assert await asyncio.to_thread(web.process.wait, 2.5) == 128 + number
    assert not is_alive(child)
    calling.cancel()
    await asyncio.wait({calling})
    if not calling.cancelled():
        calling.exception()


def test_health_and_metrics_are_there(web):
    assert '"status":"ok"' in web.read("/healthz")
    assert "mcp_conda_run_runs_active 0\n" in web.read("/metrics")


async def test_metrics_count_runs_by_status(web):
    async with Client(connection(web, "http")) as client:
        await client.call_tool("run_python_code", {"python_code": "echo"})
        await client.call_tool("run_python_code", {"python_code": "bad"})
    shown = await asyncio.to_thread(web.read, "/metrics")
    assert 'runs_total{status="success"} 1' in shown
    assert 'runs_total{status="refused"} 1' in shown


@pytest.mark.parametrize("path", ["/mcp", "/sse", "/messages/"])
def test_another_host_name_is_refused(web, path):
    data = None if path == "/sse" else b"{}"
    assert web.status(path, data, Host="evil.example:80", Content_Type="application/json") in {400, 421}


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
def test_another_origin_is_refused(web, path):
    data = None if path == "/sse" else b"{}"
    assert web.status(path, data, Origin="http://evil.example", Content_Type="application/json") in {400, 403}


def test_a_body_beyond_the_bound_is_refused(web):
    accept = "application/json, text/event-stream"
    body = b'{"x": "' + b"x" * (9 * 1024 * 1024) + b'"}'
    try:
        status = web.status("/mcp", body, Content_Type="application/json", Accept=accept)
    except urllib.error.URLError:
        status = 413  # it was refused before all of it was sent
    assert status == 413


def test_without_the_token_only_the_health_page_answers(tmp_path):
    with serving(tmp_path, MCP_CONDA_RUN_TOKEN=TOKEN) as web:
        assert web.status("/healthz") == 200
        for path in ("/mcp", "/sse", "/messages/", "/metrics", "/nonsense"):
            assert web.status(path) == 401
            assert web.status(path, Authorization="Bearer " + TOKEN[:-1] + "x") == 401
            assert web.status(path, Authorization="Basic " + TOKEN) == 401
        assert web.status("/metrics", Authorization=f"bearer {TOKEN}") == 200


async def test_with_the_token_code_runs(tmp_path):
    with serving(tmp_path, MCP_CONDA_RUN_TOKEN=TOKEN) as web:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
            Client(streamable_http_client(f"{web.base}/mcp", http_client=http)) as client,
        ):
            answer = await client.call_tool("run_python_code", {"python_code": "echo in"})
    assert "in" in text(answer)


# --- what is refused before it serves ---------------------------------------------------------------------------------


def test_another_address_needs_a_token(settings):
    with pytest.raises(SettingsError, match="needs a token"):
        serve(settings, host="192.0.2.1", port=0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_every_address_needs_the_names_of_the_server(settings, host):
    with pytest.raises(SettingsError, match="the names under which"):
        transport_security(settings, host, TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_needs_no_token(settings, host):
    assert "localhost:*" in transport_security(settings, host, "").allowed_hosts


def test_allowed_hosts_are_accepted_with_any_port(settings):
    lab = settings.model_copy(update={"allowed_hosts": ("lab.example.org",)})
    allowed = transport_security(lab, "0.0.0.0", TOKEN)
    assert {"lab.example.org", "lab.example.org:*"} <= set(allowed.allowed_hosts)
    assert "https://lab.example.org" in allowed.allowed_origins


def test_a_taken_port_is_a_clear_error(web, settings):
    with pytest.raises(HostError, match="cannot be had"):
        serve(settings, port=int(web.base.rpartition(":")[2]))


def test_a_short_token_is_refused(settings):
    with pytest.raises(SettingsError, match="at least 16"):
        read_token(settings.model_copy(update={"token": SecretStr("short")}))


def with_file(settings: Settings, path, content: bytes, mode: int = 0o600) -> Settings:
    path.write_bytes(content)
    path.chmod(mode)
    return settings.model_copy(update={"token_file": path})


def test_the_token_may_be_in_a_file(settings, tmp_path):
    assert read_token(with_file(settings, tmp_path / "token", TOKEN.encode() + b"\n")) == TOKEN


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (TOKEN.encode(), 0o604, "Everybody can read"),
        (b"\n", 0o600, "is empty"),
        (b"\xff" * 20, 0o600, "cannot be read"),
    ],
)
def test_a_token_file_that_is_no_good_is_refused(settings, tmp_path, content, mode, said):
    with pytest.raises(SettingsError, match=said):
        read_token(with_file(settings, tmp_path / "token", content, mode))


def test_an_absent_token_file_is_refused(settings, tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        read_token(settings.model_copy(update={"token_file": tmp_path / "absent"}))


def test_the_token_is_not_taken_from_the_command_line():
    command = [sys.executable, "-m", "mcp_conda_run", "--set", f"token={TOKEN}", "http"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "The token is not taken from the command line" in done.stderr


def test_the_token_is_not_shown_by_the_settings():
    assert TOKEN not in repr(Settings(token=SecretStr(TOKEN)))


def test_the_pieces_of_an_answer_do_not_wait_for_each_other():
    with (
        _listening("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
