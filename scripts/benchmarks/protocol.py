"""The server as clients of the protocol have it: round trips, answers at their limits, and what a model has to read.

Run by `scripts/bench protocol`, with the official client, over each transport.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

SERVER = ("-m", "mcp_conda_run")
WAYS = (("stdio", "auto"), ("stdio", "legacy"), ("http", "auto"), ("http", "legacy"), ("sse", "legacy"))
NAMES = {"auto": "2026-07-28", "legacy": "2025-11-25"}
WARM_CALLS = 10
LIMIT_S = 300

LIMITS = {
    "10 MB of output": "for _ in range(125_000): print('x' * 79)",
    "10 MB as the value": "'x' * 10_000_000",
    "50 figures": ("import matplotlib.pyplot as plt\nfor n in range(50):\n    plt.figure(); plt.plot(range(n + 2))"),
    "50 figures of noise": (
        "import matplotlib.pyplot as plt, numpy as np\n"
        "for n in range(50):\n"
        "    plt.figure(figsize=(4, 4)); plt.imshow(np.random.default_rng(n).random((320, 320, 3)))"
    ),
    "200 files": "for n in range(200): open(f'/working/{n}.txt', 'w').write('x' * 1000)",
}


@asynccontextmanager
async def http_server() -> AsyncIterator[str]:
    """Serve over HTTP on a free port; yield the address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *SERVER, "http", "--port", "0", stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    found = re.search(rb"http://[^/]+", await process.stderr.readline())
    assert found is not None
    try:
        yield found[0].decode()
    finally:
        process.terminate()
        await process.wait()


def client(transport: str, mode: Any, base: str) -> Client:
    """Return a client of this protocol, over this transport."""
    if transport == "stdio":
        server = StdioServerParameters(command=sys.executable, args=[*SERVER, "stdio"], env=dict(os.environ))
        return Client(stdio_client(server), mode=mode)
    reached = streamable_http_client(f"{base}/mcp") if transport == "http" else sse_client(f"{base}/sse")
    return Client(reached, mode=mode)


async def call(server: Client, tool: str, **arguments: Any) -> tuple[float, Any]:
    """Call a tool; return how long it took, and the answer."""
    began = time.perf_counter()
    answer = await server.call_tool(tool, arguments)
    return time.perf_counter() - began, answer


async def round_trips(server: Client, rounds: int) -> tuple[float, float]:
    """Return the medians, in milliseconds, of a call that runs nothing, and of one that runs `1`."""
    medians = []
    for tool, arguments in (("get_run", {"run_id": "none"}), ("run_python_code", {"python_code": "1"})):
        times = []
        for number in range(rounds + WARM_CALLS):
            seconds, _ = await call(server, tool, **arguments)
            if number >= WARM_CALLS:
                times.append(seconds)
            await asyncio.sleep(0.02)
        medians.append(statistics.median(times) * 1000)
    return medians[0], medians[1]


async def at_the_limits(server: Client, way: str) -> None:
    """Print how large the answers of much are, and how long they take."""
    for name, code in LIMITS.items():
        seconds, answer = await call(server, "run_python_code", python_code=code, timeout_s=LIMIT_S, wait_s=LIMIT_S)
        report = answer.structured_content
        size = len(answer.model_dump_json(by_alias=True, exclude_none=True).encode())
        images = sum(block.type == "image" for block in answer.content)
        links = sum(block.type == "resource_link" for block in answer.content)
        ran = report["timings_ms"].get("run", 0) / 1000
        print(
            f"{way:17} {name:22} {report['status']:8} {size:8d} bytes, {images} images, {links} links, "
            f"{len(report['files'])} files listed, {seconds:6.2f} s, of which {ran:.2f} s in the run",
            flush=True,
        )


async def words(server: Client) -> None:
    """Print how much a model has to read before its first call."""
    tools = [
        tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in (await server.list_tools()).tools
    ]
    parts = {
        "instructions": server.instructions or "",
        "descriptions": "".join(tool["description"] for tool in tools),
        "input schemas": "".join(json.dumps(tool["inputSchema"], separators=(",", ":")) for tool in tools),
        "output schemas": "".join(json.dumps(tool["outputSchema"], separators=(",", ":")) for tool in tools),
    }
    for name, text in parts.items():
        print(f"{name}: {len(text)} characters")


async def main(rounds: int = 200) -> None:
    """Measure and print."""
    async with http_server() as base:
        for transport, mode in WAYS:
            way = f"{transport} {NAMES[mode]}"
            async with client(transport, mode, base) as server:
                nothing, run = await round_trips(server, rounds)
                print(f"{way:17} median of {rounds}: {nothing:.2f} ms a call, {run:.2f} ms a run of `1`", flush=True)
                await at_the_limits(server, way)
                if (transport, mode) == WAYS[0]:
                    await words(server)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
