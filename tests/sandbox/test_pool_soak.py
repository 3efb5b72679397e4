"""A thousand runs: nothing grows. Longer ones are run with `scripts/bench soak`."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.sandbox.pool import PooledTier
from mcp_conda_run.sandbox.tier import Launch

from .zygote_host import make_launch, run
from .zygote_server import zygote_place

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's"), pytest.mark.slow]

RUNS = 1000
IN_FLIGHT = 8
MEBIBYTE = 1 << 20
OTHER_TESTS = f"{tempfile.gettempdir()}/pytest-of-"
"""Where those that run meanwhile mount small disks of their own; nothing of the tier is there."""

CODE = """
import os, subprocess, tempfile
open(os.environ["HOME"] + "/file", "w").write("x" * 10_000)
if N % 10 == 0 and os.fork() == 0:
    os.setsid()
    os.execv("/bin/sleep", ["sleep", "600"])
if N % 50 == 0:
    os.kill(os.getpid(), 9)
print(N)
"""


@dataclasses.dataclass(frozen=True)
class Usage:
    """What this process and those below it use."""

    descriptors: int
    processes: int
    memory_bytes: int
    mounts: int
    tasks: int


def usage(tier: PooledTier) -> Usage:
    """Measure the tier, once everything that is on its way out is gone."""
    own = [shelf.zygote._process.pid for shelf in tier._shelves.values() if shelf.zygote._process]
    keepers = [psutil.Process(pid) for pid in own]  # not those of other tests, which may end meanwhile
    below = [process for keeper in keepers for process in (keeper, *keeper.children(recursive=True))]
    family = [psutil.Process(), *(process for process in below if process.status() != psutil.STATUS_ZOMBIE)]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return Usage(
        descriptors=sum(process.num_fds() for process in family),
        processes=len(family),
        memory_bytes=sum(process.memory_full_info().uss for process in family),
        mounts=sum(not line.split()[1].startswith(OTHER_TESTS) for line in mounts),
        tasks=len(asyncio.all_tasks()),
    )


async def settled(tier: PooledTier) -> Usage:
    """Return the usage with nothing waiting and nothing ending."""
    for shelf in tier._shelves.values():
        shelf.tidy(keep=False)
    async with asyncio.timeout(30):
        while any(shelf.active or shelf._discarded for shelf in tier._shelves.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return usage(tier)


async def many(tier: PooledTier, launch: Launch, numbers: range) -> Counter[str]:
    """Run one after the other, several at a time; return how many were started in which way."""
    ways: Counter[str] = Counter()
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            how, said = await run(tier, launch, f"N = {number}\n{CODE}")
            assert said.stdout == (f"{number}\n" if number % 50 else "")
            assert said.exit.signal == ("" if number % 50 else "SIGKILL")
            ways[how] += 1

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return ways


async def test_nothing_grows_over_a_thousand_runs(installed: Path):
    place = zygote_place(installed, "own")
    tier = PooledTier(place.cache)
    launch = make_launch(place.cache)
    try:
        assert await tier.warm(launch)
        await many(tier, launch, range(1, 101))
        before = await settled(tier)
        ways = await many(tier, launch, range(1, RUNS + 1))
        after = await settled(tier)
    finally:
        tier.close()
    assert sum(ways.values()) == RUNS
    assert ways["exec"] == 0
    assert after.processes == before.processes
    assert after.descriptors == before.descriptors
    assert after.mounts == before.mounts
    assert after.tasks <= before.tasks
    assert after.memory_bytes < before.memory_bytes + 8 * MEBIBYTE
