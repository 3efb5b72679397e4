"""What an ephemeral prefix costs to make and to be rid of: an overlay (tier A), a clone (other tiers), a full copy."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mcp_conda_run.environments.clone import clone_prefix
from mcp_conda_run.environments.trash import delete_tree
from mcp_conda_run.sandbox.spawner_client import PACKAGE

from .starts import Ways
from .timing import Series

OVERLAYS = 200
KINDS = ("make", "end")

# In a mount namespace of its own, as a run's: a tmpfs for what is written, and the overlay at the environment's path.
OVERLAY = """
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
from guest import syscalls
prefix, count = sys.argv[2], int(sys.argv[3])
if os.geteuid():
    syscalls.unshare_user(os.geteuid(), os.getegid(), syscalls.CLONE_NEWNS)
else:
    syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)
make, end = [], []
stage = "/sys/kernel"
for _ in range(count):
    began = time.perf_counter()
    syscalls.mount("tmpfs", stage, "tmpfs", 0, "mode=0755,size=512m")
    os.mkdir(stage + "/upper"); os.mkdir(stage + "/work")
    options = f"lowerdir={prefix},upperdir={stage}/upper,workdir={stage}/work,userxattr,volatile"
    syscalls.mount("overlay", prefix, "overlay", 0, options)
    made = time.perf_counter()
    syscalls.unmount(prefix); syscalls.unmount(stage)
    end.append(time.perf_counter() - made)
    make.append(made - began)
print(json.dumps([make, end]))
"""


async def measure_prefix(ways: Ways, rounds: int) -> list[Series]:
    """Measure each way to have a prefix of one's own, on the template's environment."""
    environment = (await ways.cold.warmup()).environment
    mounted = overlay(environment.prefix) if sys.platform == "linux" else []
    return mounted + await asyncio.to_thread(alternately, environment.prefix, rounds)


def overlay(prefix: Path) -> list[Series]:
    """Measure mounts; in a process of its own, which keeps its namespace to itself."""
    names = [f"prefix: overlay, {kind}" for kind in KINDS]
    command = [sys.executable, "-c", OVERLAY, str(PACKAGE), str(prefix), str(OVERLAYS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return [Series(name, skipped=done.stderr.strip().rpartition("\n")[2]) for name in names]
    rows = zip(names, KINDS, json.loads(done.stdout), strict=True)
    return [Series(name, f"prefix: copy, {kind}", times=times) for name, kind, times in rows]


def alternately(prefix: Path, rounds: int) -> list[Series]:
    """Measure clones and copies in turn; the first round of each is not kept."""
    ways: dict[str, Callable[[Path, Path], object]] = {
        "clone": clone_prefix,
        "copy": lambda source, target: shutil.copytree(source, target, symlinks=True),
    }
    pairs = {
        name: [Series(f"prefix: {name}, {kind}", "" if name == "copy" else f"prefix: copy, {kind}") for kind in KINDS]
        for name in ways
    }
    for number in range(rounds + 1):
        for name, make in ways.items():
            target = prefix.with_name(secrets.token_hex(len(prefix.name) // 2))  # as long: clones need that
            times = timed(partial(make, prefix, target)), timed(partial(delete_tree, target))
            for series, seconds in zip(pairs[name], times if number else (), strict=False):
                series.times.append(seconds)
    return [series for pair in pairs.values() for series in pair]


def timed(step: Callable[[], object]) -> float:
    """Do it, and return the seconds that it took."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
