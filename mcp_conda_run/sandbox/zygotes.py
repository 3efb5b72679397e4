"""The server's end of a zygote, and of the processes that it forks.

Called by the pool (`pool.py`). Everything here either answers at once or is awaited with a bound: a zygote has
imported packages, and may do anything. It decides nothing: when to start a zygote, and what to do if it fails, is the
pool's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import HostError
from .order import Order
from .running import finish
from .spawner_client import PACKAGE, Channels, Lifeline, readable
from .zygotes_order import MAX_MESSAGE_BYTES, Fork, ZygotePlan, pack, send_fork

_log = logging.getLogger(__name__)

# As for the spawner: an empty package stands in for ours, whose __init__ would load what a keeper does not need.
BOOTSTRAP = """
import sys, types
package = types.ModuleType("mcp_conda_run")
package.__path__ = [sys.argv[1]]
sys.modules["mcp_conda_run"] = package
from mcp_conda_run.sandbox.zygotes_keeper import main
main(int(sys.argv[2]))
"""

READY_S = 120.0
"""How long a zygote may take to import its packages, on a cold and busy machine."""
FORK_S = 10.0
"""How long a fork may take until it is ready for code; then the zygote is given up."""
END_S = 2.0


class Zygote:
    """A warmed-up interpreter and its keeper. Belongs to one event loop.

    Attributes:
        ended: done when it takes no orders any more, with the reason.
        memory_bytes: what it uses by itself, once it is ready.
    """

    def __init__(self, plan: ZygotePlan) -> None:
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.memory_bytes = 0
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._forks = 0

    @property
    def is_ready(self) -> bool:
        """Whether it takes orders."""
        return self._ready.done() and not self.ended.done()

    async def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            HostError: it cannot be started, or its packages cannot be imported.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = ours
        try:
            await finish(asyncio.ensure_future(asyncio.to_thread(self._spawn, theirs)))
            ours.setblocking(False)
            ours.send(pack(self._plan))
            self._loop.add_reader(ours, self._hear)
            waiting: set[asyncio.Future[Any]] = {self._ready, self.ended}
            await asyncio.wait(waiting, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        except OSError as error:
            self.close()
            raise HostError(f"A zygote cannot be started: {error.strerror}.") from error
        except asyncio.CancelledError:
            self.close()
            raise
        if not self.is_ready:
            self.close()
            raise HostError(f"A zygote could not be started: {self.ended.result()}.")

    def _spawn(self, channel: socket.socket) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", BOOTSTRAP, str(PACKAGE), str(channel.fileno())],
                pass_fds=(channel.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"LANG": "C.UTF-8", "PATH": os.defpath},
                cwd="/",
                start_new_session=True,
            )
        finally:
            channel.close()

    def fork(self, order: Order, stage: str, *, touch: bool) -> Child:
        """Order a process; it is on its way then.

        Args:
            order: what a run of tier A is given; its program is the zygote itself.
            stage: the mount options of the place for what the run writes.
            touch: whether it shall prepare its memory while it waits.

        Raises:
            HostError: no descriptors are left, or the zygote takes no orders.
        """
        assert order.walls is not None  # noqa: S101 - the tier's orders have walls
        if self._channel is None:
            raise HostError("The zygote has ended.")
        channels = Channels.open()
        try:
            self._forks += 1
            fork = Fork(
                id=self._forks,
                environ=order.environ,
                cwd=order.cwd,
                rlimits=order.rlimits,
                bounds=order.bounds,
                stage=stage,
                processes=order.walls.processes,
                proxy_port=order.walls.proxy_port,
                touch=touch,
            )
            send_fork(self._channel, fork, channels.theirs)
        except OSError as error:
            channels.close()
            raise HostError(f"The zygote takes no orders: {error.strerror}.") from error
        finally:
            channels.theirs.close()
        return Child(channels)

    def _hear(self) -> None:
        assert self._channel is not None  # noqa: S101 - the reader is removed before it is closed
        try:
            data = self._channel.recv(MAX_MESSAGE_BYTES)
            said: Mapping[str, Any] = json.loads(data) if data else {"failed": "its keeper ended"}
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            said = {"failed": str(error)}
        if "ready" in said and not self._ready.done():
            self.memory_bytes = int(said["memory_bytes"])
            self._ready.set_result(None)
        elif "failed" in said:
            self._end(str(said["failed"]))

    def _end(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)
        self.close()

    def close(self) -> None:
        """Take no more orders; safe to call again.

        Processes that have no code yet end, runs that are under way go on; with the last of them, the zygote ends.
        """
        if not self.ended.done():
            self.ended.set_result("it was closed" if self._ready.done() else "it was not ready in time")
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed, and its readers are gone with it
                self._loop.remove_reader(channel)
            channel.close()
        process, self._process = self._process, None
        if process is not None:
            # It ends by itself, soon, or with its last run; somebody has to take note of that (wait(2)).
            threading.Thread(target=process.wait, name="zygote-reaper", daemon=True).start()

    def kill(self) -> None:
        """End it and all of its runs at once: it does not do what it should."""
        if self._process is not None:
            self._process.kill()
        self._end("it was killed")


class Child:
    """A process that a zygote forked for a run, from its order on.

    Attributes:
        channels: the server's ends of its channels.
        lifeline: what its keeper reports.
        ready: done when it waits for code, or has failed to get there (then with the `HostError`).
    """

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.lifeline = Lifeline(channels.lifeline)
        self.ready: asyncio.Task[None] = asyncio.create_task(self._become_ready(), name="zygote-child")
        self.ready.add_done_callback(lambda task: task.cancelled() or task.exception())  # looked at, whoever waits
        self._ending: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it waits for code now."""
        done = self.ready.done() and not self.ready.cancelled() and self.ready.exception() is None
        return done and not self.lifeline.has_ended and _peek(self.channels.control)

    async def _become_ready(self) -> None:
        await self.lifeline.started()
        control = self.channels.control
        control.setblocking(False)
        await readable(control)
        if not _peek(control):
            raise HostError("A run's process could not be prepared.")

    def discard(self) -> None:
        """Have it killed; its end takes its time in the background."""
        if self._ending is None:
            self.lifeline.kill()
            self._ending = asyncio.create_task(self._end(), name="zygote-child-end")

    def when_ended(self, call: Callable[[Child], None]) -> None:
        """Call back when a discarded one is gone."""
        assert self._ending is not None  # noqa: S101 - made by discard()
        self._ending.add_done_callback(lambda _: call(self))

    async def end(self) -> None:
        """Kill what is left of it and wait until nothing is."""
        self.discard()
        assert self._ending is not None  # noqa: S101 - made by discard()
        await finish(self._ending)

    async def _end(self) -> None:
        try:
            self.ready.cancel()
            await asyncio.wait({self.ready})
            if not await self.lifeline.gone():
                _log.warning("a run's processes are not gone in time")
        finally:
            listener = self.lifeline.take_listener()
            if listener is not None:
                listener.close()
            self.channels.close()


def _peek(end: socket.socket) -> bool:
    try:
        return bool(end.recv(1, socket.MSG_PEEK))
    except OSError:
        return False
