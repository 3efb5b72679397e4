"""A wall against the network for helper processes that must stay offline, whatever the programs in them would do.

Called by `lifeline.py` before a helper begins, while it has one thread. On Linux, where namespaces may be made, the
process and all that it starts lose the network itself: there is not even a loopback. Elsewhere the engines' own offline
modes hold, and proxies that nobody can reach (`worker.cut_off_network`).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def leave_network() -> bool:
    """Move this process into an empty network namespace (network_namespaces(7)); say whether that could be done."""
    if sys.platform != "linux":
        return False
    from ..guest import syscalls  # noqa: PLC0415 - Linux only

    with suppress(OSError):
        syscalls.unshare(syscalls.CLONE_NEWNET)
        return True
    with suppress(OSError):
        syscalls.unshare_user(os.geteuid(), os.getegid(), syscalls.CLONE_NEWNET)
        return True
    return False
