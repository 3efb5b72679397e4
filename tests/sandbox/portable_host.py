"""The portable start on the system that the tests run on: what holds a run there is a session in the place of a job.

So that all of `portable.py` that is not Windows' own is seen to work where the tests usually run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
from contextlib import AbstractAsyncContextManager
from typing import Any

from mcp_conda_run.models import Isolation
from mcp_conda_run.sandbox.cloned import CloneTier
from mcp_conda_run.sandbox.order import Order
from mcp_conda_run.sandbox.portable import Ends, running_portably, spawn
from mcp_conda_run.sandbox.processes import descendants, used
from mcp_conda_run.sandbox.running import kill_marked
from mcp_conda_run.sandbox.tier import Exit, Launch, Process


class LoopWithoutReadiness(asyncio.SelectorEventLoop):
    """An event loop that cannot be told of what arrives at a descriptor, as that of Windows."""

    def add_reader(self, *_: Any) -> None:
        raise NotImplementedError


class SessionEnclosure:
    """Holds a run by its session and by its mark."""

    def __init__(self, run_id: str, order: Order) -> None:
        self._run_id = run_id
        self._bounds = order.bounds
        self._main: subprocess.Popen[bytes] | None = None

    def start(self, order: Order, ends: Ends) -> subprocess.Popen[bytes]:
        self._main = spawn(order, ends)
        return self._main

    def exceeded(self) -> str:
        assert self._main is not None
        now = used([self._main.pid, *descendants(self._main.pid)])
        return "memory" if self._bounds.memory_bytes and now.memory_bytes > self._bounds.memory_bytes else ""

    def exit(self, code: int) -> Exit:
        return Exit(code) if code >= 0 else Exit(None, signal.Signals(-code).name)

    def kill(self) -> None:
        if self._main is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._main.pid, signal.SIGKILL)

    def is_empty(self) -> bool:
        kill_marked(self._run_id)
        return True

    def close(self) -> None:
        self.kill()


class PortableTier(CloneTier):
    """Runs in a clone, started portably."""

    name = "portable"

    def close(self) -> None:
        pass

    def isolation(self, launch: Launch) -> Isolation:
        return Isolation(tier=self.name)

    def _get_ready(self) -> None:
        pass

    def _running(self, launch: Launch, order: Order, scratch: Any) -> AbstractAsyncContextManager[Process]:
        return running_portably(
            dataclasses.replace(order, argv=order.argv[:-1]),
            lambda: SessionEnclosure(launch.run_id, order),
            paths={mount.target: str(mount.source) for mount in launch.mounts},
            scratch=str(scratch / "main"),
            isolation=self.isolation(launch),
        )
