"""The pool: which way a run is started, that no trouble with a zygote is a run's trouble, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcp_conda_run.errors import HostError
from mcp_conda_run.models import LockedPackage
from mcp_conda_run.sandbox import pool, pool_shelf
from mcp_conda_run.sandbox.pool import PooledTier
from mcp_conda_run.sandbox.pool_sets import preload_set
from mcp_conda_run.sandbox.tier import Launch
from mcp_conda_run.sandbox.zygotes import Child

from .conftest import Place
from .zygote_host import empty, environment, make_launch, run
from .zygote_server import Server, replace_file, servers, zygote_place

__all__ = ["servers"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")


@pytest.fixture(scope="session")
def place(installed: Path) -> Place:
    return zygote_place(installed, "own")


@pytest.fixture
async def tier(place: Place) -> AsyncIterator[PooledTier]:
    tier = PooledTier(place.cache)
    yield tier
    tier.close()


@pytest.fixture
def launch(place: Place) -> Launch:
    return make_launch(place.cache)


def the_zygote(tier: PooledTier) -> psutil.Process:
    """Return the process of the tier's zygote: the first below its keeper that runs a zygote's program."""
    (shelf,) = tier._shelves.values()
    keeper = shelf.zygote._process
    assert keeper is not None
    for process in psutil.Process(keeper.pid).children(recursive=True):  # parents come first
        with suppress(psutil.NoSuchProcess):
            if any("zygote.py" in part for part in process.cmdline()):
                return process
    raise AssertionError("the zygote is not running")


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - conditions of other processes, which have no event here
            await asyncio.sleep(0.001)


def waiting(tier: PooledTier) -> list[Child]:
    """Return the processes that are ready for code."""
    slots = [slot for shelf in tier._shelves.values() for slot in shelf._slots.values()]
    return [child for slot in slots for child in slot.waiting if child.is_ready]


async def says(tier: PooledTier, launch: Launch, code: str = "6 * 7") -> tuple[str, str]:
    """Run code that has a value; return how it was started, and the value."""
    how, said = await run(tier, launch, code)
    assert said.record is not None
    assert said.record.value is not None, said.record.error
    return how, said.record.value.text


# --- which way --------------------------------------------------------------------------------------------------------


async def test_the_first_run_is_executed_and_a_later_one_was_waiting(tier: PooledTier, launch: Launch):
    assert await says(tier, launch) == ("exec", "42")
    assert await tier.warm(launch)
    assert await says(tier, launch) == ("pool", "42")


async def test_where_nothing_waits_the_run_is_forked(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    empty(tier)
    assert await says(tier, launch) == ("fork", "42")


async def test_after_a_run_another_process_waits(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    for _ in range(3):
        await until(lambda: waiting(tier))
        assert await says(tier, launch) == ("pool", "42")


async def test_a_run_with_other_limits_gets_its_own(tier: PooledTier, place: Place, launch: Launch):
    await tier.warm(launch)
    code = "import os; s = os.statvfs('/tmp'); s.f_blocks * s.f_frsize"
    other = make_launch(place.cache, disk_bytes=16 << 20)
    assert await says(tier, other, code) == ("fork", str(16 << 20))


async def test_a_run_with_another_network_policy_gets_its_own(tier: PooledTier, place: Place, launch: Launch):
    await tier.warm(launch)
    code = "import os; 'HTTP_PROXY' in os.environ"
    assert await says(tier, make_launch(place.cache, network="full"), code) == ("fork", "True")
    assert await says(tier, launch, code) == ("pool", "False")


async def test_a_run_with_other_mounts_is_never_served_by_a_zygote_without_them(
    tier: PooledTier, place: Place, launch: Launch
):
    await tier.warm(launch)
    mounted = make_launch(place.cache, workspace=str(place.workspace))
    assert await says(tier, mounted, "import os; os.getcwd()") == ("exec", "/working")


async def test_what_code_imports_is_there_already(tier: PooledTier, place: Place):
    launch = make_launch(place.cache, imports=("numpy.linalg",))
    await tier.warm(launch)
    assert await says(tier, launch, "import sys; 'numpy' in sys.modules") == ("pool", "True")


async def test_without_room_for_a_zygote_runs_are_executed(place: Place, launch: Launch):
    tier = PooledTier(place.cache, memory_mb=1)
    assert not await tier.warm(launch)
    assert await says(tier, launch) == ("exec", "42")
    tier.close()


async def test_idle_zygotes_end(tier: PooledTier, launch: Launch, monkeypatch: pytest.MonkeyPatch):
    await tier.warm(launch)
    zygote = the_zygote(tier)
    monkeypatch.setattr(pool, "ZYGOTE_IDLE_S", 0)
    tier._tidy()
    await asyncio.to_thread(psutil.wait_procs, [zygote], 10)
    assert not zygote.is_running()


async def test_the_number_that_waits_follows_the_demand(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    await asyncio.gather(*(says(tier, launch) for _ in range(4)))
    shelf = next(iter(tier._shelves.values()))
    slot = next(iter(shelf._slots.values()))
    assert 2 <= slot.wanted <= pool_shelf.MOST_WAITING
    for _ in range(pool_shelf.MOST_WAITING + 1):
        shelf.tidy(keep=True)
    assert slot.wanted == 1
    assert len(slot.waiting) <= 1


# --- trouble ----------------------------------------------------------------------------------------------------------


async def test_a_dead_zygote_costs_no_run(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    the_zygote(tier).kill()
    await until(lambda: not tier._shelves)
    assert await says(tier, launch) == ("exec", "42")


async def test_a_dead_waiting_process_costs_no_run(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    for process in the_zygote(tier).children():
        process.kill()
    await until(lambda: not waiting(tier))
    assert (await says(tier, launch))[1] == "42"


async def test_a_zygote_that_does_not_answer_is_given_up(
    tier: PooledTier, launch: Launch, monkeypatch: pytest.MonkeyPatch
):
    await tier.warm(launch)
    empty(tier)
    zygote = the_zygote(tier)
    zygote.suspend()
    monkeypatch.setattr(pool_shelf, "FORK_S", 0.3)
    assert await says(tier, launch) == ("exec", "42")
    await asyncio.to_thread(psutil.wait_procs, [zygote], 10)
    assert not zygote.is_running()


async def test_many_orders_to_a_zygote_that_does_not_answer_are_refused(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    shelf = next(iter(tier._shelves.values()))
    slot = next(iter(shelf._slots.values()))
    the_zygote(tier).suspend()
    children = []
    for _ in range(100):
        children.append(shelf._fork(slot, touch=False))
        await asyncio.sleep(0)
    refused = [child for child in children if await _failed(child)]
    shelf.zygote.kill()
    for child in children:
        await child.end()
    assert refused, "an order that cannot be sent would have waited"


async def _failed(child: Any) -> bool:
    done, _ = await asyncio.wait([child.ready], timeout=0.05)
    return bool(done) and child.ready.exception() is not None


async def test_without_descriptors_a_run_is_refused_with_a_reason(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    empty(tier)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    await until(lambda: not next(iter(tier._shelves.values()))._discarded)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, hard))
    try:
        with pytest.raises(HostError, match="Too many open files"):
            await says(tier, launch)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (await says(tier, launch))[1] == "42"


@contextmanager
def numpy_with(place: Place, text: str) -> Iterator[None]:
    """Have something at the beginning of the package that is preloaded."""
    package = next(place.prefix.glob("lib/python3*/site-packages/numpy/__init__.py"))
    before = package.read_text()
    replace_file(package, text + before)
    try:
        yield
    finally:
        replace_file(package, before)


@pytest.mark.parametrize(
    "text",
    [
        "raise RuntimeError('broken')\n",
        "import os; os._exit(0)\n",
        "import os; os.kill(os.getpid(), 9); os.abort()\n",
        "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n",
        "import os, time\nif os.getpid() == 1:\n  for n in range(80):\n    if os.fork() == 0: time.sleep(600)\n",
    ],
)
async def test_a_package_that_cannot_be_preloaded_costs_no_run(tier: PooledTier, place: Place, text: str):
    launch = make_launch(place.cache, imports=("numpy",))
    with numpy_with(place, text):
        assert not await tier.warm(launch)
    assert await says(tier, launch, "import numpy; int(numpy.arange(3).sum())") == ("exec", "3")
    assert not tier._starting, "it was tried again at once"


async def test_a_zygote_without_descriptors_costs_no_run(tier: PooledTier, place: Place):
    launch = make_launch(place.cache, imports=("numpy",))
    with numpy_with(place, "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (7, 7))\n"):
        assert not await tier.warm(launch)
        assert tier._shelves
    assert await says(tier, launch) == ("exec", "42")


FAILING_FORK = """
import os
fork, calls = os.fork, []
def failing():
    calls.append(0)
    if len(calls) == {number}: raise OSError(12, "Cannot allocate memory")
    return fork()
