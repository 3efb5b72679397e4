"""A started run as the rest of the project sees it (`Process` in `tier.py`), and its orderly end.

Made by the tiers. At the end of `running` no process of the run is left, whatever it did and however the context is
left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import psutil

from ..models import Isolation
from .order import Order
from .spawner_client import Channels, Lifeline, Spawner
from .tier import Exit

_log = logging.getLogger(__name__)

MARK = "MCP_CONDA_RUN_ID"
"""The environment variable by which processes of a run are known if its keeper is gone."""


class RunProcess:
    """A started run; see `tier.Process`."""

    selectable = True

    def __init__(
        self,
        channels: Channels,
        lifeline: Lifeline,
        paths: Mapping[str, str],
        scratch: str,
        isolation: Isolation,
        *,
        start: str = "exec",
    ) -> None:
        self.control: socket.socket = channels.control
        self.stdout = channels.stdout
        self.stderr = channels.stderr
        self.paths = paths
        self.scratch = scratch
        self.isolation = isolation
        self.start = start
        self._lifeline = lifeline

    def take_listener(self) -> socket.socket | None:
        """Return the socket that listens in the run's network for the proxy, or None; the caller owns it then."""
        return self._lifeline.take_listener()

    async def wait(self) -> Exit:
        """Wait for the end of the main process; safe to call again."""
        return await self._lifeline.exit()

    def kill(self) -> None:
        """Kill every process of the run, now; safe to call again."""
        self._lifeline.kill()


@asynccontextmanager
async def running(
    spawner: Spawner,
    order: Order,
    paths: Mapping[str, str],
    scratch: str,
    describe: Callable[[Lifeline], Isolation],
    *,
    sweep: Callable[[], None] = lambda: None,
) -> AsyncIterator[RunProcess]:
    """Start what the order says; at the end of the context all of it is dead.

    Args:
        spawner: who starts it.
        order: what to start.
        paths: for each mount's target, where the run sees it.
        scratch: the run's own writable directory, as it sees it.
        describe: says, when the process has started, what holds it.
        sweep: kills the run's processes without the help of its keeper; called if that is gone before its time.

    Raises:
        HostError: the process cannot be started.
    """
    channels = Channels.open()
    try:
        spawner.order(order, channels.theirs)
    except BaseException:
        channels.close()
        raise
    finally:
        channels.theirs.close()
    lifeline = Lifeline(channels.lifeline)
    try:
        await lifeline.started()
        yield RunProcess(channels, lifeline, paths, scratch, describe(lifeline))
    finally:
        lifeline.kill()
        ending = asyncio.ensure_future(_end(channels, lifeline, sweep))
        await finish(ending)


async def finish(ending: asyncio.Future[None]) -> None:
    """Wait for the end of a run even if the waiting task is cancelled meanwhile, as often as it likes."""
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError as error:
            if ending.cancelled():
                raise
            cancelled = error
    ending.result()
    if cancelled is not None:
        raise cancelled


async def _end(channels: Channels, lifeline: Lifeline, sweep: Callable[[], None]) -> None:
    gone = await lifeline.gone()
    if not gone or not lifeline.keeper_reported_end:
        await asyncio.to_thread(sweep)
    listener = lifeline.take_listener()
    if listener is not None:
        listener.close()
    channels.close()


def kill_marked(run_id: str) -> None:
    """Kill the processes that carry the run's mark in their environment variables, until none is left.

    For the case that the run has killed its own keeper, which tiers without namespaces cannot prevent.
    """
    deadline = 20
    while marked := [process for process in psutil.process_iter() if _is_marked(process, run_id)]:
        for process in marked:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(marked, timeout=0.1)
        deadline -= 1
        if not deadline:
            _log.warning("processes of the run %s cannot be killed: %s", run_id, marked)
            return


def _is_marked(process: psutil.Process, run_id: str) -> bool:
    try:
        return process.environ().get(MARK) == run_id and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False
