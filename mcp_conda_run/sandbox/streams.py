"""Reads what a run prints, at its own pace, and kills a run that prints far too much.

Made by `conversation.py`, one a run. Nothing that a run prints or leaves unprinted can make the event loop wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable

from .output import Collector
from .tier import Process

if sys.platform == "linux":
    import fcntl

FLOOD_FACTOR = 64
"""A run that prints this many times what is kept is killed: it wastes the machine, and nobody reads it."""
CHUNK_BYTES = 65536
PIPE_BYTES = 1 << 20
"""What a pipe can hold where that cannot be asked."""
AHEAD = 4
"""How many pieces a thread may have read that the event loop has not taken yet."""
DRAIN_S = 1.0
"""How long threads may take to read the rest of a run that was killed."""


class Streams:
    """Reads both output streams of a process as data arrives, and kills it if that is too much.

    Attributes:
        collector: what was read.
        ended: done when both streams have ended.
        flooded: whether the process was killed for its output.
    """

    def __init__(self, process: Process, kept_bytes: int) -> None:
        self.collector = Collector(kept_bytes)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flooded = False
        self._kill: Callable[[], None] = process.kill
        self._bound = kept_bytes * FLOOD_FACTOR
        self._control = process.control
        self._waiting = {process.stdout: "stdout", process.stderr: "stderr"}
        self._selectable = process.selectable
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Begin to read."""
        self._control.setblocking(False)
        for descriptor in self._waiting:
            if self._selectable:
                os.set_blocking(descriptor, False)
                self._loop.add_reader(descriptor, self._read, descriptor)
            else:
                _Reader(descriptor, self._loop, self._take)

    def close(self) -> None:
        """Read no more."""
        for descriptor in list(self._waiting):
            if self._selectable:
                self._loop.remove_reader(descriptor)
        self._waiting.clear()
        self.ended.cancel()

    async def drain(self) -> None:
        """Read what is there now, and no more than that: somebody may still be writing."""
        if not self._selectable:  # the run is killed: the threads meet the end as soon as they have read all
            await asyncio.wait({self.ended}, timeout=DRAIN_S)
            return
        for descriptor in list(self._waiting):
            left = _capacity(descriptor)
            while left > 0 and descriptor in self._waiting:
                count = self._read(descriptor)
                if count < CHUNK_BYTES:
                    break
                left -= count
                await asyncio.sleep(0)

    def _read(self, descriptor: int) -> int:
        """Read once; return how many bytes there were."""
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return 0
        except OSError:  # as good as the end
            data = b""
        if not data:
            self._loop.remove_reader(descriptor)
        self._take(descriptor, data)
        return len(data)

    def _take(self, descriptor: int, data: bytes) -> None:
        """Collect what was read; nothing at all is the end."""
        if descriptor not in self._waiting:
            return  # closed meanwhile
        if not data:
            del self._waiting[descriptor]
            if not self._waiting and not self.ended.done():
                self.ended.set_result(None)
            return
        self.collector.add(self._waiting[descriptor], data)
        if self._bound and self.collector.received_bytes > self._bound and not self.flooded:
            self.flooded = True
            self._kill()


class _Reader:
    """Reads a pipe in a thread, where the event loop cannot be told that something has come (Windows).

    Never further ahead of the event loop than a few pieces, so that a flood waits in the pipe. Ends with the pipe,
    which ends with the run.
    """

    def __init__(self, descriptor: int, loop: asyncio.AbstractEventLoop, take: Callable[[int, bytes], None]) -> None:
        self._descriptor = descriptor
        self._loop = loop
        self._take = take
        self._room = threading.Semaphore(AHEAD)
        # A duplicate: the owner may close its own whenever it likes.
        threading.Thread(target=self._read, args=(os.dup(descriptor),), name="run-output", daemon=True).start()

    def _read(self, own: int) -> None:
        with open(own, "rb", buffering=0) as pipe, contextlib.suppress(RuntimeError):  # the loop is closed
            data = b"any"
            while data:
                try:
                    data = pipe.read(CHUNK_BYTES)
                except OSError:  # as good as the end
                    data = b""
                self._room.acquire()
                self._loop.call_soon_threadsafe(self._handed_on, data)

    def _handed_on(self, data: bytes) -> None:
        self._room.release()
        self._take(self._descriptor, data)


def _capacity(pipe: int) -> int:
    """Return how many bytes a pipe can hold (F_SETPIPE_SZ in fcntl(2): a run may have changed it)."""
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) if sys.platform == "linux" else PIPE_BYTES
