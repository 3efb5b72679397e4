"""The MCP server as a client has it: how soon it answers, and how long a call takes, over both transports."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import sys
import time
from typing import Any

from .starts import PROGRAMS
from .timing import Action, Series, interleaved

BARE = "from mcp.server import MCPServer; MCPServer('bare').run('stdio')"
OURS = [sys.executable, "-m", "mcp_conda_run"]
COMMANDS = {"bare": [sys.executable, "-c", BARE], "ours": [*OURS, "stdio"], "http": [*OURS, "sse", "--port", "0"]}
START_RATIO = 1.3
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}
LINE_BYTES = 1 << 24
WARM_CALLS = 10


class Client:
    """A client in small: newline-delimited JSON-RPC with a child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._number = 0

    @classmethod
    async def start(cls, command: list[str]) -> Client:
        """Start a server."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, limit=LINE_BYTES
        )
        return cls(process)

    @classmethod
    async def open(cls) -> Client:
        """Start our server and do the handshake."""
        client = await cls.start(COMMANDS["ours"])
        await client.hello()
        return client

    def _send(self, method: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        message = {"jsonrpc": "2.0", "method": method, **fields}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its result."""
        assert self._process.stdout is not None
        self._number += 1
        self._send(method, id=self._number, params=params)
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            if answer.get("id") == self._number:
                return dict(answer["result"])
        raise SystemExit(f"error: the server ended at {method}.")

    async def hello(self) -> None:
        """Do the handshake."""
        await self.ask("initialize", HELLO)
        self._send("notifications/initialized")

    async def call(self, code: str) -> None:
        """Run code."""
        check(await self.ask("tools/call", tool_call(code)))

    async def end(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


def tool_call(code: str) -> dict[str, Any]:
    """Return the parameters of a call that runs code."""
    return {"name": "run_python_code", "arguments": {"python_code": code}}


def check(result: dict[str, Any]) -> None:
    """Stop if a call failed: its time would mean nothing."""
    content = result["structuredContent"]
    if content["status"] != "success":
        raise SystemExit(f"error: a call failed: {content}")


class WebClient:
    """The same over HTTP, with one connection that stays."""

    def __init__(self, process: asyncio.subprocess.Process, host: str) -> None:
        self._process = process
        self._connection = http.client.HTTPConnection(host)
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": HELLO["protocolVersion"],
        }

    @classmethod
    async def start(cls) -> WebClient:
        """Start a server and do the handshake."""
        process = await asyncio.create_subprocess_exec(
            *COMMANDS["http"], stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        while line := (await process.stderr.readline()).decode():
            if found := re.search(r"http://([^/\s]+)", line):
                client = cls(process, found[1])
                break
        else:
            raise SystemExit("error: the HTTP server did not start.")
        await asyncio.to_thread(client.hello)
        return client

    def post(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return the result, from JSON or from the last event of a stream."""
        self._connection.request("POST", "/mcp", json.dumps({"jsonrpc": "2.0", **message}), self._headers)
        response = self._connection.getresponse()
        session = response.getheader("Mcp-Session-Id")
        if session:
            self._headers["Mcp-Session-Id"] = session
        text = response.read().decode()
        events = [line[5:] for line in text.splitlines() if line.startswith("data:") and line[5:].strip()]
        answer = json.loads(events[-1] if events else text or "{}")
        return dict(answer.get("result", {}))

    def hello(self) -> None:
        """Do the handshake; the server may need a moment until it listens."""
        for _ in range(100):
            try:
                self.post({"id": 0, "method": "initialize", "params": HELLO})
                break
            except ConnectionRefusedError:
                self._connection.close()
                time.sleep(0.1)
        self.post({"method": "notifications/initialized"})

    async def call(self, code: str) -> None:
        """Run code."""
        message = {"id": 1, "method": "tools/call", "params": tool_call(code)}
        check(await asyncio.to_thread(self.post, message))

    async def end(self) -> None:
        """End the server."""
        self._connection.close()
        self._process.terminate()
        await self._process.wait()


def first_answer(command: list[str]) -> Action:
    """Return what starts a server and takes the time to its first answer."""

    async def run() -> float:
        began = time.perf_counter()
        client = await Client.start(command)
        await client.hello()
        seconds = time.perf_counter() - began
        await client.end()
        return seconds

    return run


async def measure_server_start(rounds: int) -> list[Series]:
    """Measure the time to the first answer, against a server without any tools."""
    times = await interleaved({name: first_answer(COMMANDS[name]) for name in ("bare", "ours")}, rounds)
    baseline = "server start: bare mcp server"
    ours = Series("server start: mcp-conda-run", baseline, START_RATIO, times=times["ours"])
    return [Series(baseline, times=times["bare"]), ours]


async def measure_calls(rounds: int) -> list[Series]:
    """Measure whole calls by an MCP client, over standard input and output and over HTTP."""
    found = []
    for transport, start in (("stdio", Client.open), ("HTTP", WebClient.start)):
        client: Client | WebClient = await start()
        for program in ("pass", "numpy", "pandas"):
            times: list[float] = []
            for number in range(rounds + WARM_CALLS):
                began = time.perf_counter()
                await client.call(PROGRAMS[program])
                if number >= WARM_CALLS:
                    times.append(time.perf_counter() - began)
                await asyncio.sleep(0.05 if number else 2)  # the first call starts the warm interpreter
            found.append(Series(f"MCP call over {transport}: {program}", f"{program}: bare python", times=times))
        await client.end()
    return found
