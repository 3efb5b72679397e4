"""MCP on standard input and output, with an end that is prompt and complete whatever ends it.

Called by the command `stdio`. Ends at the end of input, at SIGTERM, SIGINT and SIGHUP, and when the parent is gone,
each time with all runs dead and within `GRACE_S`: clients send SIGTERM 2 s after closing the pipe, and SIGKILL 2 s
later. Never prints: standard output is the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..settings import Settings
from .app import make_server
from .lazy_runtime import OpenRunner
from .runs import Runs

log = logging.getLogger(__name__)

GRACE_S = 1.8
ORPHAN_POLL_S = 1.0

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK") if hasattr(signal, name))


class Stop:
    """What ends the server from outside: the first request is obeyed in order, the second at once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.requested: asyncio.Future[int] = self._loop.create_future()

    def request(self, signal_number: int) -> None:
        """Ask for the end; called on the loop's thread."""
        if self.requested.done():
            os._exit(128 + signal_number)
        self.requested.set_result(signal_number)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the signals while inside; those that the parent had ignored (nohup) stay ignored."""
        wanted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in wanted:
            try:
                self._loop.add_signal_handler(number, self.request, number)
            except NotImplementedError:  # Windows
                signal.signal(number, self._from_any_thread)
        try:
            yield
        finally:
            for number in wanted:
                try:
                    self._loop.remove_signal_handler(number)
                except NotImplementedError:
                    signal.signal(number, signal.SIG_DFL)

    def _from_any_thread(self, number: int, _frame: object) -> None:
        self._loop.call_soon_threadsafe(self.request, number)

    async def when_orphaned(self) -> None:
        """Ask for the end when the parent is gone: its pipe may live on in another process and never end."""
        parent = os.getppid()
        while os.getppid() == parent:  # noqa: ASYNC110 - nothing portable tells of it
            await asyncio.sleep(ORPHAN_POLL_S)
        self.request(signal.SIGHUP)


def serve(settings: Settings, open_runner: OpenRunner | None = None) -> int:
    """Serve until the client is gone or a signal comes; return the exit code.

    After a signal it does not return but ends the process, since the thread that reads standard input would hold it.

    Args:
        settings: the knobs.
        open_runner: what opens the runtime; the real one if not given.
    """
    deadline = _Deadline()
    try:
        return asyncio.run(_serve(settings, open_runner, deadline))
    finally:
        deadline.cancel()


async def _serve(settings: Settings, open_runner: OpenRunner | None, deadline: _Deadline) -> int:
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


class _Deadline:
    """Ends the process at the end of the grace, unless the end in order came first."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def start(self, exit_code: int) -> None:
        self._timer = threading.Timer(GRACE_S, os._exit, (exit_code,))
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
