"""As whom a run's process lives, outside of its namespaces, and how it comes to own its files all the same.

Called by `confinement.py`. A user's runs are that user, in a user namespace. A root server's runs are somebody else,
if the kernel can show them root's files as their own (ID-mapped mounts, mount_setattr(2)): the number of processes is
not bounded for user 0, and a hole in the walls would be a hole to root. Where it cannot, they stay user 0 without
capabilities, and the isolation says so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

from ..guest import syscalls
from .order import SANDBOX_ID, Walls

LAST_ID = 4_294_967_294


class Owner:
    """Whose files the run's are: the keeper's own, or `SANDBOX_ID`'s through the maps of user namespaces."""

    def __init__(self, identity: int | None = None, maps: Mapping[str, int] | None = None) -> None:
        self.identity = identity
        self._maps = maps or {}

    def give(self, path: str) -> None:
        """Make the run the owner of what was just made for it."""
        if self.identity is not None:
            os.chown(path, self.identity, self.identity)

    def copy_of_mounts(self, source: str, attributes: int) -> int:
        """Return a descriptor of the mounts at a directory of the host in which its owner's files are the run's own."""
        return syscalls.copy_of_mounts(source, attributes, self._maps.get(source))


class Identities:
    """Who runs can be on this machine; what was found out once is known to all keepers that are forked later."""

    def __init__(self) -> None:
        self._maps: dict[tuple[int, int], int] = {}  # descriptors of user namespaces, by the owner on disk
        self._owners: dict[tuple[str, ...], Owner] = {}

    @property
    def known(self) -> int:
        """How many owners of files there are whose place a run can take; this number only grows."""
        return len(self._maps)

    def learn(self, walls: Walls) -> Owner:
        """Return whose files a run's are: `SANDBOX_ID`'s if this process is root and the kernel can do it."""
        if os.geteuid() != 0 or not walls.drop_identity:
            return Owner()
        directories = (walls.prefix, *(bind.source for bind in walls.binds))
        if directories not in self._owners:
            self._owners[directories] = self._find(directories)
        return self._owners[directories]

    def _find(self, directories: tuple[str, ...]) -> Owner:
        try:
            maps = {directory: self._map(directory) for directory in directories}
            for directory, user_namespace in maps.items():
                os.close(syscalls.copy_of_mounts(directory, 0, user_namespace))
        except OSError:
            return Owner()
        return Owner(SANDBOX_ID, maps)

    def _map(self, directory: str) -> int:
        status = os.stat(directory)
        owner = (status.st_uid, status.st_gid)
        if owner not in self._maps:
            self._maps[owner] = _user_namespace(*owner)
        return self._maps[owner]


def _user_namespace(uid: int, gid: int) -> int:
    """Return a user namespace in which the given ids and `SANDBOX_ID` have changed places.

    Raises:
        OSError: the kernel refuses.
    """
    is_made, made = os.pipe()
    may_end, end = os.pipe()
    holder = os.fork()
    if holder == 0:
        _hold(made, may_end)
    os.close(made)
    try:
        if not os.read(is_made, 1):
            raise PermissionError(1, "no user namespaces")
        syscalls.write(f"/proc/{holder}/uid_map", _swapped(uid))
        syscalls.write(f"/proc/{holder}/gid_map", _swapped(gid))
        return os.open(f"/proc/{holder}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (is_made, may_end, end):
            os.close(descriptor)
        os.kill(holder, signal.SIGKILL)
        with suppress(ChildProcessError):  # the spawner leaves reaping to the kernel
            os.waitpid(holder, 0)


def _hold(made: int, may_end: int) -> NoReturn:
    """Make the namespace and live until killed."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(made, b"1")
        os.read(may_end, 1)
    finally:
        os._exit(0)


def _swapped(owner: int) -> str:
    """Return an id map (user_namespaces(7)) in which `owner` is `SANDBOX_ID`, that is `owner`, and all others stay."""
    low, high = sorted((owner, SANDBOX_ID))
    rows = [(low, high, 1), (high, low, 1)] if low != high else [(low, low, 1)]
    for first, last in ((0, low - 1), (low + 1, high - 1), (high + 1, LAST_ID)):
        if first <= last:
            rows.append((first, first, last - first + 1))
    return "\n".join(f"{inner} {outer} {count}" for inner, outer, count in rows)
