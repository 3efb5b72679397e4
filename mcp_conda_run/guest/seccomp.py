"""The system calls that no run may make, as a seccomp filter.

A list of what is denied, not of what is allowed: science code calls much, and the namespaces are the wall. The filter
takes away what would let code work on that wall: further namespaces, mounts, other address families, the kernel's
large and rarely needed interfaces. Stands beside `syscalls.py`, and for the same users.
"""

from __future__ import annotations

import errno
import os
import platform
import socket
import struct
from collections.abc import Collection, Iterable

ARCHITECTURES = {
    # AUDIT_ARCH_ value; clone, clone3, socket, ioctl, shmget
    "x86_64": (0xC000_003E, 56, 435, 41, 16, 29),
    "aarch64": (0xC000_00B7, 220, 435, 198, 29, 194),
}

MAX_SHARED_SEGMENT = 65536
"""The largest System V segment of shared memory. One that nobody has attached belongs to no process, so nothing counts
it; small ones are what database servers use to find out whether they run already. POSIX shared memory is not bounded
by this."""

# Numbers per architecture: x86-64 from arch/x86/entry/syscalls/syscall_64.tbl, aarch64 from include/uapi/asm-generic/
# unistd.h. None: the call does not exist there.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "set_mempolicy": (238, 237),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}

TRUNCATING: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "truncate": (76, 45),
}

METADATA: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "chown": (92, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fremovexattr": (199, 16),
    "fsetxattr": (190, 7),
    "futimesat": (261, None),
    "lchown": (94, None),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
}
"""What changes files without opening them, which Landlock does not hold."""

FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_NETLINK", 16))
"""Address families that a run may use. A network namespace confines none of AF_VSOCK, which reaches the hypervisor."""

_NEW_NAMESPACES = 0x7E02_0000  # all CLONE_NEW* flags that clone(2) takes
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # put characters into a terminal's input
_X32_BIT = 0x4000_0000

# struct seccomp_data
_NUMBER, _ARCH, _FIRST, _SECOND, _THIRD = 0, 4, 16, 24, 32
_TYPE_MASK = 0xF  # the other bits of a socket's type are flags

# SECCOMP_RET_
_ALLOW = 0x7FFF_0000
_KILL = 0x8000_0000
_ERRNO = 0x0005_0000

_Instruction = tuple[int, int, int, int]


def _load(offset: int) -> _Instruction:
    return (0x20, 0, 0, offset)


def _if_equal(value: int, then: int, otherwise: int) -> _Instruction:
    return (0x15, then, otherwise, value)


def _if_at_least(value: int, then: int, otherwise: int) -> _Instruction:
    return (0x35, then, otherwise, value)


def _if_any_bit(value: int, then: int, otherwise: int) -> _Instruction:
    return (0x45, then, otherwise, value)


def _answer(value: int) -> _Instruction:
    return (0x06, 0, 0, value)


def _refuse(number: int) -> _Instruction:
    return _answer(_ERRNO | number)


