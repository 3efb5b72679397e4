"""Control groups: the kernel's own bounds of a run's memory and number of processes, where this process may make any.

Used by the spawner and by the keepers of zygotes, each in its own process, and there alone: what they find out holds
for all the runs that they start. Groups are made below the group in which the server is, so that the bounds of that
hold as well; each is removed with its run, and what dead keepers left is swept by the next one. Both versions of the
kernel's interface are known (cgroups(7)). Standard library only. Never moves a process that is not the server's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from . import scopes
from .order import Bounds
from .processes import descendants

PREFIX = "mcp-conda-run-"
SERVER = "mcp-conda-run-server"
"""Where the server itself goes in version 2: a group with processes of its own can have no groups with bounds."""
YOUNG_S = 10.0
"""A group that is younger may belong to a keeper that has not locked it yet."""
KILLS = 100
SLACK = 4 << 20
"""What is asked for at once and refused is not in the count of version 1."""
MEMORY, PROCESSES = "memory", "pids"
CONTROLLERS = (MEMORY, PROCESSES)

FILES: Mapping[tuple[str, int], tuple[str, ...]] = {
    (MEMORY, 1): ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    (MEMORY, 2): ("memory.max",),
    (PROCESSES, 1): ("pids.max",),
    (PROCESSES, 2): ("pids.max",),
}
"""Where a bound is written to: the kernel's documentation, admin-guide/cgroup-v1/memory, pids, and cgroup-v2."""
OPTIONAL = ("memory.memsw.limit_in_bytes",)  # there where the kernel counts swapped memory
WITH_IT: Mapping[tuple[str, int], tuple[tuple[str, str], ...]] = {
    (MEMORY, 2): (("memory.swap.max", "0"), ("memory.oom.group", "1"))
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups that hold one kind of bound can be made.

    Attributes:
        controller: `memory` or `pids`.
        version: of the kernel's interface, 1 or 2.
        parent: the group below which they are made.
    """

    controller: str
    version: int
    parent: str


class Group:
    """The group of one run: a directory in each hierarchy. Exists from the first moment on, and until `remove`.

    Args:
        places: where it is to be made.
        bounds: of the run.
        spare_processes: how many processes of ours are in it too.

    Raises:
        OSError: it cannot be made, or the bounds cannot be set.
    """

    def __init__(self, places: Iterable[Place], bounds: Bounds, spare_processes: int = 0) -> None:
        wanted = {MEMORY: bounds.memory_bytes, PROCESSES: bounds.processes + spare_processes if bounds.processes else 0}
        self._places = {place.controller: place for place in places if wanted[place.controller]}
        name = PREFIX + secrets.token_hex(8)
        self._directories = {place.parent: f"{place.parent}/{name}" for place in self._places.values()}
        self._locks: list[int] = []
        try:
            for directory in self._directories.values():
                os.mkdir(directory, 0o755)
                self._locks.append(_lock(directory))
            for place in self._places.values():
                self._bound(place, wanted[place.controller])
        except OSError:
            self.remove()
            raise

    def _bound(self, place: Place, number: int) -> None:
        directory = self._directories[place.parent]
        for name in FILES[place.controller, place.version]:
            if name not in OPTIONAL or os.path.exists(f"{directory}/{name}"):
                _write(f"{directory}/{name}", str(number))
        for name, text in WITH_IT.get((place.controller, place.version), ()):
            with suppress(FileNotFoundError):  # older kernels have not all of it
                _write(f"{directory}/{name}", text)

    @property
    def holds(self) -> dict[str, str]:
        """Return, for each limit that it holds, by what; the names are those of `Limits`."""
        names = {MEMORY: "memory_bytes", PROCESSES: "processes"}
        return {names[kind]: f"cgroup v{place.version}" for kind, place in self._places.items()}

    def add_all(self, pids: Iterable[int]) -> None:
        """Put those of the processes into it that are not yet, and not gone.

        Raises:
            OSError: the kernel refuses.
        """
        for directory in tuple(self._directories.values()):  # somebody may be removing it meanwhile
            for pid in sorted(set(pids) - _processes(directory)):
                if pid <= 0:  # no process, or one that this process cannot see
                    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
                with suppress(ProcessLookupError):
                    _write(f"{directory}/cgroup.procs", str(pid))

    def memory_was_exceeded(self) -> bool:
        """Say whether the kernel has killed a process of the run because of this bound, and not for want of memory."""
        place = self._places.get(MEMORY)
        if place is None:
            return False
        directory = self._directories[place.parent]
        if place.version == 1:
            bound = _number(f"{directory}/memory.limit_in_bytes")
            return self.peak_bytes() > bound - SLACK and _row(f"{directory}/memory.oom_control", "oom_kill") > 0
        events = f"{directory}/memory.events"
        return bool(_row(events, "oom_kill") and _row(events, "oom"))

    def peak_bytes(self) -> int:
        """Return the most memory that the run has used; 0 if that is not known."""
        place = self._places.get(MEMORY)
        if place is None:
            return 0
        name = "memory.max_usage_in_bytes" if place.version == 1 else "memory.peak"
        return _number(f"{self._directories[place.parent]}/{name}")

    def kill(self) -> None:
        """Kill every process in it, whoever its parent is."""
        for directory in self._directories.values():
            _kill(directory)

    def remove(self) -> bool:
        """Remove it; return whether it is gone: the kernel keeps it while a process of it is on its way out."""
        for parent, directory in list(self._directories.items()):
            if _remove(directory):
                del self._directories[parent]
        if not self._directories:
            for lock in self._locks:
                os.close(lock)
            self._locks.clear()
        return not self._directories


class Groups:
    """What groups this process can make; found out at the first need."""

    def __init__(self) -> None:
        self._places: list[Place] | None = None
        self._made: set[Group] = set()
        self._leaving: list[Group] = []

    def learn(self) -> list[Place]:
        """Return where groups can be made, for each kind of bound that can be had; tried out once."""
        if self._places is None:
            self._places = _usable()
            ours = [os.getpid(), *descendants(os.getpid())]
            if len(self._places) < len(CONTROLLERS) and scopes.own_scope(ours):
                self._places = _usable()
            for parent in {place.parent for place in self._places}:
                for place in (parent, *scopes.others(parent)):
                    sweep(place)
        return self._places

    def make(self, bounds: Bounds, spare_processes: int = 0) -> Group | None:
        """Return a new group with a run's bounds; None where there is nothing to bound, or it cannot be had now."""
        self._leaving = [group for group in self._leaving if not group.remove()]
        if not bounds.by_kernel or not (bounds.memory_bytes or bounds.processes) or not self.learn():
            return None
        try:
            group = Group(self.learn(), bounds, spare_processes)
        except OSError:
            return None  # the watchdog holds them then, and the result says so
        self._made.add(group)
        return group

    def remove(self, group: Group | None) -> None:
        """Remove the group of a run that is over, without waiting; if the kernel still keeps it, later."""
        if group is not None and group in self._made:
            self._made.discard(group)
            if not group.remove():
                self._leaving.append(group)

    def close(self) -> None:
        """Remove all groups; every process in them is dead, or is now killed."""
        for group in (*self._made, *self._leaving):
            group.kill()
            remove_soon(group)
        self._made.clear()
        self._leaving.clear()


# --- finding ----------------------------------------------------------------------------------------------------------


def _usable() -> list[Place]:
    return [place for place in _candidates() if _works(place)]


def _candidates() -> list[Place]:
    """Return where groups might be made: below the group of this process, in each hierarchy."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.rstrip("\n").split(":", 2) for line in file]
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return []
    found: dict[str, Place] = {}
    for _, controllers, path in rows:
        for controller in set(controllers.split(",")) & set(CONTROLLERS):
            if parent := directory_of(mounts, "cgroup", path, controller):
                found[controller] = Place(controller, 1, parent)
    unified = next((path for _, controllers, path in rows if not controllers), "")
    parent = directory_of(mounts, "cgroup2", unified) if unified else ""
    if parent:
        parent = _for_groups(parent)
        for controller in _words(f"{parent}/cgroup.subtree_control") & set(CONTROLLERS):
            found.setdefault(controller, Place(controller, 2, parent))
    return list(found.values())


def directory_of(mounts: Iterable[list[str]], kind: str, path: str, controller: str = "") -> str:
    """Return the directory of a group; empty if it is not in sight.

    Args:
        mounts: the rows of /proc/self/mountinfo (proc_pid_mountinfo(5)), split.
        kind: `cgroup` or `cgroup2`.
        path: of the group in its hierarchy, as /proc/self/cgroup has it.
        controller: of a hierarchy of version 1.
    """
    for row in mounts:
        separator = row.index("-")
        if row[separator + 1] != kind or (controller and controller not in row[separator + 3].split(",")):
            continue
        root, point = row[3].rstrip("/"), row[4]
        if path.rstrip("/") == root or path.startswith(f"{root}/"):
            directory = (point + path[len(root) :]).rstrip("/")
            if os.path.isdir(directory):
                return directory
    return ""


def _for_groups(own: str) -> str:
    """Return the group below which groups with bounds can be made in version 2, with the controllers switched on.

    A group that holds processes cannot give bounds to groups below it, unless it is the root of all. So the server,
    and what it started, moves one step down, if nobody else is there.
    """
    if os.path.basename(own) == SERVER:
        own = os.path.dirname(own)
    wanted = _words(f"{own}/cgroup.controllers") & set(CONTROLLERS) - _words(f"{own}/cgroup.subtree_control")
    for controller in sorted(wanted):
        try:
            _write(f"{own}/cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            if error.errno != errno.EBUSY or not _move_down(own):
                continue
            with suppress(OSError):
                _write(f"{own}/cgroup.subtree_control", f"+{controller}")
    return own


def _move_down(own: str) -> bool:
    """Move all processes of a group to one below it, if all are the server's; return whether they are there."""
    server = os.getppid()
    ours = {server, os.getpid(), *descendants(server)}
    if not _processes(own) <= ours:
        return False
    try:
        os.makedirs(f"{own}/{SERVER}", exist_ok=True)
        while left := _processes(own):
            for pid in left:
                with suppress(ProcessLookupError):
                    _write(f"{own}/{SERVER}/cgroup.procs", str(pid))
    except OSError:
        return False
    return True


def _works(place: Place) -> bool:
    """Try all that a run needs: make a group, bound it, have a process in it, remove it."""
    bounds = Bounds(memory_bytes=1 << 30, processes=1 << 10)
    try:
        group = Group([place], bounds)
    except OSError:
        return False
    began, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(begin)
        os.read(began, 1)
        os._exit(0)
    os.close(began)
    try:
        group.add_all([child])
        return _processes(group._directories[place.parent]) == {child}
    except OSError:
        return False
    finally:
        os.close(begin)
        with suppress(ChildProcessError):  # the spawner leaves reaping to the kernel
            os.waitpid(child, 0)
        remove_soon(group)


def remove_soon(group: Group) -> bool:
    """Remove a group whose processes are dead or dying; return whether it is gone after a while."""
    for _ in range(KILLS):
        if group.remove():
            return True
        time.sleep(0.001)  # the kernel is still taking them down
    return False


# --- sweeping ---------------------------------------------------------------------------------------------------------


def sweep(parent: str) -> None:
    """Remove the groups below `parent` whose keepers are dead, with whatever is in them."""
    with suppress(OSError):
        for name in os.listdir(parent):
            if name.startswith(PREFIX) and name != SERVER:
                _sweep_one(f"{parent}/{name}")


def _sweep_one(directory: str) -> None:
    try:
        if time.time() - os.stat(directory).st_ctime < YOUNG_S:
            return
        lock = _lock(directory)
    except OSError:
        return  # it has an owner, or is gone
    try:
        for _ in range(KILLS):
            _kill(directory)
            if _remove(directory):
                return
            time.sleep(0.001)  # the kernel is still taking them down
    finally:
        os.close(lock)


def _lock(directory: str) -> int:
    """Own a group for as long as this process lives, which the kernel ends whatever the end is (flock(2))."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _kill(directory: str) -> None:
    with suppress(OSError):
        _write(f"{directory}/cgroup.kill", "1")
        return
    for _ in range(KILLS):  # before Linux 5.14, and in version 1
        found = _processes(directory)
        if not found:
            return
        for pid in found - {0}:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


# --- the kernel's files -----------------------------------------------------------------------------------------------


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _words(path: str) -> set[str]:
    return set(_read(path).split())


def _processes(directory: str) -> set[int]:
    return {int(word) for word in _words(f"{directory}/cgroup.procs")}


def _number(path: str) -> int:
    text = _read(path).strip()
    return int(text) if text.isdigit() else 0


def _row(path: str, name: str) -> int:
    """Return the number that stands behind a name."""
    rows = (line.split() for line in _read(path).splitlines())
    return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == name), 0)  # noqa: PLR2004 - name, number
