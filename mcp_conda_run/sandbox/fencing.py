"""How a run's process locks itself in where there are no namespaces (tier C). Called in the forked main process.

Landlock holds files, TCP ports and, on newer kernels, signals; seccomp holds what Landlock does not know: other
sockets, and changes of modes, owners and times, by which a run could otherwise lift the write protection of the files
that its prefix shares with the environment. Before version 3, Landlock does not know that files can be emptied.
"""

from __future__ import annotations

import socket

from ..guest import landlock, seccomp, syscalls
from .order import Fence

OLD = landlock.version() < landlock.TRUNCATION
OFFLINE = seccomp.filter_program(families=(), freeze_metadata=True, hold_truncation=OLD)
ONLINE = seccomp.filter_program(families=(socket.AF_INET, socket.AF_INET6), only_tcp=True, freeze_metadata=True)


def lock_in(fence: Fence) -> None:
    """Lock this process and all its children in, for ever.

    Raises:
        OSError: the kernel refuses.
    """
    # Root without capabilities is bound by the modes of files like everybody, and an exec gives none back.
    syscalls.drop_capabilities()
    landlock.restrict(
        read_only=fence.read_only, writable=fence.writable, devices=fence.devices, ports=list(fence.ports)
    )
    syscalls.install_seccomp(ONLINE if fence.network else OFFLINE)
