"""The file tree that a run in namespaces sees: a skeleton of the host, and nothing of the host's own data.

Called by `confinement.py` in a fresh mount namespace. All of it is read-only but the places that are bound to the
run's stage (prefix, home, temporary files, shared memory) and the mounts that the user asked for.
"""

from __future__ import annotations

import os
import stat

from ..guest import syscalls
from .identity import Owner
from .order import GUEST_DIRECTORY, HOME, INNER_ID, SCRATCH, Walls
from .pasta import NAMESERVER

LOCKED = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
READ_ONLY = LOCKED | syscalls.MOUNT_ATTR_RDONLY

SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "include", "share")
"""Directories of /usr that come along, and of / where those are no links; not /usr/local, which is the owner's."""

ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"),
    *("nsswitch.conf", "protocols", "services", "mime.types"),
    *("localtime", "timezone", "fonts"),
    *("os-release", "lsb-release", "debian_version", "redhat-release", "host.conf"),
    *("ssl/certs", "ssl/openssl.cnf", "ssl/cert.pem", "pki/tls/certs", "pki/ca-trust/extracted", "ca-certificates"),
)
"""What comes along of /etc; no directory among them that may hold private keys."""

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = (
    *(("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")),
    *(("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")),
)
MOUNT_POINTS = (
    *("proc", "tmp", "run", "var/tmp", "dev/shm", "dev/pts", "sys/devices/system/cpu"),
    *(HOME.lstrip("/"), GUEST_DIRECTORY.lstrip("/"), SCRATCH.lstrip("/")),
)

TEXTS = {
    "passwd": f"root:x:0:0:root:/:/bin/false\nuser:x:{INNER_ID}:{INNER_ID}:user:{HOME}:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": f"root:x:0:\nuser:x:{INNER_ID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "resolv.conf": f"nameserver {NAMESERVER}\n",
}


