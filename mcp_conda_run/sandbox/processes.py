"""The processes below a process: which they are, what they use, and how to end them all.

For keepers, which have only the standard library. On Linux from /proc; elsewhere from ps(1).
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from ..portability import changed_ns, held_bytes, leads_elsewhere

LINUX = sys.platform == "linux"
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
GIVE_UP_S = 2.0
"""How long processes may resist; a kill(2) of our own processes does not fail, but others' (setuid) may not be ours."""


@dataclass(frozen=True, slots=True)
class Used:
    """What processes use together: memory in bytes, processes and threads, CPU time in seconds."""

    memory_bytes: int = 0
    processes: int = 0
    cpu_s: float = 0.0


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, without itself, parents first."""
    children_of = _children if _KERNEL_LISTS_CHILDREN else _children_by_scan()
    found = children_of(pid)
    for child in found:
        found.extend(children_of(child))
    return found


_KERNEL_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # CONFIG_PROC_CHILDREN


def _children(pid: int) -> list[int]:
    """Return the children of all threads of a process (proc_pid_task_children(5))."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found.extend(map(int, file.read().split()))
    except OSError:
        pass  # it has just ended
    return found


def _children_by_scan() -> Callable[[int], list[int]]:
    children: dict[int, list[int]] = {}
    for child, parent in _parents_linux().items() if LINUX else _parents_ps().items():
        children.setdefault(parent, []).append(child)
    return lambda pid: children.get(pid, [])


