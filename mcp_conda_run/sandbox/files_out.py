"""What a run left in the mounted directories: a bounded listing, and a way to read from it.

Called by the runtime when a run is over, and by the server when a client asks for such a file. Everything here was
made by hostile code: nothing follows a link, opens a pipe or a device, or goes deeper or on longer than the bounds
say.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RequestError
from ..models import ChangedFile, Mount
from ..portability import WINDOWS, changed_ns, is_reparse_point

MAX_FILES = 200
MAX_VISITED = 20_000
MAX_DEPTH = 32
MAX_SECONDS = 0.2

_CLOCK_REALTIME_COARSE = 5
_TICK_OF_WINDOWS_NS = 20_000_000
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_OPEN_FILE = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_NEVER = frozenset("\0\\:" if WINDOWS else "\0")
"""What no name of a file holds; on Windows it would lead elsewhere."""
_OPEN_DIRECTORY = _OPEN_FILE | getattr(os, "O_DIRECTORY", 0)


@dataclass(frozen=True, slots=True)
class LeftFiles:
    """What was found.

    Attributes:
        files: in the order of their paths.
        complete: whether that is all; else a bound was met.
    """

    files: tuple[ChangedFile, ...]
    complete: bool


def now_ns() -> int:
    """Return the time by the clock that file systems use for their files, in nanoseconds since the epoch.

    On Linux that one ticks every few milliseconds (clock_gettime(2)): by the exact one, a file that is made right
    after could seem older.
    """
    try:
        return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    except (AttributeError, OSError):
        return time.time_ns() - (_TICK_OF_WINDOWS_NS if WINDOWS else 0)


def left_files(mounts: Sequence[Mount], since_ns: int) -> LeftFiles:
    """Return the regular files below the writable mounts whose content or name changed after `since_ns`.

    By the time of the last change of the inode, which programs cannot set. Links and special files are left out.
    """
    search = _Search(since_ns) if os.scandir in os.supports_fd else _SearchByName(since_ns)
    for mount in mounts:
        if not mount.read_only:
            search.below(os.fspath(mount.source), mount.target)
    found = sorted(search.found, key=lambda file: file.path)
    return LeftFiles(tuple(found[:MAX_FILES]), search.complete and len(found) <= MAX_FILES)


class _Search:
    def __init__(self, since_ns: int) -> None:
        self.found: list[ChangedFile] = []
        self.complete = True
        self._since_ns = since_ns
        self._visited = 0
        self._deadline = time.monotonic() + MAX_SECONDS

    def below(self, source: str, target: str) -> None:
        """Search a mount; by descriptors, so that no directory can turn into a link on the way."""
        try:
            root = os.open(source, _OPEN_DIRECTORY & ~_NO_FOLLOW)
        except OSError:
            return
        self._directory(root, target, 0)

    def _directory(self, descriptor: int, path: str, depth: int) -> None:
        """Search a directory, whose descriptor is closed then."""
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if self._exhausted():
                        return
                    self._entry(descriptor, entry, f"{path}/{entry.name}", depth)
        except OSError:
            self.complete = False
        finally:
            os.close(descriptor)

    def _exhausted(self) -> bool:
        self._visited += 1
        over = self._visited > MAX_VISITED or time.monotonic() > self._deadline or len(self.found) > 2 * MAX_FILES
        if over:
            self.complete = False
        return over

    def _entry(self, parent: int, entry: os.DirEntry[str], path: str, depth: int) -> None:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            if changed_ns(status) >= self._since_ns:
                self.found.append(ChangedFile(path, status.st_size))
        elif stat.S_ISDIR(status.st_mode) and not is_reparse_point(status):
            if depth >= MAX_DEPTH:
                self.complete = False
                return
            self._descend(parent, entry, path, depth + 1)

    def _descend(self, parent: int, entry: os.DirEntry[str], path: str, depth: int) -> None:
        try:
            child = os.open(entry.name, _OPEN_DIRECTORY, dir_fd=parent)
        except OSError:
            self.complete = False
        else:
            self._directory(child, path, depth)


class _SearchByName(_Search):
    """The same where directories cannot be opened (Windows).

    Between the look at a directory and its listing somebody could put a junction in its place. Then names and lengths
    of files elsewhere would be listed; runs there are walled off from nothing, so that they learn nothing by it.
    """

    def below(self, source: str, target: str) -> None:
        """Search a mount."""
        self._named(source, target, 0)

    def _named(self, directory: str, path: str, depth: int) -> None:
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if self._exhausted():
                        return
                    self._entry(-1, entry, f"{path}/{entry.name}", depth)
        except OSError:
            self.complete = False

    def _descend(self, parent: int, entry: os.DirEntry[str], path: str, depth: int) -> None:  # noqa: ARG002
        self._named(entry.path, path, depth)


def read_left_file(mounts: Sequence[Mount], path: str, max_bytes: int) -> bytes:
    """Return the content of a regular file below a mount, given as the run sees it.

    Raises:
        RequestError: it is not there, not below a mount, a link, not a regular file, or longer than `max_bytes`.
    """
    above = [mount for mount in mounts if path.startswith(f"{mount.target.rstrip('/')}/")]
    mount = max(above, key=lambda mount: len(mount.target), default=None)
    parts = path[len(mount.target) :].strip("/").split("/") if mount else []
    if mount is None or not parts or any(part in {"", ".", ".."} or _NEVER & set(part) for part in parts):
        raise _not_readable(path, "it is not below a mounted directory")
    try:
        descriptor = open_beneath(os.fspath(mount.source), parts)
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
        raise _not_readable(path, reason) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_readable(path, "it is not a regular file")
    with open(descriptor, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _not_readable(path, f"it is longer than {max_bytes} bytes")
    return data


def open_beneath(root: str, parts: list[str]) -> int:
    """Open a file below a directory, one name at a time, none of which may be a link.

    A run that goes on meanwhile can replace any of them: what was looked at before says nothing.

    Raises:
        OSError: one of them is not there, is a link, or is no directory.
    """
    if os.open not in os.supports_dir_fd:  # Windows
        return _open_named(root, parts)
    descriptor = os.open(root, _OPEN_DIRECTORY & ~_NO_FOLLOW)
    try:
        for name in parts[:-1]:
            child = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = child
        return os.open(parts[-1], _OPEN_FILE, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _open_named(root: str, parts: list[str]) -> int:
    path = root
    for name in parts:
        path = os.path.join(path, name)
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode) or is_reparse_point(status):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return os.open(path, _OPEN_FILE | getattr(os, "O_BINARY", 0))


def _not_readable(path: str, reason: str) -> RequestError:
    return RequestError(f"The file {path} cannot be read: {reason}.", hint="Ask for a file that a run's result lists.")
