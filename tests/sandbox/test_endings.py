"""Nothing of a run is left, however it was started, however it ends, and whatever it does against that."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcp_conda_run.sandbox.landlocked import LandlockTier
from mcp_conda_run.sandbox.namespaces import NamespaceTier
from mcp_conda_run.sandbox.plain import PlainTier
from mcp_conda_run.sandbox.pool import PooledTier
from mcp_conda_run.sandbox.tier import Tier

from .conftest import Place
from .test_tiers import contents, fingerprint
from .zygote_host import WAYS, make_launch, run, run_as
from .zygote_server import Server, zygote_place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

TIERS: dict[str, Callable[[Path], Tier]] = {
    "A'": lambda cache: NamespaceTier(cache, upper_on_disk=True),
    "C": LandlockTier,
    "none": PlainTier,
}
PROCESSES = 8

RESISTING = """
import os, shutil, signal, sys, time

def sleep():
    os.execv("/bin/sleep", ["TAG", "600"])

def ignore_all():
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass

for _ in range(2):  # daemons
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            sleep()
        os._exit(0)
for _ in range(2):  # what no polite signal reaches
    if os.fork() == 0:
        ignore_all()
        sleep()
stopped = os.fork()
if stopped == 0:
    sleep()
os.kill(stopped, signal.SIGSTOP)
if os.fork() == 0:  # one that goes on forking while it is being ended
    os.setsid()
    for number in range(40):
        if os.fork() == 0:
            sleep()
        time.sleep(0.002 if number < 3 else 0.05)
    os._exit(0)
ignore_all()
shutil.rmtree(sys.prefix + "/share", ignore_errors=True)
"""
ENDLESS = "while True: pass\n"


def alive(tag: str) -> int:
    """Return how many processes carry the tag."""
    found = psutil.process_iter(["cmdline", "status"])
    return sum((p.info["cmdline"] or [""])[0] == tag and p.info["status"] != psutil.STATUS_ZOMBIE for p in found)


def mounted(place: Place) -> list[str]:
    """Return what is mounted that has to do with a place."""
    rows = Path("/proc/mounts").read_text().splitlines()
    return [row for row in rows if str(place.cache.parents[1]) in row or row.startswith("overlay")]


def on_disk(place: Place) -> set[Path]:
    """Return the directories of runs; those of servers that other tests killed wait for the sweep of the next one."""
    return {*place.cache.glob("scratch/*"), *place.cache.glob("runs/*")}


@asynccontextmanager
async def nothing_left(place: Place, seen: Callable[[Path], object] = fingerprint) -> AsyncIterator[str]:
    """Check that all is as it was; yields what the run's processes are known by."""
    tag = f"resisting-{secrets.token_hex(4)}"
    mounts, environment, kept = mounted(place), seen(place.prefix), on_disk(place)
    yield tag
    assert alive(tag) == 0
    assert mounted(place) == mounts
    assert seen(place.prefix) == environment
    assert on_disk(place) <= kept


async def end(task: asyncio.Task[Any], how: str, tag: str) -> None:
    """Bring a run to its end."""
    if how == "cancel":
        async with asyncio.timeout(60):
            while alive(tag) < PROCESSES:  # noqa: ASYNC110 - other processes set no event
                await asyncio.sleep(0.01)
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def program(how: str, tag: str) -> tuple[str, dict[str, Any]]:
    """Return the code and the limits of a run that is to end in a way."""
    code = RESISTING.replace("TAG", tag) + ("" if how == "exit" else ENDLESS)
    return code, {"wall_s": 1.0} if how == "time-out" else {}


@pytest.fixture(scope="session")
def place(installed: Path) -> Place:
    return zygote_place(installed, "own")


@pytest.mark.parametrize("ending", ["exit", "time-out", "cancel"])
@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_left_of_a_run_that_resists(place: Place, way: str, ending: str):
    pooled, plain = PooledTier(place.cache), NamespaceTier(place.cache)
    try:
        async with nothing_left(place) as tag:
            code, limits = program(ending, tag)
            launch = make_launch(place.cache, network="full", **limits)
            await end(asyncio.create_task(run_as(pooled, plain, way, launch, code)), ending, tag)
    finally:
        pooled.close()
        plain.close()


@pytest.mark.parametrize("ending", ["exit", "time-out", "cancel"])
@pytest.mark.parametrize("name", TIERS)
async def test_nothing_is_left_in_other_tiers(place: Place, name: str, ending: str):
    tier = TIERS[name](place.cache)
    try:
        async with nothing_left(place, contents) as tag:  # a clone takes the right to write from what it shares
            code, limits = program(ending, tag)
            launch = make_launch(place.cache, network="full", **limits)
            await end(asyncio.create_task(run(tier, launch, code)), ending, tag)
    finally:
        tier.close()


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_left_a_second_after_the_server_was_killed(place: Place, way: str):
    async with nothing_left(place) as tag:
        server = Server("own", place)
        try:
            server.send(way, program("kill", tag)[0])
            while alive(tag) < PROCESSES:
                assert psutil.pid_exists(server.pid)
        finally:
            server.kill()
        killed = time.monotonic()
        while alive(tag) and time.monotonic() < killed + 1:
            os.sched_yield()


# --- two at once ------------------------------------------------------------------------------------------------------

VICTIM = """
import os, socket, time
name = socket.socket(socket.AF_UNIX)
name.bind("\\0" + "of-one-run")
name.listen()
port = socket.create_server(("127.0.0.1", 5555))
open("/tmp/mine", "w").close()
open("there", "w").close()
while not os.path.exists("done"):
    time.sleep(0.01)
print("alive")
"""
NEIGHBOUR = """
import os, socket
seen = [name for name in os.listdir("/proc") if name.isdigit() and int(name) > 2]
reached = []
for family, address in ((socket.AF_UNIX, "\\0of-one-run"), (socket.AF_INET, ("127.0.0.1", 5555))):
    try:
        socket.socket(family).connect(address)
        reached.append(address)
    except OSError:
        pass
signalled = 0
for pid in (-1, *range(3, 5000)):
    try:
        os.kill(pid, 9)
        signalled += 1
    except OSError:
        pass
print(seen, reached, signalled, os.path.exists("/tmp/mine"))
open("done", "w").close()
"""


@pytest.mark.parametrize("way", WAYS)
async def test_two_runs_at_once_neither_see_nor_reach_nor_signal_each_other(place: Place, tmp_path: Path, way: str):
    pooled, plain = PooledTier(place.cache), NamespaceTier(place.cache)
    launch = make_launch(place.cache, workspace=str(tmp_path))
    try:
        first = asyncio.create_task(run_as(pooled, plain, way, launch, VICTIM))
        while not (tmp_path / "there").exists() and not first.done():  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.01)
        _, neighbour = await run_as(pooled, plain, way, launch, NEIGHBOUR)
        _, victim = await first
    finally:
        pooled.close()
        plain.close()
    assert (victim.stdout, neighbour.stdout) == ("alive\n", "[] [] 0 False\n")
