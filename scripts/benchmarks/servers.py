"""The MCP server as a client has it: how soon it answers, and how long a call takes, over standard input and output."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from .starts import PROGRAMS
from .timing import Action, Series, interleaved

BARE = "from mcp.server import MCPServer; MCPServer('bare').run('stdio')"
COMMANDS = {"bare": [sys.executable, "-c", BARE], "ours": [sys.executable, "-m", "mcp_conda_run", "stdio"]}
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

    async def call(self, code: str) -> str:
        """Run code; return how it was started."""
        result = await self.ask("tools/call", {"name": "run_python_code", "arguments": {"python_code": code}})
        content = result["structuredContent"]
        if content["status"] != "success":
            raise SystemExit(f"error: a call failed: {content}")
        return str(content.get("start", ""))

    async def end(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
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
    times = await interleaved({name: first_answer(command) for name, command in COMMANDS.items()}, rounds)
    baseline = "server start: bare mcp server"
    ours = Series("server start: mcp-conda-run", baseline, START_RATIO, times=times["ours"])
    return [Series(baseline, times=times["bare"]), ours]


async def measure_calls(rounds: int) -> list[Series]:
    """Measure whole calls by an MCP client."""
    client = await Client.start(COMMANDS["ours"])
    await client.hello()
    found = []
    for program in ("pass", "numpy", "pandas"):
        times: list[float] = []
        for number in range(rounds + WARM_CALLS):
            began = time.perf_counter()
            await client.call(PROGRAMS[program])
            if number >= WARM_CALLS:
                times.append(time.perf_counter() - began)
            await asyncio.sleep(0.05 if number else 2)  # the first call starts the warm interpreter
        found.append(Series(f"MCP call over stdio: {program}", f"{program}: bare python", times=times))
    await client.end()
    return found
