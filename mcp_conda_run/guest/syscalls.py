"""Linux system calls that Python has no names for, through ctypes.

Used on both sides: by keepers under the server's Python and by zygotes under an environment's. Each function is one
call with its errno turned into an OSError; the order in which they make a sandbox is in `sandbox/`. Importing this
module calls nothing, so that it can be imported anywhere.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

SIGKILL = 9


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def prctl(option: int, *arguments: int) -> int:
    """Control this process in the way `option` names; every argument is an unsigned long (man 2 prctl)."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _check(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)), f"prctl({option})")


def set_child_subreaper() -> None:
    """Become the parent of orphaned descendants (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Be killed when the thread that forked this process ends (PR_SET_PDEATHSIG, prctl(2))."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)
