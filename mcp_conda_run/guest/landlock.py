"""Landlock: a process locks itself out of files, ports and other processes, for ever and with its children.

For machines without namespaces. Stands beside `syscalls.py`, and for the same users. See landlock(7) and
Documentation/userspace-api/landlock.rst of the kernel for the versions ("ABI") and what each can hold.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Sequence

from .syscalls import check, libc, set_no_new_privileges

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
_FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
_ALL = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
"""All rights over files that a version knows."""

_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ALL = 1 | 2  # abstract unix sockets, signals

LINKS, TRUNCATION, PORTS, SCOPES = 2, 3, 4, 6
"""The first versions that allow links between directories, and that hold truncation, TCP ports, and signals and
abstract sockets."""


def version() -> int:
    """Return the kernel's version of Landlock; 0 if it has none, or none that is switched on."""
    flags = ctypes.c_uint(_CREATE_RULESET_VERSION)
    return max(0, int(libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), flags)))


def restrict(
    *, read_only: Iterable[str], writable: Iterable[str], devices: Iterable[str], ports: Sequence[int]
) -> None:
    """Lock this process out of all else; paths that do not exist are left out.

    Args:
        read_only: files and directories to read and execute.
        writable: files and directories to do anything with.
        devices: device files to read and write.
        ports: TCP ports to connect to, at any address.

    Raises:
        OSError: the kernel has no Landlock.
    """
    known = version()
    handled = _ALL[min(max(known, 1), max(_ALL))]
    attributes = [handled]
    if known >= PORTS:
        attributes.append(_BIND_TCP | _CONNECT_TCP)
    if known >= SCOPES:
        attributes.append(_SCOPE_ALL)
    packed = struct.pack(f"{len(attributes)}Q", *attributes)
    created = libc.syscall(ctypes.c_long(_CREATE_RULESET), packed, ctypes.c_size_t(len(packed)), ctypes.c_uint(0))
    ruleset = check(created, "landlock_create_ruleset")
    try:
        for paths, rights in ((read_only, READ), (writable, handled), (devices, WRITE_FILE | READ_FILE | IOCTL_DEVICE)):
            for path in paths:
                _allow_path(ruleset, path, rights & handled)
        for port in ports if known >= PORTS else ():
            rule = struct.pack("=QQ", _CONNECT_TCP, port)
            check(_add_rule(ruleset, _RULE_NET_PORT, rule), f"landlock_add_rule {port}")
        set_no_new_privileges()
        done = libc.syscall(ctypes.c_long(_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint(0))
        check(done, "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _FOR_FILES
        check(_add_rule(ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, place)), f"landlock_add_rule {path}")
    finally:
        os.close(place)


def _add_rule(ruleset: int, kind: int, rule: bytes) -> int:
    return int(
        libc.syscall(ctypes.c_long(_ADD_RULE), ctypes.c_int(ruleset), ctypes.c_int(kind), rule, ctypes.c_uint(0))
    )
