"""Our first process behind bubblewrap's walls (tier B): finishes them, starts the main process, reports how that ends.

Run by `sandbox/bubble.py` as `python -I -S .../bubble.py REPORTS STDERR PROGRAM ARGUMENT...`, under the environment's
Python but without its packages: nothing but the standard library is loaded before the walls are whole. REPORTS is a
sequenced-packet socket to the keeper: first it gives the configuration, then it is told `started`, with descriptors of
the shared memory's file system and, if asked for, of the listening socket for the proxy; at last the main process's
wait status, as a number.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

MAX_MESSAGE_BYTES = 1 << 17
CONTROL_FD = 3


def sibling(name: str) -> ModuleType:
    """Return a module that stands beside this one, which is no package here."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    module = ModuleType(name)
    code = SourceFileLoader(name, path).get_code(name)
    assert code is not None  # noqa: S101 - for mypy: a source file has code
    exec(code, module.__dict__)  # our own module
    return module


def finish_walls(syscalls: ModuleType, processes: int, calls: bytes) -> None:
    """Leave this process, and all that it starts, with nothing that could open a wall."""
    if processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    syscalls.drop_capabilities()
    syscalls.set_no_new_privileges()
    if calls:
        syscalls.install_seccomp(calls)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # the run has the same user: it must not look into this process


def listen(port: int) -> int:
    """Listen inside the run's network: a socket stays in the namespace in which it was made, whoever holds it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener.detach()


def become(program: list[str]) -> None:
    """Be the main process, with signals as any program expects them (Python ignores some, and that is inherited)."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execv(program[0], program)  # noqa: S606 - a shell is what we avoid


def main() -> None:
    """Do all this, and end with the main process."""
    reports = socket.socket(fileno=int(sys.argv[1]))
    config = json.loads(reports.recv(MAX_MESSAGE_BYTES))
    syscalls = sibling("syscalls")
    outward = [os.open("/dev/shm", os.O_PATH | os.O_CLOEXEC)]  # noqa: S108 - the run's own
    if config["proxy_port"]:
        outward.append(listen(config["proxy_port"]))
    for inherited in (reports.fileno(), *outward):
        os.set_inheritable(inherited, False)
    finish_walls(syscalls, config["processes"], bytes.fromhex(config["filter"]))
    complaints = os.dup(2)
    os.set_inheritable(complaints, False)
    os.dup2(int(sys.argv[2]), 2)
    os.close(int(sys.argv[2]))
    child = os.fork()
    if child == 0:
        try:
            become(sys.argv[3:])
        except OSError as error:
            os.write(complaints, f"{error.strerror}: {sys.argv[3]}".encode())
        finally:
            os._exit(127)
    socket.send_fds(reports, [b"started"], outward)
    for descriptor in (0, 1, 2, CONTROL_FD, complaints, *outward):
        os.close(descriptor)
    while True:
        pid, status = os.wait()
        if pid == child:
            reports.send(b"%d" % status)
            os._exit(0)


main()
