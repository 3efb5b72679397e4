"""A client that does its worst: every line gets a clear answer, and the next one is served as if nothing had been."""

import asyncio
import http.client
import json
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import uvicorn
from uvicorn.server import ServerState

from mcp_conda_run.server import patience
from mcp_conda_run.server.unreadable import refusal

from .web import Web, running
from .wire import Wire, is_alive, started, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}


def line(method: str = "ping", **fields) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 900, "method": method, **fields}).encode()


def call(arguments, **fields) -> bytes:
    return line("tools/call", params={"name": "run_python_code", "arguments": arguments, **fields})


@pytest.fixture(scope="module")
def wire(tmp_path_factory) -> Iterator[Wire]:
    with started(env={"MCP_CONDA_RUN_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}) as wire:
        wire.initialize()
        yield wire


def say(wire: Wire, data: bytes) -> None:
    wire.process.stdin.write(data + b"\n")
    wire.process.stdin.flush()


def reaction(wire: Wire, data: bytes) -> dict:
    """Return the first answer to a line, passing over notifications."""
    say(wire, data)
    while "id" not in (message := wire.receive()):
        pass
    return message


@pytest.mark.parametrize(
    ("data", "code", "number"),
    [
        (b"\xff\xfe\x00garbage", -32700, None),
        (b'{"jsonrpc":"2.0","id":900,', -32700, None),
        (b'{"jsonrpc":"2.0","id":900,"method":"\\ud800"}', -32700, None),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, -32700, None),
        (b"42", -32600, None),
        (b"null", -32600, None),
        (b"[" + line() + b"]", -32600, None),
        (b'{"jsonrpc":"2.0","id":900}', -32600, 900),
        (b'{"jsonrpc":"1.0","id":"a","method":"ping"}', -32600, "a"),
        (line(params=[1]), -32600, 900),
        (line("tools/call", params="x"), -32600, 900),
        (line("nope/nope"), -32601, 900),
        (line("tools/call", params={}), -32602, 900),
        (call([1]), -32602, 900),
        (call({"python_code": "echo"}, _meta={"progressToken": {}}), -32602, 900),
        (call({"python_code": "echo"}, _meta={"progressToken": 1.5}), -32602, 900),
        (line("resources/read", params={"uri": "run://" + "a" * 1_000_000}), -32602, 900),
        (line("prompts/get", params={"name": "analyse_file", "arguments": {"file_path": 5}}), -32602, 900),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_what_is_no_message_of_the_protocol_gets_an_error(wire, data, code, number):
    answer = reaction(wire, data)
    assert (answer["error"]["code"], answer["id"]) == (code, number)
    assert len(json.dumps(answer["error"]["message"])) < 500
    assert wire.answer(wire.send("ping"))["result"] == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (None, "The argument 'python_code' is missing"),
        ({"python_code": 5}, "'python_code' cannot be used"),
        ({"python_code": ["a"]}, "'python_code' cannot be used"),
        ({"python_code": "echo", "wait_s": 10**400}, "'wait_s' cannot be used"),
        ({"python_code": "echo", "wait_s": float("nan")}, "'wait_s' cannot be used"),
        ({"python_code": "echo", "timeout_s": -1}, "'timeout_s' cannot be used"),
        ({"python_code": "echo", "packages": ["numpy"] * 100_000}, "'packages' cannot be used"),
        ({"python_code": "echo", "packages": ["n" * 1_000_000]}, "cannot be used"),
        ({"python_code": "echo", **{f"a{n}": 1 for n in range(10_000)}}, "There is no argument 'a0'"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_arguments_of_a_wrong_kind_are_refused_in_words(wire, arguments, said):
    result = reaction(wire, call(arguments))["result"]
    assert result["isError"]
    assert said in result["content"][0]["text"]
    assert len(json.dumps(result)) < 20_000


@pytest.mark.parametrize(
    "note",
    [
        {"method": "notifications/cancelled", "params": {"requestId": 12345}},
        {"method": "notifications/cancelled", "params": {"requestId": {}}},
        {"method": "notifications/cancelled"},
        {"method": "notifications/nope"},
        {"id": 7777, "result": {}},
        {"id": 7777, "error": {"code": 1, "message": "x"}},
    ],
    ids=json.dumps,
)
def test_what_asks_for_no_answer_does_no_harm(wire, note):
    say(wire, json.dumps({"jsonrpc": "2.0"} | note).encode())
    say(wire, b"")
    assert wire.answer(wire.send("ping"))["result"] == {}


def test_a_call_that_is_cancelled_before_it_starts_leaves_nothing_running(wire, tmp_path):
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 900}}
    say(wire, call({"python_code": f"hold {tmp_path / 'pid'}"}) + b"\n" + json.dumps(cancel).encode())
    assert wire.answer(wire.send("ping"))["result"] == {}
    assert "echoed" in wire.run("echo echoed")["content"][0]["text"]
    if (tmp_path / "pid").exists():
        wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())))


