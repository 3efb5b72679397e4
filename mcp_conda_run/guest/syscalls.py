"""Linux system calls that Python has no names for, through ctypes.

Used on both sides: by keepers under the server's Python and by zygotes under an environment's, so it runs on every
supported CPython and needs nothing but the standard library. Each function is one call, or one inseparable group of
calls, with its errno turned into an OSError; the order in which they make a sandbox is in `sandbox/`. Importing this
module changes nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)

X86_64 = platform.machine() == "x86_64"

# The calls that glibc has no wrapper for. From 424 on, all architectures have the same numbers.
_NR_PIVOT_ROOT = 155 if X86_64 else 41
_NR_CAPSET = 126 if X86_64 else 91
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_MOUNT_SETATTR = 442

# From the manual: unshare(2).
CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

# From the manual: mount(2).
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# From the manual: mount_setattr(2), open_tree(2), move_mount(2).
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x10_0000
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4

# From the manual: prctl(2).
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# From the manual: capabilities(7).
CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21

SECCOMP_MODE_FILTER = 2

_SIGKILL = 9
_CAPABILITY_VERSION_3 = 0x2008_0522
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x1 | 0x40


def check(result: int, what: str) -> int:
    """Return the result of a C function, or raise the `OSError` that its errno stands for."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def prctl(option: int, *arguments: int) -> int:
    """Control this process in the way `option` names; every argument is an unsigned long (man 2 prctl)."""
    result: int = libc.prctl(option, *(*arguments, 0, 0, 0, 0)[:4])
    return result if result >= 0 else check(result, f"prctl({option})")


# --- processes
# --------------------------------------------------------------------------------------------------------


def set_child_subreaper() -> None:
    """Become the parent of orphaned descendants."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Be killed when the thread that forked this process ends."""
    prctl(PR_SET_PDEATHSIG, _SIGKILL)


def set_no_new_privileges() -> None:
    """Let no exec gain anything: setuid bits and file capabilities stop counting; needed for seccomp and Landlock."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability, also those that a later exec could bring back (capabilities(7))."""
    _drop_from_bounding_set(())
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    _set_capabilities(0)


def keep_capabilities(kept: Collection[int]) -> None:
    """Give up all capabilities but these, which stay over an exec of an ordinary program (capabilities(7)).

    Args:
        kept: numbers below 32, of capabilities that this process has.
    """
    _drop_from_bounding_set(kept)
    _set_capabilities(sum(1 << capability for capability in kept))
    for capability in kept:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _drop_from_bounding_set(kept: Collection[int]) -> None:
    last = 63
    for capability in range(last + 1):
        if capability in kept:
            continue
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # beyond what this kernel knows; or not ours to drop, and then there is nothing to drop


def _set_capabilities(mask: int) -> None:
    """Make the first 32 capabilities' effective, permitted and inheritable sets the mask, and the others' empty."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    check(libc.syscall(ctypes.c_long(_NR_CAPSET), header, struct.pack("6I", mask, mask, mask, 0, 0, 0)), "capset")


# --- namespaces
# -------------------------------------------------------------------------------------------------------


def unshare(flags: int) -> None:
    """Leave the namespaces that the flags name, into new ones."""
    check(libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def setns(descriptor: int, flags: int) -> None:
    """Enter the namespace that the descriptor stands for."""
    check(libc.setns(ctypes.c_int(descriptor), ctypes.c_int(flags)), "setns")


def unshare_user(inner_uid: int, inner_gid: int, extra: int = 0) -> None:
    """Enter a new user namespace, in which this process's ids are called as given (user_namespaces(7)).

    With it come all capabilities over what is made from now on, and over nothing else. The caller must have one
    thread.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | extra)
    # Without this a process could drop a group in order to pass a permission check that denies that group.
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{inner_uid} {uid} 1")
    write("/proc/self/gid_map", f"{inner_gid} {gid} 1")


def write(path: str, text: str) -> None:
    """Write a kernel file in one call, as those files demand."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def loopback_up() -> None:
    """Switch on the loopback interface of this network namespace (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))


# --- mounts
# -----------------------------------------------------------------------------------------------------------


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount, bind or change a mount (man 2 mount)."""
    result = libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode() or None, flags, os.fsencode(options) or None
    )
    check(result, f"mount {kind or 'bind'} {target}")


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """Take a mount away; by default even if it is in use, and all that is mounted on it."""
    check(libc.umount2(os.fsencode(target), flags), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root directory and move the former root to `old`, a directory below it."""
    result = libc.syscall(ctypes.c_long(_NR_PIVOT_ROOT), os.fsencode(new), os.fsencode(old))
    check(result, "pivot_root")


def set_mount_attributes(path: str, attributes: int, *, recursive: bool = True) -> None:
    """Set attributes of a mount and, if asked for, of all below it (man 2 mount_setattr)."""
    _mount_setattr(_AT_FDCWD, path, struct.pack("QQQQ", attributes, 0, 0, 0), _AT_RECURSIVE if recursive else 0)


def bind(source: str, target: str, attributes: int = 0) -> None:
    """Make the tree at `source` visible at `target` too, with further restrictions, submounts included."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if attributes:
        set_mount_attributes(target, attributes)


def copy_of_mounts(source: str, attributes: int, user_namespace: int | None = None) -> int:
    """Return a descriptor of a copy of the mounts at `source` and below, with further restrictions.

    The copy is attached nowhere yet.
    With a user namespace, given by a descriptor, the owners of files are translated by its maps. That needs
    CAP_SYS_ADMIN over the file systems themselves, and file systems that can do it (mount_setattr(2), "ID-mapped
    mounts").
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    result = libc.syscall(ctypes.c_long(_NR_OPEN_TREE), _AT_FDCWD, os.fsencode(source), ctypes.c_uint(flags))
    copy = check(result, f"open_tree {source}")
    if user_namespace is not None:
        attributes |= MOUNT_ATTR_IDMAP
    try:
        wanted = struct.pack("QQQQ", attributes, 0, 0, user_namespace or 0)
        _mount_setattr(copy, "", wanted, _AT_RECURSIVE | _AT_EMPTY_PATH)
    except OSError:
        os.close(copy)
        raise
    return copy


def attach_mounts(copy: int, target: str) -> None:
    """Attach what `copy_of_mounts` returned; closes the descriptor."""
    try:
        result = libc.syscall(
            *(ctypes.c_long(_NR_MOVE_MOUNT), copy, b"", _AT_FDCWD, os.fsencode(target)),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        )
        check(result, f"move_mount {target}")
    finally:
        os.close(copy)


def _mount_setattr(descriptor: int, path: str, attributes: bytes, flags: int) -> None:
    result = libc.syscall(
        ctypes.c_long(_NR_MOUNT_SETATTR),
        ctypes.c_int(descriptor),
        os.fsencode(path),
        ctypes.c_uint(flags),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    check(result, f"mount_setattr {path}")


# --- seccomp
# ----------------------------------------------------------------------------------------------------------


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install_seccomp(program: bytes) -> None:
    """Filter the system calls of this process and all its children for ever (man 2 seccomp)."""
    buffer = ctypes.create_string_buffer(program, len(program))
    instruction_bytes = 8
    header = _FilterProgram(len(program) // instruction_bytes, ctypes.addressof(buffer))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(header))
