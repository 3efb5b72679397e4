"""Runs the project's own helper processes (the engine's worker, conda-lock): killable, bounded, never outliving us.

The child is the head of a session and process group of its own. It gets one JSON request as the first line of its
stdin, and the pipe then stays open as a lifeline: when it closes, because the caller is done or because this process
was killed, the child ends itself (`lifeline.py` is the child's half). Used by the engines and `locking.py`; never
touches this process's stdin and stdout.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HostError
from ..portability import WINDOWS, Family
from .redact import redact

MAX_LINE_BYTES = 256 * 1024 * 1024
"""The longest answer line accepted; every name of conda-forge is below 1 MB."""

STDERR_KEPT_BYTES = 64 * 1024

PACKAGE_PARENT = Path(__file__).resolve().parents[2]

BOOTSTRAP = "import sys; sys.path.append({root!r}); from mcp_conda_run.conda.{module} import {function} as f; f()"
"""`-m` would need the project to be installed; appended, so that nothing beside it shadows the standard library."""

PASSED_ON: tuple[str, ...] = (
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "RATTLER_AUTH_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
if WINDOWS:  # without these, programs there find neither their libraries nor a place for temporary files
    PASSED_ON = (*PASSED_ON, "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "TEMP", "TMP", "USERPROFILE", "PATHEXT")
    PASSED_ON = (*PASSED_ON, "PROCESSOR_ARCHITECTURE", "NUMBER_OF_PROCESSORS")  # what Python's platform module asks
PASSED_ON_PREFIX = "CONDA_OVERRIDE_"
S3_PREFIX = "AWS_"
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its return code (negative for a signal) and the end of its stderr, without credentials."""

    returncode: int
    stderr: str


@dataclass(frozen=True, slots=True)
class Child:
    """A child that has been started and has no request yet."""

    process: asyncio.subprocess.Process
    family: Family
    stderr: asyncio.Task[bytes]
    environment: Mapping[str, str]

    async def end(self) -> None:
        """Kill it and what it started, and reap it; safe to call again."""
        await asyncio.shield(end(self.process, self.family, self.stderr))


def module_command(module: str, function: str = "main") -> list[str]:
    """Return the command that runs a function of a module of this room in an isolated interpreter."""
    return [sys.executable, "-I", "-c", BOOTSTRAP.format(root=str(PACKAGE_PARENT), module=module, function=function)]


def child_environment(**extra: str) -> dict[str, str]:
    """Return what a child needs of our environment: proxies, certificates, virtual packages; nothing else."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.startswith(PASSED_ON_PREFIX) or name.lower() in PROXIES
    }
    return kept | extra


def s3_variables(addresses: Iterable[str]) -> dict[str, str]:
    """Return what a child needs of our environment to read from S3, if one of the addresses is there."""
    if not any(address.startswith("s3://") for address in addresses):
        return {}
    return {name: value for name, value in os.environ.items() if name.startswith(S3_PREFIX)}


async def run_child(
    command: list[str],
    request: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    timeout_s: float,
    on_line: Callable[[bytes], None],
    started: Child | None = None,
) -> Ended:
    """Run a child to its end, handing on each line of its stdout; one that has been started already, or a new one.

    Whatever happens here (a cancellation, the time-out, an exception in `on_line`), the child and its group are dead
    and reaped before this returns or raises.

    Raises:
        TimeoutError: it took longer than `timeout_s` seconds.
        HostError: it could not be started, or wrote something that is no line.
    """
    child = started or await start_child(command, environment)
    process = child.process
    try:
        async with asyncio.timeout(timeout_s):
            await send(process, json.dumps(request).encode() + b"\n")
            await read_lines(process, on_line)
            tail = await child.stderr
            return Ended(await process.wait(), redact(tail.decode(errors="replace")))
    finally:
        await child.end()


async def start_child(command: list[str], environment: Mapping[str, str]) -> Child:
    """Start a child, which waits for its request; whoever calls sees to its end.

    Raises:
        HostError: it could not be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
    except OSError as error:
        raise HostError(f"A helper process could not be started: {error.strerror}.", code="engine-crashed") from error
    return Child(process, Family(process.pid), asyncio.create_task(read_tail(process.stderr)), environment)


async def send(process: asyncio.subprocess.Process, line: bytes) -> None:
    """Write the request; a child that is already dead says why by its end."""
    assert process.stdin is not None  # noqa: S101 - asked for with PIPE
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(line)
        await process.stdin.drain()


async def read_lines(process: asyncio.subprocess.Process, on_line: Callable[[bytes], None]) -> None:
    """Hand on each line of stdout until it closes."""
    assert process.stdout is not None  # noqa: S101
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:
            raise HostError("A helper process answered more than can be read.", code="engine-crashed") from None
        if not line:
            return
        on_line(line)


async def read_tail(stream: asyncio.StreamReader | None) -> bytes:
    """Read to the end, keeping the last `STDERR_KEPT_BYTES`."""
    assert stream is not None  # noqa: S101
    tail = b""
    while chunk := await stream.read(STDERR_KEPT_BYTES):
        tail = (tail + chunk)[-STDERR_KEPT_BYTES:]
    return tail


async def end(process: asyncio.subprocess.Process, family: Family, stderr: asyncio.Task[bytes]) -> None:
    """Kill the child with what it started unless it has ended well, reap it, and close the pipes."""
    if process.returncode != 0:  # a child that was killed may have left a program of its own, such as micromamba
        family.kill()
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()
    with suppress(asyncio.CancelledError, TimeoutError, ValueError):
        async with asyncio.timeout(5):  # only a process that left the group could still hold the pipes
            if process.stdout is not None:
                await process.stdout.read()
            await stderr
    stderr.cancel()
