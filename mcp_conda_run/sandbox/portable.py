"""Starts a run where nothing forks and no descriptor travels: a process, four pipes, and threads that wait for them.

For tiers of platforms that have no spawner (`jobs.py` on Windows); made so that it needs nothing of any platform. What
bounds the processes and kills them is an `Enclosure`, the tier's. The rest of the project sees a `Process` as ever: the
host's end of the control channel is a socket, behind which two threads copy to and from the pipes of the guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from ..errors import HostError
from ..models import Isolation
from .order import Order
from .processes import written_bytes
from .running import finish
from .tier import Exit

CHUNK_BYTES = 65536
SAMPLE_S = 0.05
DISK_SAMPLE_S = 1.0
DISK_SHARE = 0.05
"""At most this share of the time goes into looking at what the run wrote."""
GONE_TIMEOUT_S = 5.0


class Enclosure(Protocol):
    """What holds the processes of one run together; made by a tier before the run is started."""

    def start(self, order: Order, ends: Ends) -> subprocess.Popen[bytes]:
        """Start the main process with `spawn`, inside from its first instruction on.

        Raises:
            OSError: it cannot be.
        """

    def exceeded(self) -> str:
        """Return the name of the bound that the run is over, or nothing; asked several times a second."""

    def exit(self, code: int) -> Exit:
        """Return how the main process ended, by what the platform says of it."""

    def kill(self) -> None:
        """Kill everything inside, now; safe to call again."""

    def is_empty(self) -> bool:
        """Say whether nothing is left inside."""

    def close(self) -> None:
        """Give up what it is made of; whatever is still inside is killed."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The process's ends of its pipes, as descriptors of this process."""

    requests: int
    messages: int
    stdout: int
    stderr: int

    def close(self) -> None:
        """Close them all."""
        for descriptor in (self.requests, self.messages, self.stdout, self.stderr):
            os.close(descriptor)


class PortableProcess:
    """A started run; see `tier.Process`. Owns what it is given."""

    selectable = False
    start = "exec"

    def __init__(
        self, started: _Started, order: Order, *, paths: Mapping[str, str], scratch: str, isolation: Isolation
    ) -> None:
        self.control, self._theirs = socket.socketpair()
        self.stdout, self.stderr = started.pipes.stdout, started.pipes.stderr
        self.paths = paths
        self.scratch = scratch
        self.isolation = isolation
        self._enclosure = started.enclosure
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        watch = _Watch(started, order, self._exit)
        self._threads = [
            _thread("watch", watch.until_the_end),
            _thread("messages", _hand_on_messages, started.pipes.messages, self._theirs),
            _thread("requests", _hand_on_requests, self._theirs, started.pipes.requests),
        ]

    async def wait(self) -> Exit:
        """Wait for the end of the main process; safe to call again."""
        return await asyncio.shield(self._exit)

    def kill(self) -> None:
        """Kill every process of the run, now; safe to call again."""
        self._enclosure.kill()

    def end(self) -> None:
        """Wait until nothing of the run is left, and close the channels; called in a thread, after `kill`."""
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while not self._enclosure.is_empty() and time.monotonic() < deadline:
            self._enclosure.kill()
            time.sleep(0.002)
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)  # wakes the threads that read from the other end or write to it
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        self._enclosure.close()
        self.control.close()
        self._theirs.close()
        for descriptor in (self.stdout, self.stderr):
            os.close(descriptor)


@asynccontextmanager
async def running_portably(
    order: Order,
    make_enclosure: Callable[[], Enclosure],
    *,
    paths: Mapping[str, str],
    scratch: str,
    isolation: Isolation,
) -> AsyncIterator[PortableProcess]:
    """Start what the order says; at the end of the context all of it is dead.

    Args:
        order: what to start; the numbers of the control pipes are added to its arguments. Resource limits are left to
            the enclosure.
        make_enclosure: makes what holds the run.
        paths: for each mount's target, where the run sees it.
        scratch: the run's own writable directory, as it sees it.
        isolation: what holds the run.

    Raises:
        HostError: the process cannot be started.
    """
    starting = asyncio.ensure_future(asyncio.to_thread(_start, order, make_enclosure))
    try:
        started = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting})
        if starting.exception() is None:
            starting.result().abandon()
        raise
    try:
        process = PortableProcess(started, order, paths=paths, scratch=scratch, isolation=isolation)
    except OSError as error:
        started.abandon()
        raise HostError(f"A run cannot be started: {error.strerror or error}.") from error
    try:
        yield process
    finally:
        process.kill()
        await finish(asyncio.ensure_future(asyncio.to_thread(process.end)))


# --- the start --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pipes:
    """The server's ends of a run's pipes."""

    requests: int
    messages: int
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True)
class _Started:
    """A main process with what it hangs on."""

    main: subprocess.Popen[bytes]
    enclosure: Enclosure
    pipes: _Pipes

    def abandon(self) -> None:
        """End a process that nobody wants any more."""
        self.enclosure.kill()
        self.main.wait()
        self.enclosure.close()
        for descriptor in (self.pipes.requests, self.pipes.messages, self.pipes.stdout, self.pipes.stderr):
            os.close(descriptor)