def filter_program(
    machine: str = "",
    *,
    families: Iterable[int] = FAMILIES,
    only_tcp: bool = False,
    freeze_metadata: bool = False,
    hold_truncation: bool = False,
    allowed: Collection[str] = (),
) -> bytes:
    """Return the filter for a machine type, as the array of `struct sock_filter` that the kernel takes.

    Args:
        machine: as `platform.machine()` calls it; this one if empty.
        families: address families for which `socket()` works.
        only_tcp: whether `socket()` works for TCP alone (and not for MPTCP and SCTP, which Landlock does not know).
        freeze_metadata: whether calls that change owners, modes, times and attributes of files do nothing but say
            that they succeeded: programs do not expect them to fail on their own files.
        hold_truncation: whether no file can be emptied but by who has opened it for writing, which Landlock does not
            see to before its version 3.
        allowed: names of calls that are not denied after all.

    Raises:
        KeyError: there is no table for this machine type.
    """
    machine = machine or platform.machine()
    arch, clone, clone3, socket_call, ioctl, shmget = ARCHITECTURES[machine]
    column = list(ARCHITECTURES).index(machine)
    program = [_load(_ARCH), _if_equal(arch, 1, 0), _answer(_KILL), _load(_NUMBER)]
    if machine == "x86_64":
        program += [_if_at_least(_X32_BIT, 0, 1), _refuse(errno.EPERM)]
    # The flags of clone3 are in memory, which a filter cannot read; glibc takes ENOSYS as "use clone" (EPERM not).
    program += [_if_equal(clone3, 0, 1), _refuse(errno.ENOSYS)]
    program += [_if_equal(clone, 0, 4), _load(_FIRST), _if_any_bit(_NEW_NAMESPACES, 0, 1)]
    program += [_refuse(errno.EPERM), _answer(_ALLOW)]
    program += [_if_equal(ioctl, 0, 5), _load(_SECOND), _if_equal(_TIOCSTI, 1, 0), _if_equal(_TIOCLINUX, 0, 1)]
    program += [_refuse(errno.EPERM), _answer(_ALLOW)]
    # As the kernel answers to a segment beyond its own bound (shmget(2)); the size has two words.
    program += [_if_equal(shmget, 0, 6), _load(_SECOND + 4), _if_equal(0, 0, 2)]
    program += [_load(_SECOND), _if_at_least(MAX_SHARED_SEGMENT + 1, 0, 1), _refuse(errno.EINVAL), _answer(_ALLOW)]
    program += _socket_rule(socket_call, list(families), only_tcp=only_tcp)
    if freeze_metadata:
        program += _each(METADATA, column, _refuse(0))
    if hold_truncation:
        program += _truncation_rule(column)
    denied = {name: numbers for name, numbers in DENIED.items() if name not in allowed}
    program += _each(denied, column, _refuse(errno.EPERM))
    program += [_answer(_ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _each(table: dict[str, tuple[int | None, int | None]], column: int, answer: _Instruction) -> list[_Instruction]:
    numbers = sorted(row[column] or 0 for row in table.values() if row[column] is not None)
    return [instruction for number in numbers for instruction in (_if_equal(number, 0, 1), answer)]


def _truncation_rule(column: int) -> list[_Instruction]:
    """Refuse what empties a file without opening it for writing.

    That is done by its path, or by an opening for reading, or for neither (both low bits), that asks for it too. What
    openat2 is asked for is in memory, which a filter cannot read.
    """
    program = [_if_equal(TRUNCATING["openat2"][column] or 0, 0, 1), _refuse(errno.ENOSYS)]
    program += [_if_equal(TRUNCATING["truncate"][column] or 0, 0, 1), _refuse(errno.EACCES)]
    for name, flags in (("open", _SECOND), ("openat", _THIRD)):
        number = TRUNCATING[name][column]
        if number is None:
            continue
        program += [_if_equal(number, 0, 7), _load(flags), _if_any_bit(os.O_TRUNC, 0, 4), (0x54, 0, 0, os.O_ACCMODE)]
        program += [_if_equal(os.O_WRONLY, 2, 0), _if_equal(os.O_RDWR, 1, 0), _refuse(errno.EACCES), _answer(_ALLOW)]
    return program


def _socket_rule(socket_call: int, families: list[int], *, only_tcp: bool) -> list[_Instruction]:
    """Let `socket()` through for these families; the first test jumps over all of the rule for other calls."""
    refuse, allow = _refuse(errno.EAFNOSUPPORT), _answer(_ALLOW)
    tail = [refuse, allow]
    if only_tcp:
        tail = [
            refuse,
            _load(_SECOND),
            (0x54, 0, 0, _TYPE_MASK),  # and
            _if_equal(socket.SOCK_STREAM, 1, 0),
            refuse,
            _load(_THIRD),
            _if_equal(0, 2, 0),
            _if_equal(socket.IPPROTO_TCP, 1, 0),
            refuse,
            allow,
        ]
    count = len(families)
    tests = [_if_equal(family, count - at, 0) for at, family in enumerate(families)]
    rule = [_load(_FIRST), *tests, *tail]
    return [_if_equal(socket_call, 0, len(rule)), *rule]
