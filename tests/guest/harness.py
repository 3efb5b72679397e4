"""A process that speaks the guest's protocol, started plainly: for tests of both ends of it.

`guest_process` starts `guest/execute.py` (or any script that misbehaves in its place) as a child with its own process
group; `run_guest` does a whole conversation with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from mcp_conda_run.models import Isolation, Limits
from mcp_conda_run.sandbox.conversation import Conversation, GuestRequest, converse
from mcp_conda_run.sandbox.tier import Exit

EXECUTE = Path(__file__).parents[2] / "mcp_conda_run" / "guest" / "execute.py"
VARIABLES = {"PATH": os.environ["PATH"], "MPLBACKEND": "Agg", "LANG": "C.UTF-8", "HOME": os.path.expanduser("~")}


def make_limits(wall_s: float = 60, output_bytes: int = 1 << 20) -> Limits:
    return Limits(
        wall_s=wall_s,
        cpu_s=0,
        memory_bytes=0,
        processes=0,
        disk_bytes=0,
        open_files=0,
        file_size_bytes=0,
        output_bytes=output_bytes,
    )


class PlainProcess:
    """See `tier.Process`: a child in a process group of its own."""

    selectable = True

    isolation = Isolation(tier="none")
    paths: Mapping[str, str] = {}

    def __init__(
        self, child: asyncio.subprocess.Process, control: socket.socket, stdout: int, stderr: int, scratch: Path
    ):
        self.child = child
        self.control = control
        self.stdout = stdout
        self.stderr = stderr
        self.scratch = str(scratch)
        self.kills = 0

    async def wait(self) -> Exit:
        code = await self.child.wait()
        return Exit(code) if code >= 0 else Exit(None, signal.Signals(-code).name)

    def kill(self) -> None:
        self.kills += 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)


@asynccontextmanager
async def guest_process(
    scratch: Path,
    *,
    python: str = sys.executable,
    script: Path | str = EXECUTE,
    variables: Mapping[str, str] = {},
) -> AsyncIterator[PlainProcess]:
    """Start a guest whose working directory is `scratch`; at the end its group is dead, its descriptors closed."""
    ours, theirs = socket.socketpair()
    stdout, stdout_end = os.pipe()
    stderr, stderr_end = os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            *(python, str(script), str(theirs.fileno())),
            cwd=scratch,
            env={**VARIABLES, **variables},
            stdin=subprocess.DEVNULL,
            stdout=stdout_end,
            stderr=stderr_end,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    finally:
        theirs.close()
        os.close(stdout_end)
        os.close(stderr_end)
    process = PlainProcess(child, ours, stdout, stderr, scratch)
    try:
        yield process
    finally:
        process.kill()
        await child.wait()
        ours.close()
        os.close(stdout)
        os.close(stderr)


async def run_guest(
    scratch: Path,
    code: str,
    *,
    python: str = sys.executable,
    bounds: Limits | None = None,
    variables: Mapping[str, str] = {},
    **fields,
) -> Conversation:
    """Run code in a fresh guest and return what came of it."""
    fields.setdefault("filename", f"{scratch}/main.py")
    fields.setdefault("path0", str(scratch))
    async with guest_process(scratch, python=python, variables=variables) as process:
        return await converse(process, GuestRequest(code=code, **fields), bounds or make_limits())
