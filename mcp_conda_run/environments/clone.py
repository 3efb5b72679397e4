"""Makes a second prefix out of an environment, in a fraction of a second.

Called for new environments that begin as another one (`build.py`), and by tiers whose ephemeral prefixes are real
directories. Files that never change in place are shared (a reflink where the file system has them, else a hard link),
what holds the environment's path is written anew with the clone's, and small files that programs like to edit are
copied, unless the clone is to be an environment, in which no program ever writes. Never changes the content of the
source; what a hard link shares loses its write permission, in both trees, because it is one file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostError
from ..portability import WINDOWS
from .trash import delete_tree

CODE_SUFFIXES = frozenset(
    {
        *(".py", ".pyc", ".pyi", ".pyx", ".pxd", ".so", ".a", ".o", ".dylib", ".dll", ".pyd", ".exe", ".lib"),
        *(".h", ".hh", ".hpp", ".hxx", ".inc", ".cmake", ".pc", ".f90", ".mod", ".js", ".css", ".svg", ".png"),
    }
)
"""Kinds of files that tools replace but do not edit in place; always shared."""

MAX_COPIED_BYTES = 64 * 1024
"""Other files up to this size are copied: configuration, metadata, small data bases."""

FICLONE = 0x40049409  # ioctl_ficlone(2)
NO_REFLINK = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES}
)
NO_LINK_ON_WINDOWS = frozenset({1, 50, 1142})
"""File systems without hard links say that they do not know the function or the request; NTFS, that 1023 are enough."""
MACH_O = frozenset({b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"})

Share = Callable[[str, str], None]
"""Makes the file at the second path have the content of the file at the first, without copying it."""


@dataclass(frozen=True, slots=True)
class Cloned:
    """What a clone consists of, in numbers of files."""

    shared: int
    copied: int
    rewritten: int
    reflinks: bool


def clone_prefix(source: Path, destination: Path, *, for_environment: bool = False, same_path: bool = False) -> Cloned:
    """Make `destination`, which must not exist, a working copy of the prefix `source`.

    The two paths must be equally long in bytes: then the path can be replaced inside of binaries as well.

    Args:
        source: an environment.
        destination: where the clone goes.
        for_environment: whether only installers will write to it, which replace files and never edit them: then nothing
            has to be copied, and as each new file costs a file system more than a name, that takes half the time.
        same_path: whether it will only be seen at the path of the source: then no path is replaced.

    Raises:
        OSError: the file system refuses; nothing of the destination is left then.
        HostError: the paths are not equally long, or the environment's metadata cannot be read.
    """
    old, new = os.fsencode(os.path.abspath(source)), os.fsencode(os.path.abspath(destination))
    if len(old) != len(new) and not same_path:
        raise HostError(f"A clone of {source} cannot be made at {destination}: the paths differ in length.")
    clone = _Clone(
        os.fsdecode(old), os.fsdecode(new), _files_with_prefix(source), 0 if for_environment else MAX_COPIED_BYTES
    )
    if same_path:
        clone.seen_at = clone.old
    os.mkdir(clone.new)
    try:
        clone.fill()
    except BaseException:
        with contextlib.suppress(OSError):
            delete_tree(destination)
        raise
    return Cloned(clone.shared, clone.copied, clone.rewritten, clone.share is not hard_link)


def _files_with_prefix(prefix: Path) -> frozenset[str]:
    """Return the files that, by conda's records, hold the path of the prefix."""
    found: set[str] = set()
    for record in sorted(prefix.glob("conda-meta/*.json")):
        try:
            for row in json.loads(record.read_bytes())["paths_data"]["paths"]:
                if row.get("prefix_placeholder") or row.get("path_type") == "unix_python_entry_point":
                    found.add(row["_path"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise HostError(
                f"The record {record} of an environment is damaged.",
                hint="Remove this environment with `mcp-conda-run clean`; it is made again when it is needed.",
            ) from None
    return frozenset(found)


class _Clone:
    """One clone while it is made."""

    def __init__(self, old: str, new: str, with_prefix: frozenset[str], copied_bytes: int) -> None:
        self.old, self.new = old, new
        self.seen_at = new
        self.with_prefix = with_prefix
        self.copied_bytes = copied_bytes
        self.share: Share = reflink
        self.shared = self.copied = self.rewritten = 0

    def fill(self) -> None:
        """Go through the source, directory by directory."""
        waiting = [""]
        while waiting:
            relative = waiting.pop()
            with os.scandir(f"{self.old}/{relative}") as entries:
                for entry in entries:
                    name = relative + entry.name
                    if entry.is_symlink():
                        os.symlink(os.readlink(entry.path).replace(self.old, self.seen_at), f"{self.new}/{name}")
                    elif entry.is_dir():
                        os.mkdir(f"{self.new}/{name}", 0o755)
                        waiting.append(f"{name}/")
                    else:
                        self._file(entry, relative, name)

    def _file(self, entry: os.DirEntry[str], directory: str, name: str) -> None:
        target = f"{self.new}/{name}"
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return  # a socket or a pipe that somebody left is no part of an environment
        # A script that pip or uv wrote is in no record of conda's, but nothing else links to it.
        written_by_pip = directory in {"bin/", "Scripts/"} and status.st_nlink <= 1  # Windows says 0 here
        if name in self.with_prefix or written_by_pip or directory == "conda-meta/":
            self._rewrite(entry.path, target, status)
            self.rewritten += 1
        elif os.path.splitext(entry.name)[1] in CODE_SUFFIXES or status.st_size > MAX_COPIED_BYTES:
            self._share(entry.path, target, status)
            self.shared += 1
        elif status.st_size > self.copied_bytes:
            hard_link(entry.path, target)  # its modes stay: runs may write to what they see of it
            self.shared += 1
        else:
            shutil.copyfile(entry.path, target)
            _like(target, status)
            self.copied += 1

    def _rewrite(self, path: str, target: str, status: os.stat_result) -> None:
        with open(path, "rb") as file:
            data = file.read()
        changed = data
        for old, new in zip(spellings(self.old), spellings(self.seen_at), strict=True):
            changed = changed.replace(old, new)
        with open(target, "xb") as file:
            file.write(changed)
        _like(target, status)
        if sys.platform == "darwin" and changed != data and data[:4] in MACH_O:
            # The kernel kills binaries whose signature does not fit their content (codesign(1)).
            subprocess.run(["/usr/bin/codesign", "--sign", "-", "--force", target], capture_output=True, check=True)

    def _share(self, path: str, target: str, status: os.stat_result) -> None:
        try:
            self.share(path, target)
        except OSError as error:
            if self.share is hard_link or error.errno not in NO_REFLINK:
                raise
            self.share = hard_link  # this file system has no reflinks: do not ask again
            self.share(path, target)
        if self.share is reflink:
            _like(target, status)
        elif status.st_mode & 0o222:
            # Nobody may write to a file that several prefixes share; root still can, which tiers have to mind.
            os.chmod(target, stat.S_IMODE(status.st_mode) & ~0o222)


def spellings(path: str) -> list[bytes]:
    """Return how files write the path of their prefix: as it is; on Windows also with slashes, or as texts in C do."""
    if not WINDOWS:
        return [os.fsencode(path)]
    return [os.fsencode(each) for each in (path, path.replace("\\", "/"), path.replace("\\", "\\\\"))]


def _like(target: str, status: os.stat_result) -> None:
    """Give a copy the modes and the times of its original: Python's bytecode is checked against the times."""
    os.chmod(target, stat.S_IMODE(status.st_mode) | stat.S_IWUSR)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def hard_link(path: str, target: str) -> None:
    """Make `target` another name of the file `path`; copy it where that cannot be.

    It has too many names already, is on another file system, or belongs to somebody else (proc_sys_fs(5), on
    protected_hardlinks).

    Raises:
        OSError: the file system refuses.
    """
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError as error:
        refused = error.errno in {errno.EMLINK, errno.EXDEV, errno.EPERM}
        if not refused and getattr(error, "winerror", 0) not in NO_LINK_ON_WINDOWS:
            raise
        shutil.copy2(path, target)


def reflink(path: str, target: str) -> None:
    """Make `target` a copy of `path` that shares its blocks until one of them is written to.

    Raises:
        OSError: the file system refuses; with one of `NO_REFLINK` if it has no such thing. `target` is absent then.
    """
    if sys.platform == "linux":
        _ficlone(path, target)
    elif sys.platform == "darwin":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.clonefile(os.fsencode(path), os.fsencode(target), 0):  # clonefile(2)
            raise OSError(ctypes.get_errno(), "clonefile", target)
    else:
        raise OSError(errno.EOPNOTSUPP, "no reflinks here", target)


def _ficlone(path: str, target: str) -> None:
    import fcntl  # noqa: PLC0415 - not there on Windows

    with open(path, "rb") as source, open(target, "xb") as sink:
        try:
            fcntl.ioctl(sink.fileno(), FICLONE, source.fileno())
        except OSError:
            os.unlink(target)
            raise
