"""Each revision of the protocol in raw JSON, as its own clients send it, against the real server."""

from __future__ import annotations

import json
import sys

import pytest

from tests.server.real import STDIO
from tests.server.wire import started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server's runs need Linux")

CALL = {"name": "run_python_code", "arguments": {"python_code": "print('hello')\n6 * 7"}}
NEWEST = "2026-07-28"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": NEWEST,
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def check(answer: dict) -> None:
    text = answer["result"]["content"][0]["text"]
    assert text.startswith("<status>success</status>\n<output>\nhello\n</output>\n<return_value>\n42\n</return_value>")
    assert json.dumps(answer)


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_a_handshake_of_each_revision_leads_to_a_run(server_env, version):
    with started(STDIO, server_env) as wire:
        assert wire.initialize(version)["protocolVersion"] == version
        assert len(wire.answer(wire.send("tools/list"))["result"]["tools"]) == 5
        check(wire.answer(wire.send("tools/call", CALL)))


def test_the_newest_revision_needs_no_handshake(server_env):
    with started(STDIO, server_env) as wire:
        found = wire.answer(wire.send("server/discover", {"_meta": ENVELOPE}))["result"]
        assert NEWEST in found["supportedVersions"]
        check(wire.answer(wire.send("tools/call", CALL | {"_meta": ENVELOPE})))


def test_an_unknown_revision_is_answered_with_one_that_is_known(server_env):
    with started(STDIO, server_env) as wire:
        assert wire.initialize("2099-01-01")["protocolVersion"] == "2025-11-25"
        check(wire.answer(wire.send("tools/call", CALL)))
