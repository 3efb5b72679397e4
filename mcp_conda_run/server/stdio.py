"""MCP on standard input and output, with an end that is prompt and complete whatever ends it.

Called by the command `stdio`. Ends at the end of input, at SIGTERM, SIGINT and SIGHUP, and when the parent is gone,
each time with all runs dead. Never prints: standard output is the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from ..settings import Settings
from .app import make_server
from .lazy_runtime import OpenRunner
from .runs import Runs
from .shutdown import Deadline, Stop

log = logging.getLogger(__name__)


def serve(settings: Settings, open_runner: OpenRunner | None = None) -> int:
    """Serve until the client is gone or a signal comes; return the exit code.

    After a signal it does not return but ends the process, since the thread that reads standard input would hold it.

    Args:
        settings: the knobs.
        open_runner: what opens the runtime; the real one if not given.
    """
    deadline = Deadline()
    try:
        return asyncio.run(_serve(settings, open_runner, deadline))
    finally:
        deadline.cancel()


async def _serve(settings: Settings, open_runner: OpenRunner | None, deadline: Deadline) -> int:
    stop = Stop()
    with stop.on_signals():
        runs = Runs(settings, open_runner)
        serving = asyncio.create_task(make_server(runs).run_stdio_async())
        orphaned = asyncio.create_task(stop.when_orphaned()) if os.name == "posix" else None
        ends: tuple[asyncio.Future[Any], ...] = (serving, stop.requested)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        number = stop.requested.result() if stop.requested.done() else 0
        deadline.start(128 + number if number else 0)
        if orphaned is not None:
            orphaned.cancel()
        await runs.close()
        if number:
            logging.shutdown()
            os._exit(128 + number)
    try:
        await serving
    except* (OSError, EOFError) as group:  # the client closed its end while we wrote
        log.info("The client is gone: %s", group.exceptions[0])
    return 0
