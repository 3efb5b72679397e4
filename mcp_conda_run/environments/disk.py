"""Whether the file system under the store can keep what the store relies on: locks that all processes see.

Asked by the store when it is opened, and by `doctor`. A dead process is told from a living one by its lock, so a file
system without locks is refused, and so is a network file system that is mounted with locks for this machine alone.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostError

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs"})
LOCAL_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=flock", "nobrl", "localflock"})
"""Mount options of NFS, SMB and Lustre with which another machine's locks are not seen."""
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
HINT = "Set MCP_CONDA_RUN_CACHE_DIR to a directory on a local disk."


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Where a directory lies: the type, such as `ext4`, and the options that it is mounted with."""

    type: str = ""
    options: frozenset[str] = frozenset()

    @property
    def is_network(self) -> bool:
        """Whether other machines may write to it."""
        return self.type in NETWORK or self.type.startswith("fuse")


def file_system(path: Path, mounts: Path = MOUNTS) -> FileSystem:
    """Return the file system of an existing directory; an empty one where the platform does not say."""
    best, found = "", FileSystem()
    real = os.path.realpath(path)
    with suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            left, _, right = line.partition(" - ")
            fields, types = left.split(), right.split()
            if len(fields) > 5 and len(types) > 2:  # noqa: PLR2004 - proc_pid_mountinfo(5)
                point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape", "replace")
                inside = real == point or real.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):  # the last of several at one place is on top
                    options = frozenset(f"{fields[5]},{types[2]}".split(","))
                    best, found = point, FileSystem(types[0], options)
    return found


def check_locks(directory: Path, mounts: Path = MOUNTS) -> None:
    """Make sure that locks work in a directory, for all who may use it.

    Raises:
        HostError: they do not (`no-locks`).
        OSError: the directory cannot be written to.
    """
    where = file_system(directory, mounts)
    alone = where.options & LOCAL_LOCKS if where.is_network else frozenset()
    if alone:
        raise HostError(
            f"{directory} is on a network file system ({where.type}) whose locks hold on this machine only "
            f"(mounted with {', '.join(sorted(alone))}), so that processes on others could not be told from dead ones.",
            hint=f"{HINT[:-1]}, or mount it with locks.",
            code="no-locks",
        )
    if sys.platform != "win32":
        _try_to_lock(directory, where)


def _try_to_lock(directory: Path, where: FileSystem) -> None:
    import fcntl  # noqa: PLC0415 - not there on Windows

    probe = directory / f".lock-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise HostError(
                f"Files cannot be locked in {directory} ({where.type or 'unknown file system'}): {error.strerror}.",
                hint=HINT,
                code="no-locks",
            ) from error
        finally:
            os.close(descriptor)
    finally:
        probe.unlink(missing_ok=True)
