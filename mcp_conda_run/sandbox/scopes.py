"""Asks systemd for a group of this process's own, in which it may make control groups for runs.

Called by `groups.py` where groups cannot be made below the group in which this process was started: so it is in a
terminal, and under most programs that start servers. The answer is a scope (systemd.scope(5)) with `Delegate=`, what
`systemd-run --scope -p Delegate=yes` makes for a command; systemd removes it with its last process. Moves this process
and what it started, never another. Standard library only.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = "/sys/fs/cgroup"
RUNNING = "/run/systemd/system"
"""There where systemd is the machine's first process (sd_booted(3))."""
PREFIX, SUFFIX = "mcp-conda-run-", ".scope"
TIMEOUT_S = 10.0
MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
DESCRIPTION = "Runs of mcp-conda-run"


def own_scope(pids: Sequence[int]) -> bool:
    """Have processes moved to a new scope; return whether this process is there.

    Args:
        pids: this process and those that it started.
    """
    manager = _manager()
    if not manager or not _bounds_can_be_had():
        return False
    name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
    try:
        done = subprocess.run(
            [*manager, "call", *MANAGER, "StartTransientUnit", *_arguments(name, pids)],
            env={"PATH": os.defpath, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={_user_bus()}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and _arrived(name)


def others(scope: str) -> list[str]:
    """Return the scopes beside one that this function's module has made: other servers', which may be dead by now."""
    directory, name = os.path.split(scope)
    if not _is_ours(name):
        return []
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [f"{directory}/{other}" for other in names if other != name and _is_ours(other)]


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def _user_bus() -> str:
    return f"/run/user/{os.geteuid()}/bus"  # file-hierarchy(7)


def _manager() -> list[str]:
    """Return the beginning of a command that talks to the manager of this user's units; empty if there is none."""
    program = shutil.which("busctl", path=os.defpath)
    if not program or not os.path.isdir(RUNNING):
        return []
    if os.geteuid() == 0:
        return [program, "--system"]
    return [program, "--user"] if os.path.exists(_user_bus()) else []


def _bounds_can_be_had() -> bool:
    """Say whether memory is bounded by version 2 of control groups: users are not given groups of version 1."""
    try:
        return "memory" in Path(ROOT, "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return False


def _arguments(name: str, pids: Sequence[int]) -> list[str]:
    """Return the arguments of StartTransientUnit in busctl's notation: org.freedesktop.systemd1(5), busctl(1)."""
    properties = [
        ["PIDs", "au", str(len(pids)), *map(str, pids)],
        ["Delegate", "b", "true"],
        ["Description", "s", DESCRIPTION],
        ["CollectMode", "s", "inactive-or-failed"],
    ]
    values = [word for words in properties for word in words]
    return ["ssa(sv)a(sa(sv))", name, "fail", str(len(properties)), *values, "0"]


def _arrived(name: str) -> bool:
    """Wait until systemd has done it; it answers as soon as it has understood."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").rstrip("\n").endswith(name):
                return True
        except OSError:
            return False
        time.sleep(0.002)
    return False
