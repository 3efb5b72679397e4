"""What a run could read: digests of the files below its mounts that were there before it and stayed as they were.

Called by `writing.py` after the run, in its thread. A file whose inode has not changed since the run began is what the
run found, so nothing has to be read before it. The directories may hold anything, made by hostile code: no link is
followed, no pipe or device opened, and number, bytes and time are bounded.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..models import Mount
from .record import InputFile, Inputs

MAX_FILES = 200
MAX_VISITED = 2_000
MAX_DEPTH = 16
MAX_BYTES = 256 * 1024 * 1024
MAX_SECONDS = 2.0
REMEMBERED = 4096
CHUNK_BYTES = 1024 * 1024

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_OPEN_FILE = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_OPEN_DIRECTORY = _OPEN_FILE | getattr(os, "O_DIRECTORY", 0)

Identity = tuple[int, int, int, int]


@dataclass(slots=True)
class _Found:
    """A file that may have been read: its mount's directory, its path below it, and what it looked like."""

    root: str
    path: str
    relative: str
    status: os.stat_result


@dataclass(slots=True)
class InputDigests:
    """Makes the digests; remembers those of files that have not changed, for the next run."""

    _known: OrderedDict[Identity, str] = field(default_factory=OrderedDict)

    def of(self, mounts: Sequence[Mount], before_ns: int, mentioned: str) -> Inputs:
        """Return the digests of the files below the mounts whose inode has not changed since `before_ns`.

        Args:
            mounts: what the run saw.
            before_ns: when it began, by the clock of file systems.
            mentioned: the code and its arguments; files that are named there come first if there are too many.
        """
        if os.scandir not in os.supports_fd:  # Windows: nothing safe to do it with
            return Inputs(complete=False)
        deadline = time.monotonic() + MAX_SECONDS
        search = _Search(before_ns, deadline)
        for mount in mounts:
            search.below(os.fspath(mount.source), mount.target)
        names = {found.relative: found.relative.rpartition("/")[2] in mentioned for found in search.found}
        ordered = sorted(search.found, key=lambda found: (not names[found.relative], found.path))
        complete, files, size = search.complete and len(ordered) <= MAX_FILES, [], 0
        for found in ordered[:MAX_FILES]:
            size += found.status.st_size
            digest = self._digest(found, deadline) if size <= MAX_BYTES else ""
            if digest:
                files.append(InputFile(path=found.path, size_bytes=found.status.st_size, sha256=digest))
            else:
                complete = False
        return Inputs(files=tuple(sorted(files, key=lambda file: file.path)), complete=complete)

    def _digest(self, found: _Found, deadline: float) -> str:
        """Return the digest of a file; nothing if it changed meanwhile or takes too long."""
        identity = _identity(found.status)
        known = self._known.get(identity)
        if known is None:
            known = _read_digest(found, deadline)
            if not known:
                return ""
            self._known[identity] = known
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(identity)
        return known


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def _read_digest(found: _Found, deadline: float) -> str:
    digest = hashlib.sha256()
    try:
        with open(_open_beneath(found.root, found.relative.split("/")), "rb") as file:
            if _identity(os.fstat(file.fileno())) != _identity(found.status):
                return ""
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                if time.monotonic() > deadline:
                    return ""
            if _identity(os.fstat(file.fileno())) != _identity(found.status):
                return ""
    except OSError:
        return ""
    return digest.hexdigest()


def _open_beneath(root: str, parts: Sequence[str]) -> int:
    """Open a file below a directory, one name at a time, none of which may be a link."""
    descriptor = os.open(root, _OPEN_DIRECTORY & ~_NO_FOLLOW)
    try:
        for name in parts[:-1]:
            child = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = child
        return os.open(parts[-1], _OPEN_FILE, dir_fd=descriptor)
    finally:
        os.close(descriptor)


class _Search:
    def __init__(self, before_ns: int, deadline: float) -> None:
        self.found: list[_Found] = []
        self.complete = True
        self._before_ns = before_ns
        self._deadline = deadline
        self._visited = 0
        self._root = self._target = ""

    def below(self, source: str, target: str) -> None:
        """Search a mount by descriptors, so that no directory can turn into a link on the way."""
        try:
            root = os.open(source, _OPEN_DIRECTORY & ~_NO_FOLLOW)
        except OSError:
            self.complete = False
            return
        self._root, self._target = source, target.rstrip("/")
        self._directory(root, "", 0)

    def _directory(self, descriptor: int, below: str, depth: int) -> None:
        """Search a directory, whose descriptor is closed then."""
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    self._visited += 1
                    if self._visited > MAX_VISITED or time.monotonic() > self._deadline:
                        self.complete = False
                        return
                    self._entry(descriptor, entry, f"{below}/{entry.name}" if below else entry.name, depth)
        except OSError:
            self.complete = False
        finally:
            os.close(descriptor)

    def _entry(self, parent: int, entry: os.DirEntry[str], relative: str, depth: int) -> None:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            if status.st_ctime_ns < self._before_ns:
                self.found.append(_Found(self._root, f"{self._target}/{relative}", relative, status))
        elif stat.S_ISDIR(status.st_mode):
            if depth >= MAX_DEPTH:
                self.complete = False
                return
            try:
                child = os.open(entry.name, _OPEN_DIRECTORY, dir_fd=parent)
            except OSError:
                self.complete = False
            else:
                self._directory(child, relative, depth + 1)
