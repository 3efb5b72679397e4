"""How a server ends: what asks for it, and by when it is done at the latest.

Used by `stdio.py` and `http.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

GRACE_S = 1.8
"""Clients send SIGTERM 2 s after closing the pipe, and SIGKILL 2 s later."""

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


class Deadline:
    """Ends the process at the end of the grace, unless the end in order came first."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def start(self, exit_code: int, seconds: float = GRACE_S) -> None:
        """Let the time run."""
        self._timer = threading.Timer(seconds, os._exit, (exit_code,))
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Say that the end in order is reached."""
        if self._timer is not None:
            self._timer.cancel()