def test_a_thousand_calls_at_once_are_all_answered(wire):
    numbers = {wire.begin(f"echo {number}") for number in range(1000)}
    said = []
    while numbers:
        message = wire.receive()
        if "id" in message:
            numbers.remove(message["id"])
            said.append(message["result"]["content"][0]["text"])
    refused = [text for text in said if "too-many-runs" in text]
    assert len(refused) + sum("<status>success</status>" in text for text in said) == 1000
    assert wire.answer(wire.send("ping"))["result"] == {}


def test_an_error_that_is_none_of_json_is_told_as_such():
    assert refusal(ValueError("x")).error.code == -32700


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Iterator[Web]:
    with running({"MCP_CONDA_RUN_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}) as web:
        yield web


def post(web: Web, body: bytes, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(urlsplit(web.base).netloc, timeout=30)
    given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    try:
        connection.request("POST", "/mcp", body, given)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read() if answer.status >= 400 else b""
    finally:
        connection.close()


@pytest.mark.parametrize("body", [b"garbage", b"", b"[" + line() + b"]", b"42", line(params=[1])])
def test_a_body_that_is_no_message_is_a_bad_request(web, body):
    status, _, said = post(web, body)
    assert status == 400
    assert json.loads(said)["error"]["message"]


def test_headers_beyond_all_measure_are_refused(web):
    """With an answer, unless the connection's end overtakes it."""
    try:
        status = post(web, line(), X_Much="x" * 200_000)[0]
    except ConnectionError:
        status = 0
    assert status in {0, 400, 431}
    assert web.status("/healthz") == 200


def test_a_session_is_never_one_that_the_client_chose(web):
    """Else somebody could have another one use a session that they know."""
    status, headers, _ = post(web, line("initialize", params=HELLO), Mcp_Session_Id="0123456789abcdef")
    assert status >= 400 or headers["mcp-session-id"] != "0123456789abcdef"
    assert post(web, line(), Mcp_Session_Id="0123456789abcdef")[0] in {400, 404}


@pytest.mark.parametrize("session", ["../../etc", "%00", "a" * 4000, "\u00e9"])
def test_a_session_that_is_unknown_is_refused(web, session):
    assert post(web, line("tools/list"), Mcp_Session_Id=session)[0] in {400, 404}


async def dripping(monkeypatch, data: bytes) -> bytes:
    """Send data to a server of little patience, wait; return what it said at the end."""
    monkeypatch.setattr(patience, "HEADERS_S", 0.2)

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await asyncio.sleep(0.5)  # longer than the patience
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_keep_alive=1)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: patience.ImpatientProtocol(config, state, {}), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(data)
        said = await asyncio.wait_for(reader.read(), 30)
        writer.close()
    return said


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_connection_that_does_not_say_what_it_wants_is_closed(monkeypatch, data):
    assert (await dripping(monkeypatch, data)).startswith(b"HTTP/1.1 408 ")


async def test_an_answer_may_take_longer_than_the_headers(monkeypatch):
    said = await dripping(monkeypatch, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert said.endswith(b"ok")