def _start(order: Order, make_enclosure: Callable[[], Enclosure]) -> _Started:
    with contextlib.ExitStack() as stack:
        try:
            pipes, ends = _open_pipes(stack)
            enclosure = make_enclosure()
            stack.callback(enclosure.close)
            main = enclosure.start(order, ends)
        except OSError as error:
            raise HostError(f"A run's process could not be started: {error.strerror or error}.") from error
        stack.pop_all()
    ends.close()
    return _Started(main, enclosure, pipes)


def _open_pipes(stack: contextlib.ExitStack) -> tuple[_Pipes, Ends]:
    pairs = []
    for _ in range(4):
        pair = os.pipe()
        pairs.append(pair)
        for end in pair:
            stack.callback(os.close, end)
    requests, messages, stdout, stderr = pairs
    ours = _Pipes(requests[1], messages[0], stdout[0], stderr[0])
    return ours, Ends(requests[0], messages[1], stdout[1], stderr[1])


def spawn(order: Order, ends: Ends, *, flags: int = 0) -> subprocess.Popen[bytes]:
    """Start a process that inherits its ends of the pipes and nothing else; for enclosures, in `start`.

    Args:
        order: what to start; to its arguments the two numbers are added by which it will know its control pipes.
        ends: what it is given.
        flags: creation flags of Windows.

    Raises:
        OSError: it cannot be started.
    """
    devnull = subprocess.DEVNULL
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - Windows only

        handles = [msvcrt.get_osfhandle(descriptor) for descriptor in (ends.requests, ends.messages)]
        for handle in handles:
            os.set_handle_inheritable(handle, True)
        return subprocess.Popen(
            [*order.argv, *map(str, handles)],
            env=dict(order.environ),
            cwd=order.cwd,
            stdin=devnull,
            stdout=ends.stdout,
            stderr=ends.stderr,
            creationflags=flags,
            startupinfo=subprocess.STARTUPINFO(lpAttributeList={"handle_list": handles}),
        )
    return subprocess.Popen(
        [*order.argv, str(ends.requests), str(ends.messages)],
        env=dict(order.environ),
        cwd=order.cwd,
        stdin=devnull,
        stdout=ends.stdout,
        stderr=ends.stderr,
        pass_fds=(ends.requests, ends.messages),
        start_new_session=True,
    )


# --- the threads ------------------------------------------------------------------------------------------------------


class _Watch:
    """Waits for the end of the main process, and kills the run when it is over a bound."""

    def __init__(self, started: _Started, order: Order, exit_: asyncio.Future[Exit]) -> None:
        self._main = started.main
        self._enclosure = started.enclosure
        self._bounds = order.bounds
        self._exit = exit_
        self._began = time.time()
        self._next_disk_sample = time.monotonic() + DISK_SAMPLE_S

    def until_the_end(self) -> None:
        """Report how the main process ended, to the event loop."""
        limit = ""
        while True:
            try:
                code = self._main.wait(SAMPLE_S)
                break
            except subprocess.TimeoutExpired:
                if not limit and (limit := self._exceeded()):
                    self._enclosure.kill()
        limit = limit or self._enclosure.exceeded()
        ended = self._enclosure.exit(code)
        report = Exit(None, "SIGKILL", limit) if limit else ended
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            self._exit.get_loop().call_soon_threadsafe(self._settle, report)

    def _settle(self, report: Exit) -> None:
        if not self._exit.done():
            self._exit.set_result(report)

    def _exceeded(self) -> str:
        return self._enclosure.exceeded() or ("disk" if self._disk_exceeded() else "")

    def _disk_exceeded(self) -> bool:
        begin = time.monotonic()
        if not self._bounds.disk_bytes or begin < self._next_disk_sample:
            return False
        written = written_bytes(self._bounds.disk_places, self._began)
        end = time.monotonic()
        self._next_disk_sample = end + max(DISK_SAMPLE_S, (end - begin) / DISK_SHARE)
        return written > self._bounds.disk_bytes


def _thread(name: str, target: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, name=f"run-{name}", daemon=True)
    thread.start()
    return thread


def _hand_on_messages(descriptor: int, end: socket.socket) -> None:
    """Copy what the guest says to the host's socket; when nobody listens there any more, the guest's pipe breaks."""
    with open(descriptor, "rb", buffering=0) as pipe, contextlib.suppress(OSError):
        while data := pipe.read(CHUNK_BYTES):
            end.sendall(data)
        end.shutdown(socket.SHUT_WR)


def _hand_on_requests(end: socket.socket, descriptor: int) -> None:
    """Copy what the host says to the guest's pipe, which ends with it."""
    with open(descriptor, "wb", buffering=0) as pipe, contextlib.suppress(OSError):
        while data := end.recv(CHUNK_BYTES):
            rest = memoryview(data)
            while rest:
                rest = rest[pipe.write(rest) :]


def exit_of(code: int) -> Exit:
    """Return how a process ended whose `returncode` this is, where signals are told by negative codes."""
    if code >= 0:
        return Exit(code)
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    return Exit(None, name)
