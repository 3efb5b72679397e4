"""A warmed-up interpreter that forks one process a run, so that no run waits for imports.

Started behind walls by `sandbox/zygotes_walls.py` as `python .../zygote.py FD`, under the environment's Python: there
is nothing of the host around it and no network. It imports the packages it is told to, then forks on order. It never
runs code of a user and never sees any: a run's code arrives on a socket of the run's own, which only the fork reads.

The channel is a sequenced-packet socket to its keeper; every message is JSON. First comes the configuration, answered
by `{"ready": true}`; then orders, each with four descriptors (control, stdout, stderr, reports), each answered by
`{"id", "pid"}` with a descriptor of the process, or by `{"id", "failed"}`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_MESSAGE_BYTES = 1 << 18
DESCRIPTORS = 4

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "execute.py")
execute = ModuleType("mcp_conda_run_execute")
execute.__file__ = _PATH
_CODE = SourceFileLoader(execute.__name__, _PATH).get_code(execute.__name__)
assert _CODE is not None  # noqa: S101 - for mypy: a source file has code
exec(_CODE, execute.__dict__)  # our own module, which must not be seen in sys.modules

syscalls, child, fresh, preload = map(execute.sibling, ("syscalls", "zygote_child", "zygote_fresh", "zygote_preload"))
child.syscalls = syscalls


def live(descriptor: int) -> None:
    """Answer orders until the keeper is gone; return in each forked process, as the main process of its run."""
    os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=descriptor)
    config = json.loads(channel.recv(MAX_MESSAGE_BYTES))
    execute.caches.show()
    preload.load(config["modules"], execute, config["filename"])
    threads = fresh.thread_functions()
    fresh.allow_threads(threads)
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("a preloaded package has started threads, which forks would not have")
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the keeper watches the forked processes; nobody waits here
    channel.send(b'{"ready": true}')
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, DESCRIPTORS)
        if not data:
            os._exit(0)  # as pid 1 of its namespace this takes every run along
        order = json.loads(data)
        if len(descriptors) == DESCRIPTORS:
            if fork(channel, own_pids, order):
                channel.detach()  # its number is about to be the run's
                child.begin(config, order, descriptors)
                fresh.restore(order["environ"], threads)
                if order["touch"]:
                    preload.touch(config["modules"], execute, config["filename"])
                return
        else:
            answer(channel, {"id": order["id"], "failed": "no descriptors are left"})
        for received in descriptors:
            os.close(received)


def fork(channel: socket.socket, own_pids: int, order: dict[str, Any]) -> bool:
    """Fork a process that is pid 1 of a namespace of its own; return whether this is it."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                return True
        except OSError:
            syscalls.setns(own_pids, syscalls.CLONE_NEWPID)
            raise
        syscalls.setns(own_pids, syscalls.CLONE_NEWPID)
        process = os.pidfd_open(pid)
    except OSError as error:
        answer(channel, {"id": order["id"], "failed": f"{error.strerror}: the fork"})
        return False
    answer(channel, {"id": order["id"], "pid": pid}, process)
    os.close(process)
    return False


def answer(channel: socket.socket, fields: dict[str, Any], *descriptors: int) -> None:
    """Say what became of an order; without a keeper there is nothing left to live for."""
    try:
        socket.send_fds(channel, [json.dumps(fields).encode("ascii")], descriptors)
    except OSError:
        os._exit(0)


CONTROL_FD = int(sys.argv[1])
live(CONTROL_FD)
execute.serve(CONTROL_FD)  # as deep in the stack as in a process that start.py began
