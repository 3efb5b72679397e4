"""A server process spoken to in raw JSON-RPC, as a client of the 2025 era does."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPTED = [sys.executable, "-m", "tests.server.scripted"]
PROMPT_S = 2.0
PATIENCE_S = 120


class Wire:
    """A running stdio server. Every wait is bounded."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._buffer = b""
        self._ids = 0

    def send(self, method: str, params: dict[str, Any] | None = None, *, answered: bool = True) -> int:
        self._ids += answered
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}} | ({"id": self._ids} if answered else {})
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        return self._ids

    def receive(self) -> dict[str, Any]:
        """Return the next message; a line that is no JSON fails the test."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                assert selector.select(deadline - time.monotonic()), "no answer"
                data = os.read(self.process.stdout.fileno(), 1 << 20)
                assert data, "the server closed its output"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def answer(self, number: int) -> dict[str, Any]:
        """Return the answer to a request, passing over notifications."""
        while (message := self.receive()).get("id") != number:
            assert "id" not in message, message
        return message

    def initialize(self, version: str = "2025-11-25") -> dict[str, Any]:
        client = {"name": "wire", "version": "1"}
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": client}
        answer = self.answer(self.send("initialize", params))
        self.send("notifications/initialized", answered=False)
        return answer["result"]

    def begin(self, code: str, **arguments: Any) -> int:
        params = {"name": "run_python_code", "arguments": {"python_code": code, **arguments}}
        return self.send("tools/call", params)

    def run(self, code: str, **arguments: Any) -> dict[str, Any]:
        return self.answer(self.begin(code, **arguments))["result"]

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self) -> tuple[int, float]:
        """Wait for the server's end; return its exit code and how long that took."""
        began = time.monotonic()
        return self.process.wait(PATIENCE_S), time.monotonic() - began


@contextmanager
def started(command: list[str] | None = None, env: dict[str, str] | None = None, **options: Any) -> Iterator[Wire]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        command or SCRIPTED,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", None),
        cwd=ROOT,
        env=environment | (env or {}),
        **options,
    )
    try:
        yield Wire(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def appears(path: Path) -> str:
    """Wait for a file, and return what is in it."""
    wait_until(path.exists)
    return path.read_text()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def wait_until(condition, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
