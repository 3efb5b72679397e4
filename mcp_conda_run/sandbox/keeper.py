"""A run's keeper: the process that starts the run's main process, watches over its bounds, and ends everything of it.

Forked by the spawner, one a run. It adopts what the run's processes leave behind (Linux), so that a daemon cannot get
away; it reports to the server over the lifeline, one JSON line each; and when the lifeline ends, because the server
says so or is dead, it kills all. Never runs code of the user or of an environment itself.
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
from typing import Any, NoReturn

from .enrolling import enroll
from .mainprocess import Main, start_plain
from .order import Bounds, Descriptors, Order
from .processes import descendants, kill_all_children, nameless_files, written_bytes
from .watch import Watch

if sys.platform == "linux":  # here and not where they are used: the spawner loads them once, for all keepers
    from ..guest import syscalls
    from .bubble import start_bubble
    from .confinement import start_confined
    from .pasta import Pasta
    from .workshop import Workshop

SAMPLE_S = 0.05
PASTA_S = 5.0
DISK_SAMPLE_S = 1.0
DISK_SHARE = 0.05
"""At most this share of the time goes into looking at what the run wrote."""


def keep(order: Order, descriptors: Descriptors, workshop: Workshop | None = None) -> NoReturn:
    """Own a run from its first process to its last; never returns."""
    lifeline = socket.socket(fileno=descriptors.lifeline)
    code = 0
    try:
        _keep(order, descriptors, lifeline, workshop)
    except BaseException as error:  # noqa: BLE001 - the server must hear of it, whatever it is
        _report(lifeline, failed=f"{type(error).__name__}: {error}", details=traceback.format_exc())
        code = 1
    finally:
        os._exit(code)


def _keep(order: Order, descriptors: Descriptors, lifeline: socket.socket, workshop: Workshop | None) -> None:
    os.setsid()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watch = Watch(order.bounds, workshop.groups.make(order.bounds) if workshop is not None else None)
    try:
        main = _start(order, descriptors, workshop)
        for descriptor in (descriptors.control, descriptors.stdout, descriptors.stderr):
            os.close(descriptor)
        watch.stage = main.stage
        pasta, no_network = _connect(order, main)
        attendance = _Attendance(order.bounds, watch, main, lifeline, woken)
        attendance.helper = pasta.pid if pasta is not None else 0
        if not enroll(watch.group, attendance.processes):
            watch.group = None
        if pasta is not None:
            no_network = pasta.wait(PASTA_S)
        facts = {"identity_dropped": main.identity_dropped, "held": watch.held, "no_network": no_network}
        _report(lifeline, main.listener, started=main.pid, **facts)
        for descriptor in main.listener:
            os.close(descriptor)
        status, limit = attendance.until_the_end()
        _report(lifeline, status=status, limit=limit, memory_bytes=watch.peak_bytes)
    finally:
        kill_all_children()
        if workshop is not None:
            workshop.groups.close()  # with what even this process does not see as its own


def _start(order: Order, descriptors: Descriptors, workshop: Workshop | None) -> Main:
    if sys.platform == "linux":
        syscalls.set_child_subreaper()
        if order.walls is not None and workshop is not None:
            return start_confined(order, order.walls, descriptors, workshop)
        if order.bubble is not None:
            return start_bubble(order, order.bubble, descriptors)
    return start_plain(order, descriptors)


def _connect(order: Order, main: Main) -> tuple[Pasta | None, str]:
    """Begin to connect the run's network to the internet, if it is to be; return why that fails, if it does."""
    if order.walls is None or not main.holder:
        return None, ""
    try:
        return Pasta(order.walls.pasta, *main.holder), ""
    except OSError as error:
        return None, error.strerror or str(error)


def _report(lifeline: socket.socket, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
    try:
        socket.send_fds(lifeline, [json.dumps(fields).encode("ascii") + b"\n"], list(descriptors))
    except OSError:
        return  # the server is gone, and with it everybody who would read this


# --- the watch
# --------------------------------------------------------------------------------------------------------


class _Attendance:
    """Waits for the end of the main process, of the lifeline, or of a bound."""

    def __init__(self, bounds: Bounds, watch: Watch, main: Main, lifeline: socket.socket, woken: int) -> None:
        self.bounds = bounds
        self.watch = watch
        self.main = main
        self.helper = 0  # a process of ours that is not the run's
        self.lifeline = lifeline
        self.woken = woken
        self.started = time.time()
        self.next_disk_sample = time.monotonic() + DISK_SAMPLE_S

    def until_the_end(self) -> tuple[int, str]:
        """Return the main process's wait status and the name of the bound that ended it."""
        limit = ""
        sources: list[socket.socket | int] = [self.lifeline, self.woken]
        if self.main.reports is not None:
            sources.append(self.main.reports)
        while True:
            ready, _, _ = select.select(sources, [], [], SAMPLE_S)
            if self.woken in ready:
                os.read(self.woken, 4096)
            status = self._reported() if self.main.reports in ready else self._ended()
            if status is not None:
                return status, limit or ("memory" if self.watch.exceeded_by_group() else "")
            if self.lifeline in ready:
                sources.remove(self.lifeline)  # its end of file is said once
            elif not limit:
                limit = self._exceeded()
            if limit or self.lifeline not in sources:
                self._kill()

    def processes(self) -> list[int]:
        """Return the run's processes."""
        return [pid for pid in descendants(os.getpid()) if pid != self.helper]

    def _kill(self) -> None:
        """Kill the main process and its group, or the first of its namespace and with it all."""
        if self.main.reports is None:
            os.killpg(self.main.pid, signal.SIGKILL)  # what has left its group is killed when its status is known
        else:
            os.kill(self.main.pid, signal.SIGKILL)

    def _reported(self) -> int:
        """Return what pid 1 says; if it was killed before it could, so was the main process."""
        assert self.main.reports is not None  # noqa: S101 - only asked if there is somebody to ask
        said = self.main.reports.recv(64)
        return int(said) if said.strip().isdigit() else signal.SIGKILL

    def _ended(self) -> int | None:
        """Reap whatever has ended; return the main process's wait status if it is among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid == 0:
                return None
            if pid == self.main.pid:
                return status if self.main.reports is None else self._reported()

    def _exceeded(self) -> str:
        """Return the name of the bound that the run is over, or nothing."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        over = self.watch.exceeded(self.processes, ended.ru_utime + ended.ru_stime)
        return over or ("disk" if self._disk_exceeded() else "")

    def _disk_exceeded(self) -> bool:
        begin = time.monotonic()
        if not self.bounds.disk_bytes or begin < self.next_disk_sample:
            return False
        written = written_bytes(self.bounds.disk_places, self.started)
        written += nameless_files(descendants(os.getpid()), in_memory=False)
        end = time.monotonic()
        self.next_disk_sample = end + max(DISK_SAMPLE_S, (end - begin) / DISK_SHARE)
        return written > self.bounds.disk_bytes
