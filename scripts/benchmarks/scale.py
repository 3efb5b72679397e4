"""Planning and solving with a channel of conda-forge's size, served over HTTP on loopback.

`scripts/bench scale [--records N]`. The channel is made by scripts/build_big_channel.py out of the demo's and kept in
`.demo/big-N`. Each figure is of a process of its own; memory is the largest of all children that it waited for, of
which the engine's worker is one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent.parent
FIRST_BOUND_S, AGAIN_BOUND_S, MEMORY_BOUND_MB = 1.5, 0.2, 300
PROGRAM = "import networkx, tabulate, openpyxl; networkx.path_graph(3).size()"
MEASURE = """
import asyncio, json, resource, sys, time
from mcp_conda_run import RunRequest, Runtime

async def main():
    async with Runtime() as runtime:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            plan = await runtime.plan(RunRequest(code=sys.argv[1]))
            seconds.append(time.perf_counter() - began)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "memory_mb": memory, "packages": len(plan.solution)}))

asyncio.run(main())
"""


class Handler(SimpleHTTPRequestHandler):
    """Files of a directory, as the servers of channels send them: to be kept for some time."""

    protocol_version = "HTTP/1.1"

    def end_headers(self) -> None:
        """Add what the cache of a client wants to know."""
        self.send_header("Cache-Control", "public, max-age=1200")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A server whose clients may go away in the middle of an answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the client will say what it missed."""


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory; yield its URL."""
    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def main() -> int:
    """Measure and show; exit with 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench scale")
    parser.add_argument("--channel", type=Path, required=True, help="The small channel.")
    parser.add_argument("--records", type=int, default=700_000)
    given = parser.parse_args()
    big = given.channel.parent / f"big-{given.records}"
    if not big.is_dir():
        command = [sys.executable, SCRIPTS / "build_big_channel.py", given.channel, big]
        subprocess.run([*command, "--records", str(given.records)], check=True)
    with served(big) as url, tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "MCP_CONDA_RUN_CACHE_DIR": cache, "MCP_CONDA_RUN_CHANNELS": url}
        subprocess.run([sys.executable, "-m", "mcp_conda_run", "warmup"], env=variables, check=True)
        first, again = (measure(variables) for _ in range(2))
    rows = [
        ("plan and solve, the first time", first["seconds"][0], FIRST_BOUND_S, "s"),
        ("the same again, in the same process", first["seconds"][1], AGAIN_BOUND_S, "s"),
        ("the same again, in a new process", again["seconds"][0], AGAIN_BOUND_S, "s"),
        ("memory of the largest child", first["memory_mb"], MEMORY_BOUND_MB, "MB"),
    ]
    print(f"\n{given.records} records; {first['packages']} packages to add")
    for name, figure, bound, unit in rows:
        print(f"{name:40} {figure:8.3f} {unit:3} (bound {bound}) {'ok' if figure <= bound else 'MISSED'}")
    return 0 if all(figure <= bound for _, figure, bound, _ in rows) else 1


def measure(variables: dict[str, str]) -> dict[str, Any]:
    """Plan twice in a new process."""
    command = [sys.executable, "-c", MEASURE, PROGRAM]
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    sys.exit(main())