def _parents_linux() -> dict[int, int]:
    stats = {int(name): _stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: int(fields[1]) for pid, fields in stats.items() if fields}


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on (proc_pid_stat(5)); the second may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _parents_ps() -> dict[int, int]:
    done = subprocess.run(["/bin/ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False)
    rows = (line.split() for line in done.stdout.splitlines())
    return {int(pid): int(parent) for pid, parent in rows}


def pid_of(process: int) -> int:
    """Return the id, here, of the process that a descriptor stands for (pidfd_open(2)); -1 if it is gone or none."""
    with suppress(OSError, ValueError), open(f"/proc/self/fdinfo/{process}", encoding="ascii") as file:
        return next((int(row[4:]) for row in file if row.startswith("Pid:")), -1)
    return -1


def used(pids: Iterable[int], stage_bytes: int = 0) -> Used:
    """Return what these processes use; those that are gone count nothing.

    Args:
        pids: the processes.
        stage_bytes: what a tmpfs of theirs holds. What they have mapped of it is in their shared memory as well, so
            the larger of the two counts.
    """
    anonymous = shared = processes = 0
    cpu = 0.0
    pids = list(pids)
    for pid in pids:
        one = _sample_linux(pid) if LINUX else _sample_ps(pid)
        anonymous, shared = anonymous + one.anonymous_bytes, shared + one.shared_bytes
        processes, cpu = processes + one.threads, cpu + one.cpu_s
    return Used(anonymous + max(shared, stage_bytes + nameless_files(pids, in_memory=True)), processes, cpu)


@dataclass(frozen=True, slots=True)
class _Sample:
    anonymous_bytes: int = 0
    shared_bytes: int = 0
    threads: int = 0
    cpu_s: float = 0.0


def _sample_linux(pid: int) -> _Sample:
    """Count resident anonymous and shared memory, not the pages of files: those the kernel can drop."""
    stat = _stat(pid)
    rows = _rows(f"/proc/{pid}/status")
    cpu = sum(map(int, stat[11:15])) / TICKS if stat else 0.0
    threads = int(rows.get("Threads", "0"))
    return _Sample(_kibibytes(rows, "RssAnon"), _kibibytes(rows, "RssShmem"), threads, cpu)


def _rows(path: str) -> dict[str, str]:
    """Return the rows of a /proc file of the form `name: value`; none if the process is gone."""
    try:
        with open(path, encoding="latin-1") as file:
            return {name: value for name, colon, value in (line.partition(":") for line in file) if colon}
    except OSError:
        return {}


def _kibibytes(rows: dict[str, str], name: str) -> int:
    return int(rows[name].split()[0]) * 1024 if name in rows else 0


def _sample_ps(pid: int) -> _Sample:
    done = subprocess.run(["/bin/ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
    kibibytes = done.stdout.strip()
    return _Sample(int(kibibytes) * 1024, 0, 1) if kibibytes.isdigit() else _Sample()


def proportional_memory(pids: Iterable[int], stage_bytes: int = 0) -> int:
    """Return the memory of these processes with every shared page counted once, in bytes.

    Dear (the kernel walks the page tables), so only asked for when the cheap sum looks too large: forked processes
    share most of what they seem to have.
    """
    anonymous = shared = 0
    pids = list(pids)
    for pid in pids:
        rows = _rows(f"/proc/{pid}/smaps_rollup")
        if "Pss_Anon" in rows:
            anonymous += _kibibytes(rows, "Pss_Anon")
            shared += _kibibytes(rows, "Pss_Shmem")
        else:
            one = _sample_linux(pid) if LINUX else _sample_ps(pid)
            anonymous, shared = anonymous + one.anonymous_bytes, shared + one.shared_bytes
    return anonymous + max(shared, stage_bytes + nameless_files(pids, in_memory=True))


def nameless_files(pids: Iterable[int], *, in_memory: bool) -> int:
    """Return what the open files of these processes hold that have no name, in bytes; each file counts once.

    Args:
        pids: the processes.
        in_memory: whether those of memfd_create(2) are meant, whose pages are in no process's memory unless they are
            mapped; else those on a disk that were deleted, which no look at directories finds.
    """
    found: dict[tuple[int, int], int] = {}
    for pid in pids if LINUX else ():
        directory = f"/proc/{pid}/fd"
        try:
            descriptors = os.listdir(directory)
        except OSError:
            continue  # it is gone, or hides: then only its own bounds hold it
        for descriptor in descriptors:
            try:
                name = os.readlink(f"{directory}/{descriptor}")
                if name.endswith(" (deleted)") and name.startswith("/memfd:") == in_memory:
                    status = os.stat(f"{directory}/{descriptor}")
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
            except OSError:
                continue
    return sum(found.values())


INODE_BYTES = 1024
"""What a file costs that holds nothing: file systems run out of inodes as well."""
HIDDEN = 1 << 62


def written_bytes(places: Iterable[str], since: float) -> int:
    """Return what the files below these directories hold that were made or changed after `since` (a `time.time()`).

    A directory that cannot be looked into, because its path is too long or its modes forbid it, counts as endless:
    else a run could write there what it wants.
    """
    total = 0
    since_ns = int(since * 1e9)
    waiting = list(places)
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return HIDDEN if error.errno in {errno.EACCES, errno.ENAMETOOLONG} else total
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False) and not leads_elsewhere(entry):
                    waiting.append(entry.path)  # before anything else, which fails where its path is too long
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if changed_ns(status) >= since_ns:
                total += held_bytes(status) + INODE_BYTES
    return total


def kill_all_children() -> bool:
    """Kill every process below this one and reap it; return whether none is left.

    Whole process groups first: the kernel does that in one step, so that a program that forks faster than we can list
    its processes does not get away. Then one by one, stopped before they are killed, in case each made its own group.
    """
    deadline = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline:
        stopped: set[int] = set()
        while fresh := [child for child in descendants(os.getpid()) if child not in stopped]:
            stopped.update(fresh)
            _kill_groups(fresh)
            _signal_all(fresh, signal.SIGSTOP)
        _signal_all(stopped, signal.SIGKILL)
        if not _reap():
            return True
        time.sleep(0.001)  # the kernel is still taking them down
    return False


def _kill_groups(pids: Iterable[int]) -> None:
    groups = set()
    for pid in pids:
        try:
            groups.add(os.getpgid(pid))
        except ProcessLookupError:
            continue
    for group in groups - {os.getpgrp()}:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _reap() -> bool:
    """Collect the children that have ended; return whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