os.fork = failing
"""


@pytest.mark.parametrize("number", [2, 3], ids=["the zygote's", "its child's"])
async def test_a_fork_without_memory_costs_no_run(tier: PooledTier, place: Place, number: int):
    launch = make_launch(place.cache, imports=("numpy",))
    with numpy_with(place, FAILING_FORK.format(number=number)):
        assert not await tier.warm(launch)
    assert (await says(tier, launch))[1] == "42"


async def test_a_run_that_dies_under_way_costs_no_other_run(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    codes = ["import os; os.kill(os.getpid(), 9)", "1", "import ctypes; ctypes.string_at(0)", "2", "3"]
    ends = [said.exit.signal for _, said in await asyncio.gather(*(run(tier, launch, code) for code in codes))]
    assert ends == ["SIGKILL", "", "SIGSEGV", "", ""]
    assert (await says(tier, launch))[1] == "42"


async def test_a_package_that_prints_much_does_not_stop_its_zygote(tier: PooledTier, place: Place):
    launch = make_launch(place.cache, imports=("numpy",))
    with numpy_with(place, "print('x' * (1 << 20))\n"):
        assert await tier.warm(launch)


async def test_a_cancelled_launch_leaves_nothing(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    empty(tier)
    zygote = the_zygote(tier)
    task = asyncio.create_task(says(tier, launch, "while True: pass"))
    await until(zygote.children)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    shelf = next(iter(tier._shelves.values()))
    assert shelf.active == 0
    await until(lambda: len(zygote.children()) <= sum(len(s.waiting) for s in shelf._slots.values()))


async def test_a_run_under_way_survives_the_end_of_the_pool(place: Place, launch: Launch):
    tier = PooledTier(place.cache)
    await tier.warm(launch)
    async with tier.launch(launch) as process:
        zygote = the_zygote(tier)
        tier.close()
        await asyncio.sleep(0.2)
        assert zygote.is_running()
        process.kill()
        assert (await process.wait()).signal == "SIGKILL"
    await asyncio.to_thread(psutil.wait_procs, [zygote], 10)
    assert not zygote.is_running()


async def test_daemons_of_a_run_are_dead_when_its_context_ends(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    zygote = the_zygote(tier)
    code = (
        "import os\nfor n in range(3):\n  if os.fork() == 0:\n    os.setsid(); os.execv('/bin/sleep', ['mine', '600'])"
    )
    for _ in range(5):
        await run(tier, launch, code)
        named = [process for process in zygote.children(recursive=True) if process.name() == "sleep"]
        assert named == []


async def test_many_runs_at_once_are_all_answered(tier: PooledTier, launch: Launch):
    await tier.warm(launch)
    answers = await asyncio.gather(*(says(tier, launch, f"{n} + 0") for n in range(40)))
    assert [value for _, value in answers] == [str(n) for n in range(40)]


async def test_the_event_loop_is_not_blocked(tier: PooledTier, launch: Launch):
    """Measured by processor time of this process: waiting for a turn on a busy machine is not blocking."""
    await tier.warm(launch)
    longest = 0.0
    done = False

    async def watch() -> None:
        nonlocal longest
        while not done:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(says(tier, launch) for _ in range(4)))
    done = True
    await watching
    assert longest < 0.05


def test_nothing_is_left_a_second_after_the_server_was_killed(installed: Path):
    server = Server("own", zygote_place(installed, "own"))
    server.run("pool")
    server.send("pool", "import os, time\nos.fork()\nif os.fork() == 0: os.setsid()\ntime.sleep(600)")
    before = Path("/proc/mounts").read_text()
    family = psutil.Process(server.pid)
    deadline = time.monotonic() + 20
    while len(processes := family.children(recursive=True)) < 9 and time.monotonic() < deadline:
        pass
    assert len(processes) >= 9, processes
    os.kill(server.pid, signal.SIGKILL)
    killed = time.monotonic()
    _, alive = psutil.wait_procs(processes, timeout=1)
    with suppress(BrokenPipeError):
        server.close()
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert time.monotonic() - killed < 2
    assert Path("/proc/mounts").read_text() == before


# --- what is preloaded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ((), ()),
        (("json", "requests"), ()),
        (("numpy.linalg",), ("numpy",)),
        (("scipy.stats",), ("numpy",)),
    ],
)
def test_the_smallest_set_that_has_the_imports_is_preloaded(place: Place, imports: tuple[str, ...], expected: tuple):
    assert preload_set(imports, environment(place.cache)) == expected


def test_what_the_environment_does_not_have_is_not_preloaded(place: Place):
    assert preload_set(("pandas", "matplotlib"), environment(place.cache)) == ("numpy",)


def test_what_pip_brought_is_never_preloaded(place: Place):
    import dataclasses

    by_pip = LockedPackage(name="numpy", version="2", manager="pypi")
    assert preload_set(("numpy",), dataclasses.replace(environment(place.cache), packages=(by_pip,))) == ()