def build_skeleton(root: str) -> None:
    """Mount a small tmpfs at `root` and put into it what programs expect of any system.

    Raises:
        OSError: the kernel refuses.
    """
    syscalls.mount("tmpfs", root, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755,size=4m")
    for directory in MOUNT_POINTS:
        os.makedirs(f"{root}/{directory}", exist_ok=True)
    _system(root)
    _etc(root)
    _devices(root)
    cpus = "/sys/devices/system/cpu"  # how many there are, which thread pools ask for
    if os.path.isdir(cpus):
        syscalls.bind(cpus, root + cpus, READ_ONLY | syscalls.MOUNT_ATTR_NOEXEC)


def _system(root: str) -> None:
    os.mkdir(f"{root}/usr")
    for name in SYSTEM:
        if os.path.isdir(f"/usr/{name}"):
            show(f"/usr/{name}", f"{root}/usr/{name}")
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif name not in {"include", "libexec", "share"} and os.path.isdir(f"/{name}"):
            show(f"/{name}", f"{root}/{name}")


def _etc(root: str) -> None:
    os.mkdir(f"{root}/etc")
    for name in ETC:
        source = os.path.realpath(f"/etc/{name}")
        if os.path.exists(source):
            show(source, f"{root}/etc/{name}")
    for name, text in TEXTS.items():
        with open(f"{root}/etc/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _devices(root: str) -> None:
    for name in DEVICES:
        _empty_file(f"{root}/dev/{name}")
        syscalls.mount(f"/dev/{name}", f"{root}/dev/{name}", flags=syscalls.MS_BIND)
    for name, target in DEVICE_LINKS:
        os.symlink(target, f"{root}/dev/{name}")
    options = "newinstance,ptmxmode=0666,mode=0620"
    syscalls.mount("devpts", f"{root}/dev/pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, options)


def show(source: str, target: str, attributes: int = READ_ONLY) -> None:
    """Bind a file or a directory of the host to a place that need not exist yet."""
    make_place(source, target)
    syscalls.bind(source, target, attributes)


def make_place(source: str, target: str) -> None:
    """Make an empty directory or file to mount `source` on.

    Raises:
        OSError: it cannot be made: the place is below something read-only.
    """
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _empty_file(target)


def _empty_file(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


# --- the run's own
# ----------------------------------------------------------------------------------------------------

INODES_PER_MEBIBYTE = 400
LEAST_INODES = 10_000


STAGE_PLACES = (
    ("tmp", 0o1777, "/tmp"),  # noqa: S108 - the run's own
    ("vartmp", 0o1777, "/var/tmp"),  # noqa: S108
    ("shm", 0o1777, "/dev/shm"),  # noqa: S108
    ("home", 0o755, HOME),
    ("main", 0o755, SCRATCH),
)
"""Parts of the stage: name, mode, and where the run sees it."""


def stage_options(disk_bytes: int) -> str:
    """Return the mount options of a tmpfs that takes all that a run writes."""
    inodes = max(LEAST_INODES, disk_bytes // (1 << 20) * INODES_PER_MEBIBYTE)
    return f"mode=0755,size={disk_bytes},nr_inodes={inodes}"


def mount_stage(walls: Walls, owner: Owner) -> None:
    """Make the one place that takes all that the run writes, and show its parts in the new root.

    One size-limited tmpfs holds the prefix's changes, the home, temporary files and shared memory together.
    """
    if walls.upper:
        syscalls.bind(walls.upper, walls.stage, LOCKED)
    else:
        syscalls.mount(
            "tmpfs", walls.stage, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, stage_options(walls.disk_bytes)
        )
    for name, mode, place in STAGE_PLACES:
        _own_directory(f"{walls.stage}/{name}", mode, owner)
        syscalls.mount(f"{walls.stage}/{name}", walls.root + place, flags=syscalls.MS_BIND)
    for name in ("upper", "work"):
        _own_directory(f"{walls.stage}/{name}", 0o755, owner)
    os.mkdir(f"{walls.stage}/lower")


def _own_directory(path: str, mode: int, owner: Owner) -> None:
    os.mkdir(path)
    os.chmod(path, mode)
    owner.give(path)


def copy_sources(walls: Walls, owner: Owner) -> dict[str, int]:
    """Return descriptors of the mounts that the run gets of the host, by where it sees them.

    Taken before anything is mounted for the run: a source may be above the place where its root is being built.
    """
    copies = {walls.prefix: owner.copy_of_mounts(walls.prefix, READ_ONLY)}
    for bind in walls.binds:
        copies[bind.target] = owner.copy_of_mounts(bind.source, READ_ONLY if bind.read_only else LOCKED)
    return copies


def mount_prefix(walls: Walls, environment: int) -> None:
    """Lay the run's own writable view over the environment, at the environment's own path.

    Names are relative to the stage: the environment's path may hold what mount options cannot (a comma, a colon).
    """
    syscalls.attach_mounts(environment, f"{walls.stage}/lower")
    # Its directory is the run's own: the skeleton is the same for all runs, and must not name others' environments.
    parent = walls.root + os.path.dirname(walls.prefix)
    os.makedirs(parent, exist_ok=True)
    os.mkdir(f"{walls.stage}/environments")
    syscalls.mount(f"{walls.stage}/environments", parent, flags=syscalls.MS_BIND)
    os.mkdir(walls.root + walls.prefix)
    os.chdir(walls.stage)
    options = "lowerdir=lower,upperdir=upper,workdir=work,userxattr,volatile"
    syscalls.mount("overlay", walls.root + walls.prefix, "overlay", syscalls.MS_NOSUID | syscalls.MS_NODEV, options)
    os.chdir("/")


def mount_binds(walls: Walls, copies: dict[str, int]) -> None:
    """Show what the user asked for, and hide what must not be seen of it."""
    for bind in walls.binds:
        target = walls.root + bind.target
        make_place(bind.source, target)
        syscalls.attach_mounts(copies[bind.target], target)
    for place in walls.covered:
        options = "mode=0755,size=64k"
        syscalls.mount("tmpfs", walls.root + place, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, options)


def lock_covers(walls: Walls) -> None:
    """Make what covers the hidden places read-only; only now, because the environment's path may be below one."""
    for place in walls.covered:
        syscalls.set_mount_attributes(walls.root + place, READ_ONLY, recursive=False)


KERNELS = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi", "mtrr", "asound", "driver")
"""What of /proc belongs to the kernel and not to processes, and may be there to be written to."""


def lock_proc(proc: str) -> None:
    """Make the kernel's own part of a proc file system read-only: user 0 may write to it even without capabilities."""
    for name in KERNELS:
        if os.path.exists(f"{proc}/{name}"):
            syscalls.bind(f"{proc}/{name}", f"{proc}/{name}", READ_ONLY)


def enter(root: str) -> None:
    """Make `root` the root directory for good; of the former one nothing stays."""
    os.chdir(root)
    syscalls.pivot_root(".", ".")  # the old root comes to lie over the new one (pivot_root(2)), and is taken off
    syscalls.unmount(".")
    os.chdir("/")
    syscalls.set_mount_attributes("/", syscalls.MOUNT_ATTR_RDONLY, recursive=False)
