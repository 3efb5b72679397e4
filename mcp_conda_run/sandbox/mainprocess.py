"""From a forked process to the run's main process: descriptors, limits, exec.

Called by the keeper for ordinary processes, and by `confinement.py` behind walls.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .order import CONTROL_FD, Descriptors, Fence, Order

if sys.platform == "linux":
    from ..guest import syscalls
    from .fencing import lock_in

_FAILURE_FD = CONTROL_FD + 1
_OUT_OF_THE_WAY = 16


@dataclass(frozen=True, slots=True)
class Main:
    """The process whose end is the end of the run, as its keeper sees it.

    Attributes:
        pid: a child of the keeper: the main process itself, or pid 1 of its namespace.
        reports: where pid 1 says how the main process ended; None if that is `pid` itself.
        stage: a descriptor of the file system that takes what the run writes; None if there is none of its own.
        identity_dropped: whether the main process is another user than its keeper.
        listener: a descriptor of the socket for the server's proxy, or nothing.
        holder: descriptors of the process that holds the run's network for pasta, and of a socket to that; or nothing.
    """

    pid: int
    reports: socket.socket | None = None
    stage: int | None = None
    identity_dropped: bool = False
    listener: tuple[int, ...] = ()
    holder: tuple[int, ...] = ()


def start_plain(order: Order, descriptors: Descriptors) -> Main:
    """Start the main process as an ordinary child.

    Raises:
        OSError: it could not be executed.
    """
    return Main(fork_main(order, descriptors, lambda: _prepare(order.fence)))


def _prepare(fence: Fence | None) -> None:
    if sys.platform != "linux":
        return
    syscalls.die_with_parent()
    if fence is not None:
        lock_in(fence)


def fork_main(order: Order, descriptors: Descriptors, prepare: Callable[[], None], more: Sequence[int] = ()) -> int:
    """Fork a process that calls `prepare` and then executes what the order says; return its id once it does.

    Args:
        order: what to execute.
        descriptors: what it is given.
        prepare: called before.
        more: further descriptors that it is given, in a row after the one by which it says why it fails.

    Raises:
        OSError: it could not be executed.
    """
    failed, failure = os.pipe()
    main = os.fork()
    if main == 0:
        _become(order, descriptors, prepare, (failure, *more))
    os.close(failure)
    with open(failed, "rb") as reader:
        message = reader.read().decode(errors="replace")
    if message:
        os.waitpid(main, 0)
        number, _, what = message.partition(" ")
        raise OSError(int(number), os.strerror(int(number)), what)
    return main


def _become(order: Order, descriptors: Descriptors, prepare: Callable[[], None], further: Sequence[int]) -> NoReturn:
    failure = further[0]
    try:
        os.setsid()
        _usual_signals()
        place_descriptors(descriptors, *further)
        failure = _FAILURE_FD
        limit(order.rlimits)
        os.chdir(order.cwd)
        prepare()
        os.execve(order.argv[0], list(order.argv), dict(order.environ))  # noqa: S606 - a shell is what we avoid
    except OSError as error:
        os.write(failure, f"{error.errno or 0} {error.filename or order.argv[0]}".encode(errors="replace"))
    finally:
        os._exit(127)


def _usual_signals() -> None:
    """Undo what Python and the keeper set: an ignored signal would stay ignored over the exec (execve(2))."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def place_descriptors(descriptors: Descriptors, failure: int, *more: int) -> None:
    """Put the descriptors where the guest expects them, `failure` and then `more` after them, and close all others."""
    sources = (descriptors.control, descriptors.stdout, descriptors.stderr, failure, *more)
    control, stdout, stderr, failure, *more_ = (fcntl.fcntl(n, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for n in sources)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, place in ((nothing, 0), (stdout, 1), (stderr, 2), (control, CONTROL_FD)):
        os.dup2(number, place, inheritable=True)
    os.dup2(failure, _FAILURE_FD, inheritable=False)
    for place, number in enumerate(more_, _FAILURE_FD + 1):
        os.dup2(number, place, inheritable=True)
    os.closerange(_FAILURE_FD + 1 + len(more_), _highest_descriptor() + 1)


def _highest_descriptor() -> int:
    try:
        return max(map(int, os.listdir("/dev/fd")))
    except (OSError, ValueError):
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def limit(limits: Mapping[str, tuple[int, int]]) -> None:
    """Set resource limits, given by their `RLIMIT_` names, as far down as the hard limits that hold already."""
    for name, (soft, hard) in limits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None:
            continue
        hardest = resource.getrlimit(number)[1]
        if hardest != resource.RLIM_INFINITY:
            soft, hard = min(soft, hardest), min(hard, hardest)  # noqa: PLW2901
        resource.setrlimit(number, (soft, hard))
