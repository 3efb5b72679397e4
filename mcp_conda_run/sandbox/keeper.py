"""A run's keeper: the process that starts the run's main process, watches over its bounds, and ends everything of it.

Forked by the spawner, one a run, and one ahead of the next run. It adopts what the run's processes leave behind
(Linux), so that a daemon cannot get away; it reports to the server over the lifeline, one JSON line each; and when the
lifeline ends, because the server says so or is dead, it kills all. Never runs code of the user or of an environment
itself.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from .enrolling import enroll
from .mainprocess import Main, start_plain
from .order import Bounds, Descriptors, Order, receive_order, rehearse
from .processes import descendants, kill_all_children, nameless_files, written_bytes
from .watch import Watch

if sys.platform == "linux":  # here and not where they are used: the spawner loads them once, for all keepers
    from ..guest import syscalls
    from .bubble import start_bubble
    from .confinement import First, start_confined
    from .pasta import Pasta
    from .workshop import Workshop

SAMPLE_S = 0.05
PASTA_S = 5.0
DISK_SAMPLE_S = 1.0
DISK_SHARE = 0.05
"""At most this share of the time goes into looking at what the run wrote."""

Start = Callable[[Order, Descriptors], Main]


def keep(order: Order, descriptors: Descriptors, workshop: Workshop | None = None) -> NoReturn:
    """Own a run from its first process to its last; never returns."""
    _live(_Keeper(workshop), lambda keeper: keeper.keep(order, descriptors, keeper.start))


def keep_next(channel: socket.socket, like: Order, workshop: Workshop) -> NoReturn:
    """Make what takes the longest of a run's beginning, wait for its order, and own it; never returns.

    That is this process, pid 1 of the run in its namespaces, and the control group: joining one takes the kernel
    milliseconds, and what pid 1 forks is in it from the first moment on.

    Args:
        channel: to the spawner; its end means that there is no run.
        like: an order with walls, which needs the same bounds, namespaces and identities.
        workshop: what is there already.
    """
    _live(_Keeper(workshop), lambda keeper: keeper.keep_next(channel, like))


def _live(keeper: _Keeper, life: Callable[[_Keeper], None]) -> NoReturn:
    code = 0
    try:
        try:
            life(keeper)
        finally:
            keeper.close()
    except BaseException as error:  # noqa: BLE001 - the server must hear of it, whatever it is
        keeper.report(failed=f"{type(error).__name__}: {error}", details=traceback.format_exc())
        code = 1
    finally:
        os._exit(code)


class _Keeper:
    """The life of this process; `workshop` is None where there are no walls."""

    def __init__(self, workshop: Workshop | None) -> None:
        self._workshop = workshop
        self._lifeline: socket.socket | None = None
        self._attendance: _Attendance | None = None

    def keep(self, order: Order, descriptors: Descriptors, start: Start) -> None:
        """Own the run from its order on."""
        self._lifeline = socket.socket(fileno=descriptors.lifeline)
        attendance = self._attendance or self._settle(order.bounds)
        watch = attendance.watch
        main = start(order, descriptors)
        for descriptor in (descriptors.control, descriptors.stdout, descriptors.stderr):
            os.close(descriptor)
        watch.stage = main.stage
        pasta, no_network = _connect(order, main)
        attendance.helper = pasta.pid if pasta is not None else 0
        if not enroll(watch.group, attendance.processes):
            watch.group = None
        if pasta is not None:
            no_network = pasta.wait(PASTA_S)
        facts = {"identity_dropped": main.identity_dropped, "held": watch.held, "no_network": no_network}
        self.report(main.listener, started=main.pid, **facts)
        for descriptor in main.listener:
            os.close(descriptor)
        status, limit = attendance.until_the_end(main, self._lifeline)
        self.report(status=status, limit=limit, memory_bytes=watch.peak_bytes)

    def keep_next(self, channel: socket.socket, like: Order) -> None:
        """Make what can be made without an order, and wait for it."""
        assert self._workshop is not None  # noqa: S101 - there are walls
        assert like.walls is not None  # noqa: S101
        self._attendance = self._settle(like.bounds)

        def take(keeper: socket.socket) -> tuple[Order, Descriptors] | None:
            channel.close()  # else the spawner could not see this process end as long as that one lives
            rehearse(like)
            return receive_order(keeper)

        first = First(like.walls, self._workshop, take)
        enroll(self._attendance.watch.group, lambda: [first.pid])  # if that fails now, it is tried again with the order
        rehearse(like)
        heard, _, _ = select.select([channel, first.channel], [], [])
        received = receive_order(channel) if first.channel not in heard else None  # it has nothing to say but its end
        channel.close()
        if received is not None:
            self.keep(*received, first.take)

    def _settle(self, bounds: Bounds) -> _Attendance:
        """Prepare this process, and make the run's control group."""
        os.setsid()
        if sys.platform == "linux":
            syscalls.set_child_subreaper()
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        group = self._workshop.groups.make(bounds) if self._workshop is not None else None
        return _Attendance(bounds, Watch(bounds, group), woken)

    def start(self, order: Order, descriptors: Descriptors) -> Main:
        """Start the main process as the order says.

        Raises:
            OSError: it cannot be started.
        """
        if sys.platform == "linux":
            if order.walls is not None and self._workshop is not None:
                return start_confined(order, order.walls, descriptors, self._workshop)
            if order.bubble is not None:
                return start_bubble(order, order.bubble, descriptors)
        return start_plain(order, descriptors)

    def report(self, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
        """Tell the server, which may be gone, or not know of this process yet."""
        if self._lifeline is not None:
            with suppress(OSError):
                socket.send_fds(self._lifeline, [json.dumps(fields).encode("ascii") + b"\n"], list(descriptors))

    def close(self) -> None:
        """Kill all that there is, with what even this process does not see as its own."""
        kill_all_children()
        if self._workshop is not None:
            self._workshop.groups.close()


def _connect(order: Order, main: Main) -> tuple[Pasta | None, str]:
    """Begin to connect the run's network to the internet, if it is to be; return why that fails, if it does."""
    if order.walls is None or not main.holder:
        return None, ""
    try:
        return Pasta(order.walls.pasta, *main.holder), ""
    except OSError as error:
        return None, error.strerror or str(error)


# --- the watch
# --------------------------------------------------------------------------------------------------------


class _Attendance:
    """Waits for the end of the main process, of the lifeline, or of a bound.

    Args:
        bounds: of the run.
        watch: over some of them.
        woken: becomes readable when a child has ended.
    """

    def __init__(self, bounds: Bounds, watch: Watch, woken: int) -> None:
        self.watch = watch
        self.helper = 0  # a process of ours that is not the run's
        self._bounds = bounds
        self._woken = woken
        self._started = 0.0
        self._next_disk_sample = 0.0

    def until_the_end(self, main: Main, lifeline: socket.socket) -> tuple[int, str]:
        """Return the main process's wait status and the name of the bound that ended it."""
        limit = ""
        self._started = time.time()
        self._next_disk_sample = time.monotonic() + DISK_SAMPLE_S
        sources: list[socket.socket | int] = [lifeline, self._woken]
        if main.reports is not None:
            sources.append(main.reports)
        while True:
            ready, _, _ = select.select(sources, [], [], SAMPLE_S)
            if self._woken in ready:
                os.read(self._woken, 4096)
            status = _reported(main) if main.reports in ready else _ended(main)
            if status is not None:
                return status, limit or ("memory" if self.watch.exceeded_by_group() else "")
            if lifeline in ready:
                sources.remove(lifeline)  # its end of file is said once
            elif not limit:
                limit = self._exceeded()
            if limit or lifeline not in sources:
                _kill(main)

    def processes(self) -> list[int]:
        """Return the run's processes."""
        return [pid for pid in descendants(os.getpid()) if pid != self.helper]

    def _exceeded(self) -> str:
        """Return the name of the bound that the run is over, or nothing."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        over = self.watch.exceeded(self.processes, ended.ru_utime + ended.ru_stime)
        return over or ("disk" if self._disk_exceeded() else "")

    def _disk_exceeded(self) -> bool:
        begin = time.monotonic()
        if not self._bounds.disk_bytes or begin < self._next_disk_sample:
            return False
        written = written_bytes(self._bounds.disk_places, self._started)
        written += nameless_files(descendants(os.getpid()), in_memory=False)
        end = time.monotonic()
        self._next_disk_sample = end + max(DISK_SAMPLE_S, (end - begin) / DISK_SHARE)
        return written > self._bounds.disk_bytes


def _kill(main: Main) -> None:
    """Kill the main process and its group, or the first of its namespace and with it all."""
    if main.reports is None:
        os.killpg(main.pid, signal.SIGKILL)  # what has left its group is killed when its status is known
    else:
        os.kill(main.pid, signal.SIGKILL)


def _reported(main: Main) -> int:
    """Return what pid 1 says; if it was killed before it could, so was the main process."""
    assert main.reports is not None  # noqa: S101 - only asked if there is somebody to ask
    said = main.reports.recv(64)
    return int(said) if said.strip().isdigit() else signal.SIGKILL


def _ended(main: Main) -> int | None:
    """Reap whatever has ended; return the main process's wait status if it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == main.pid:
            return status if main.reports is None else _reported(main)
