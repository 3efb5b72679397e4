"""How a run's process comes to be behind the walls of the system's bubblewrap (tier B). Called in the keeper.

For machines where that program alone may make namespaces. It makes them and the mounts, as it is told; what it cannot
do is done by a process of ours inside (`guest/bubble.py`) before the main process is there: the filter of system calls,
the bound on processes, the proxy's socket, and the report of how the main process ended, which bubblewrap would blur.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket

from ..guest import seccomp, syscalls
from .mainprocess import Main, fork_main
from .order import Bubble, Descriptors, Order

FILTERS = {frozen: seccomp.filter_program(freeze_metadata=frozen) for frozen in (False, True)}
"""Files of a clone are shared with the environment and held by their modes alone, as in tier C."""
REPORTS_FD, OPTIONS_FD, STDERR_FD = 5, 6, 7
STAGE_DIRECTORY = "/run/stage"
SAID_BYTES = 4096


def start_bubble(order: Order, bubble: Bubble, descriptors: Descriptors) -> Main:
    """Start the main process behind bubblewrap's walls.

    Args:
        order: what to start.
        bubble: the order's.
        descriptors: what came with it.

    Raises:
        OSError: bubblewrap cannot be executed, or the kernel refuses what it wants.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    config = {
        "processes": bubble.processes,
        "proxy_port": bubble.proxy_port,
        "filter": FILTERS[bubble.freeze_metadata].hex() if bubble.filter_calls else "",
    }
    ours.send(json.dumps(config).encode("ascii"))
    said = os.memfd_create("bubblewrap", os.MFD_CLOEXEC)
    options = os.memfd_create("options", os.MFD_CLOEXEC)  # not in the command line, which the run can read
    os.write(options, b"".join(os.fsencode(option) + b"\0" for option in bubble.options))
    os.lseek(options, 0, os.SEEK_SET)
    stage = [bubble.python, "-I", "-S", f"{STAGE_DIRECTORY}/bubble.py", str(REPORTS_FD), str(STDERR_FD)]
    wrapped = dataclasses.replace(
        order, argv=[bubble.program, "--args", str(OPTIONS_FD), "--", *stage, *order.argv], cwd="/"
    )
    try:
        # What bubblewrap complains of is not the run's to print.
        outer = dataclasses.replace(descriptors, stderr=said)
        main = fork_main(wrapped, outer, syscalls.die_with_parent, more=(theirs.fileno(), options, descriptors.stderr))
        theirs.close()
        message, received = _answer(ours)
        if message != b"started":
            raise OSError(errno.EPERM, os.pread(said, SAID_BYTES, 0).decode("utf-8", "replace").strip() or "it ended")
    finally:
        theirs.close()
        os.close(options)
        os.close(said)
    stage_, *listener = received
    return Main(main, ours, stage_, listener=tuple(listener))


def _answer(ours: socket.socket) -> tuple[bytes, list[int]]:
    try:
        message, received, _, _ = socket.recv_fds(ours, SAID_BYTES, 2)
    except ConnectionResetError:  # it ended before it had read anything
        return b"", []
    return message, received
