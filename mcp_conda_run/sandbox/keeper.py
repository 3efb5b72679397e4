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

from ..guest import syscalls
from .order import CONTROL_FD, Bounds, Descriptors, Order
from .processes import Used, descendants, kill_all_children, proportional_memory, used, written_bytes

SAMPLE_S = 0.05
DISK_SAMPLE_S = 1.0
DISK_SHARE = 0.05
"""At most this share of the time goes into looking at what the run wrote."""


def keep(order: Order, descriptors: Descriptors) -> NoReturn:
    """Own a run from its first process to its last; never returns."""
    lifeline = socket.socket(fileno=descriptors.lifeline)
    code = 0
    try:
        _keep(order, descriptors, lifeline)
    except BaseException as error:  # noqa: BLE001 - the server must hear of it, whatever it is
        _report(lifeline, failed=f"{type(error).__name__}: {error}", details=traceback.format_exc())
        code = 1
    finally:
        os._exit(code)


def _keep(order: Order, descriptors: Descriptors, lifeline: socket.socket) -> None:
    os.setsid()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    if sys.platform == "linux":
        syscalls.set_child_subreaper()
    main = start(order, descriptors)
    for descriptor in (descriptors.control, descriptors.stdout, descriptors.stderr):
        os.close(descriptor)
    _report(lifeline, started=main)
    status, limit, peak = _Watch(order.bounds, main, lifeline, woken).until_the_end()
    _report(lifeline, status=status, limit=limit, memory_bytes=peak)
    kill_all_children()


def _report(lifeline: socket.socket, **fields: Any) -> None:
    try:
        lifeline.sendall(json.dumps(fields).encode("ascii") + b"\n")
    except OSError:
        return  # the server is gone, and with it everybody who would read this


# --- the main process
# -------------------------------------------------------------------------------------------------


def start(order: Order, descriptors: Descriptors) -> int:
    """Fork the run's main process, which executes what the order says; return its process id.

    Raises:
        OSError: it could not be executed.
    """
    failed, failure = os.pipe()
    main = os.fork()
    if main == 0:
        _become(order, descriptors, failure)
    os.close(failure)
    with open(failed, "rb") as reader:
        message = reader.read()
    if message:
        number, _, what = message.decode().partition(" ")
        raise OSError(int(number), os.strerror(int(number)), what)
    return main


def _become(order: Order, descriptors: Descriptors, failure: int) -> NoReturn:
    """Turn this forked process into the run's main process."""
    try:
        os.setsid()
        if sys.platform == "linux":
            syscalls.die_with_parent()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # ignored signals stay ignored over an exec (execve(2))
        failure = _place(descriptors, failure)
        for name, bounds in order.rlimits.items():
            _limit(name, bounds)
        os.chdir(order.cwd)
        os.execve(order.argv[0], list(order.argv), dict(order.environ))  # noqa: S606 - a shell is what we avoid
    except OSError as error:
        os.write(failure, f"{error.errno} {error.filename or order.argv[0]}".encode())
    finally:
        os._exit(127)


def _place(descriptors: Descriptors, failure: int) -> int:
    """Put the descriptors where the guest expects them and close all others; return the new number of `failure`."""
    first_free = 16
    moved = [_move_up(number, first_free) for number in (descriptors.control, descriptors.stdout, descriptors.stderr)]
    failure = _move_up(failure, first_free)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, place in ((nothing, 0), (moved[1], 1), (moved[2], 2), (moved[0], CONTROL_FD)):
        os.dup2(number, place, inheritable=True)
    os.dup2(failure, CONTROL_FD + 1, inheritable=False)
    os.closerange(CONTROL_FD + 2, _highest_descriptor() + 1)
    return CONTROL_FD + 1


def _move_up(number: int, lowest: int) -> int:
    import fcntl  # noqa: PLC0415 - not there on Windows

    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, lowest)


def _highest_descriptor() -> int:
    try:
        return max(map(int, os.listdir("/dev/fd")))
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _limit(name: str, bounds: tuple[int, int]) -> None:
    number = getattr(resource, f"RLIMIT_{name}", None)
    if number is None:
        return
    soft, hard = bounds
    hardest = resource.getrlimit(number)[1]
    if hardest != resource.RLIM_INFINITY:
        soft, hard = min(soft, hardest), min(hard, hardest)
    resource.setrlimit(number, (soft, hard))


# --- the watch
# --------------------------------------------------------------------------------------------------------


class _Watch:
    """Waits for the end of the main process, of the lifeline, or of a bound."""

    def __init__(self, bounds: Bounds, main: int, lifeline: socket.socket, woken: int) -> None:
        self.bounds = bounds
        self.main = main
        self.lifeline = lifeline
        self.woken = woken
        self.peak = 0
        self.started = time.time()
        self.next_disk_sample = time.monotonic() + DISK_SAMPLE_S

    def until_the_end(self) -> tuple[int, str, int]:
        """Return the main process's wait status, the name of the bound that ended it, and the highest memory seen."""
        limit = ""
        sources: list[socket.socket | int] = [self.lifeline, self.woken]
        while True:
            ready, _, _ = select.select(sources, [], [], SAMPLE_S)
            if self.woken in ready:
                os.read(self.woken, 4096)
            status = self._ended()
            if status is not None:
                return status, limit, self.peak
            if self.lifeline in ready:
                sources = [self.woken]  # its end of file is said once
            elif not limit:
                limit = self._exceeded()
            if limit or len(sources) == 1:
                os.killpg(self.main, signal.SIGKILL)  # what has left its group is killed when its status is known

    def _ended(self) -> int | None:
        """Reap whatever has ended; return the main process's wait status if it is among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid == 0:
                return None
            if pid == self.main:
                return status

    def _exceeded(self) -> str:
        """Return the name of the bound that the run is over, or nothing."""
        pids = descendants(os.getpid())
        now = used(pids)
        self.peak = max(self.peak, now.memory_bytes)
        if self.bounds.memory_bytes and now.memory_bytes > self.bounds.memory_bytes:
            self.peak = proportional_memory(pids)
            if self.peak > self.bounds.memory_bytes:
                return "memory"
        if self.bounds.processes and now.processes > self.bounds.processes:
            return "processes"
        if self.bounds.cpu_s and self._cpu_s(now) > self.bounds.cpu_s:
            return "cpu"
        return "disk" if self._disk_exceeded() else ""

    @staticmethod
    def _cpu_s(now: Used) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return now.cpu_s + ended.ru_utime + ended.ru_stime

    def _disk_exceeded(self) -> bool:
        begin = time.monotonic()
        if not self.bounds.disk_bytes or begin < self.next_disk_sample:
            return False
        written = written_bytes(self.bounds.disk_places, self.started)
        end = time.monotonic()
        self.next_disk_sample = end + max(DISK_SAMPLE_S, (end - begin) / DISK_SHARE)
        return written > self.bounds.disk_bytes
