"""Control groups: what the kernel holds of a run's memory and processes, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_conda_run.sandbox import groups
from mcp_conda_run.sandbox.landlocked import LandlockTier
from mcp_conda_run.sandbox.namespaces import NamespaceTier
from mcp_conda_run.sandbox.order import Bounds, Order
from mcp_conda_run.sandbox.pool import PooledTier
from mcp_conda_run.sandbox.probe import held_by_groups
from mcp_conda_run.sandbox.tier import Launch, Tier

from .conftest import ROOT, Host
from .host import LIMITS, environment_in, run
from .test_walls import FORKS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")

MEBIBYTE = 1 << 20
GREEDY = "kept = b'x' * (400 << 20); print('still here')"
GREEDY_CHILD = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {GREEDY!r}]); time.sleep(20)"
SLEEP = "import time; print('here', flush=True); time.sleep(20)"


@pytest.fixture(scope="module")
def held() -> dict[str, str]:
    """What control groups can hold for this process; without any there is nothing to test."""
    found = held_by_groups()
    if set(found) != {"memory_bytes", "processes"}:
        pytest.skip(f"this process cannot make control groups here: {found or 'none'}")
    return found


@pytest.fixture
def parents(held: dict[str, str]) -> list[Path]:
    """Where the groups of runs are made."""
    assert held
    return [Path(parent) for parent in {place.parent for place in groups.Groups().learn()}]


def left(parents: list[Path]) -> list[Path]:
    found = [path for parent in parents for path in parent.glob(f"{groups.PREFIX}*") if path.name != groups.SERVER]
    return [path for path in found if not locked(path)]


def locked(path: Path) -> bool:
    """Say whether a group has a living owner: one of the other tests'."""
    try:
        os.close(groups._lock(str(path)))
    except FileNotFoundError:
        return True
    except OSError:
        return True
    return False


def make(tier: str, cache: Path) -> Tier:
    return LandlockTier(cache) if tier == "C" else NamespaceTier(cache, upper_on_disk=tier == "A'")


@pytest.fixture(params=["A", "A'", "C"])
def tier(request: pytest.FixtureRequest, hosts: Callable[[str], Host], held: dict[str, str]) -> Iterator[Tier]:
    assert held
    made = make(request.param, hosts("own").place.cache)
    yield made
    made.close()


@pytest.fixture
def cache(hosts: Callable[[str], Host]) -> Path:
    return hosts("own").place.cache


class Watched(NamespaceTier):
    """Tier A without control groups."""

    def _order(self, *given: Any) -> Order:
        order = super()._order(*given)
        return dataclasses.replace(order, bounds=dataclasses.replace(order.bounds, by_kernel=False))


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_a_run_over_its_memory_is_ended_and_its_limit_is_named(tier: Tier, cache: Path, held: dict[str, str]):
    answer = await run(tier, cache, GREEDY, memory_bytes=150 * MEBIBYTE)
    assert answer["exit"] == {"code": None, "signal": "SIGKILL", "limit": "memory"}
    assert answer["isolation"]["limits"]["memory_bytes"].startswith(held["memory_bytes"])


async def test_a_run_ends_when_a_child_of_it_is_ended_for_its_memory(tier: Tier, cache: Path):
    answer = await run(tier, cache, GREEDY_CHILD, memory_bytes=150 * MEBIBYTE)
    assert answer["exit"] == {"code": None, "signal": "SIGKILL", "limit": "memory"}


async def test_the_bound_holds_before_a_watchdog_could_see_it(tier: Tier, cache: Path):
    code = (
        "import ctypes, os\nif os.fork() == 0:\n  kept = b'x' * (400 << 20)\n  open('got', 'w')\n  os._exit(0)\n"
        "_, status = os.wait()\nprint(status, os.path.exists('got'))"
    )
    answer = await run(tier, cache, code, memory_bytes=150 * MEBIBYTE)
    assert answer["exit"]["limit"] == "memory"
    assert answer["out"] in {"9 False\n", ""}


async def test_more_processes_than_allowed_cannot_be_made(tier: Tier, cache: Path):
    answer = await run(tier, cache, FORKS, processes=40)
    assert (answer["exit"]["limit"], 20 < int(answer["out"]) < 48) == ("", True)


async def test_a_run_within_its_bounds_ends_as_it_should(tier: Tier, cache: Path):
    answer = await run(tier, cache, "x = bytearray(50 << 20); print(len(x) >> 20)", memory_bytes=200 * MEBIBYTE)
    assert (answer["out"], answer["exit"]["limit"]) == ("50\n", "")


async def test_a_run_that_is_killed_for_something_else_has_not_met_its_bound(tier: Tier, cache: Path):
    answer = await run(tier, cache, "import os; os.kill(os.getpid(), 9)")
    assert answer["exit"] == {"code": None, "signal": "SIGKILL", "limit": ""}


async def test_without_control_groups_the_watchdog_holds_the_memory_and_the_result_says_so(cache: Path):
    tier = Watched(cache)
    answer = await run(tier, cache, f"{GREEDY}\nimport time; time.sleep(600)", memory_bytes=150 * MEBIBYTE)
    tier.close()
    assert answer["exit"]["limit"] == "memory"
    assert answer["isolation"]["limits"]["memory_bytes"].startswith("watchdog")
    assert answer["isolation"]["limits"]["processes"] == "rlimit in a user namespace of its own"


def test_who_cannot_make_groups_has_the_watchdog(hosts: Callable[[str], Host]):
    limits = hosts("unprivileged").run("A", "print(1)")["isolation"]["limits"]
    assert limits["memory_bytes"].startswith("watchdog")


async def test_a_run_cannot_leave_its_group(tier: Tier, cache: Path):
    code = (
        "import os\n"
        "names = [line.strip().split(':', 2) for line in open('/proc/self/cgroup')]\n"
        "tries = [p + '/cgroup.procs' for p in ('/sys/fs/cgroup/memory', '/sys/fs/cgroup/pids', '/sys/fs/cgroup')]\n"
        "print(sum(os.access(path, os.W_OK) and bool(open(path, 'w')) for path in tries if os.path.exists(path)))"
    )
    answer = await run(tier, cache, code)
    assert answer["out"] == "0\n" or "PermissionError" in answer["err"]


# --- warm interpreters ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def pooled(cache: Path, **limits: Any):
    launch = Launch(
        run_id="f" * 16,
        environment=environment_in(cache),
        mounts=(),
        limits=dataclasses.replace(LIMITS, **limits),
        network="none",
    )
    tier = PooledTier(cache)
    try:
        assert await tier.warm(launch)
        async with tier.launch(launch) as process:
            assert process.start == "pool"
            yield process
    finally:
        tier.close()


async def test_a_run_from_the_pool_is_in_a_group_of_its_own(cache: Path, held: dict[str, str], parents: list[Path]):
    async with pooled(cache, memory_bytes=77 * MEBIBYTE) as process:
        assert process.isolation.limits["memory_bytes"].startswith(held["memory_bytes"])
        names = ("memory.limit_in_bytes", "memory.max")
        files = [path / name for parent in parents for path in parent.glob(f"{groups.PREFIX}*") for name in names]
        mine = [path.parent for path in files if path.exists() and path.read_text().strip() == str(77 * MEBIBYTE)]
        pids = {pid for path in mine for pid in groups._processes(str(path))}
        assert {Path(f"/proc/{pid}/comm").read_text()[:6] for pid in pids} == {"python"}
        assert len(pids) == 2  # its pid 1, and the one that waits for code


# --- what is left -----------------------------------------------------------------------------------------------------


async def test_no_group_is_left_of_a_run(tier: Tier, cache: Path, parents: list[Path]):
    await run(tier, cache, "import os; os.fork() or os.fork()")
    assert left(parents) == []


async def test_no_group_is_left_of_a_cancelled_run(tier: Tier, cache: Path, parents: list[Path]):
    before = {path for parent in parents for path in parent.glob(f"{groups.PREFIX}*")}
    task = asyncio.create_task(run(tier, cache, SLEEP))

    def own() -> set[Path]:
        return {path for parent in parents for path in parent.glob(f"{groups.PREFIX}*")} - before

    while not any(groups._processes(str(path)) for path in own()):  # noqa: ASYNC110 - kernel files set no event
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left(parents) == []


async def test_no_group_is_left_of_waiting_processes(cache: Path, parents: list[Path]):
    async with pooled(cache):
        pass
    deadline = time.monotonic() + 20
    while left(parents) and time.monotonic() < deadline:  # noqa: ASYNC110 - a zygote ends in the background
        await asyncio.sleep(0)
    assert left(parents) == []


def test_a_group_whose_keeper_is_dead_is_swept_with_what_is_in_it(parents: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups, "YOUNG_S", 0.0)
    victim = subprocess.Popen(["/bin/sleep", "600"])
    orphan = parents[0] / f"{groups.PREFIX}orphan"
    orphan.mkdir()
    (orphan / "cgroup.procs").write_text(str(victim.pid))
    groups.sweep(str(parents[0]))
    assert not orphan.exists()
    assert victim.wait() == -signal.SIGKILL


def test_a_group_with_a_living_keeper_is_not_swept(parents: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups, "YOUNG_S", 0.0)
    maker = groups.Groups()
    group = maker.make(Bounds(memory_bytes=1 << 30, processes=10))
    assert group is not None
    found = {path for parent in parents for path in parent.glob(f"{groups.PREFIX}*") if locked(path)}
    for parent in parents:
        groups.sweep(str(parent))
    assert {path for path in found if path.exists()} == found
    maker.close()


def test_groups_of_a_killed_server_are_removed_by_its_keepers(cache: Path, parents: list[Path]):
    request = f'{{"cache": "{cache}", "tier": "A", "code": "import time; time.sleep(600)", "memory_bytes": 99614720}}'
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.sandbox.host", str(os.geteuid())], stdin=subprocess.PIPE, cwd=ROOT
    )
    assert server.stdin is not None
    server.stdin.write(request.encode() + b"\n")
    server.stdin.flush()

    def mine() -> list[Path]:
        names = ("memory.limit_in_bytes", "memory.max")
        files = [path / name for parent in parents for path in parent.glob(f"{groups.PREFIX}*") for name in names]
        return [path.parent for path in files if reads(path) == "99614720"]

    while not any(groups._processes(str(path)) for path in mine()):
        assert server.poll() is None
    server.kill()
    server.wait()
    server.stdin.close()
    deadline = time.monotonic() + 20
    while mine() and time.monotonic() < deadline:
        pass
    assert mine() == []


def reads(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


# --- finding ----------------------------------------------------------------------------------------------------------


def rows(*lines: str) -> list[list[str]]:
    return [line.split() for line in lines]


def test_the_directory_of_a_group_is_found_by_its_controller(tmp_path: Path):
    (tmp_path / "memory/a/b").mkdir(parents=True)
    mounts = rows(
        f"33 32 0:30 / {tmp_path}/pids rw - cgroup cgroup rw,pids",
        f"34 32 0:31 / {tmp_path}/memory rw,relatime shared:9 - cgroup cgroup rw,memory",
    )
    assert groups.directory_of(mounts, "cgroup", "/a/b", "memory") == f"{tmp_path}/memory/a/b"


def test_in_a_container_the_directory_is_relative_to_what_is_mounted(tmp_path: Path):
    (tmp_path / "own").mkdir()
    mounts = rows(f"34 32 0:31 /docker/123 {tmp_path} rw - cgroup2 cgroup rw,nsdelegate")
    assert groups.directory_of(mounts, "cgroup2", "/docker/123/own") == f"{tmp_path}/own"


@pytest.mark.parametrize("path", ["/docker/1234", "/../elsewhere", "/docker"])
def test_a_group_outside_of_what_is_mounted_is_not_found(tmp_path: Path, path: str):
    mounts = rows(f"34 32 0:31 /docker/123 {tmp_path} rw - cgroup2 cgroup rw")
    assert groups.directory_of(mounts, "cgroup2", path) == ""


def unified() -> Path:
    """Return where groups of version 2 can be made by this process."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    with open("/proc/self/cgroup") as file:
        path = next((line.strip()[3:] for line in file if line.startswith("0::")), "")
    directory = groups.directory_of(mounts, "cgroup2", path)
    if not directory or not os.access(directory, os.W_OK):
        pytest.skip("no groups of version 2 can be made here")
    return Path(directory)


def test_in_version_2_all_processes_of_a_group_are_killed_at_once():
    place = unified() / f"test-{os.getpid()}"
    place.mkdir()
    victims = [subprocess.Popen(["/bin/sleep", "600"]) for _ in range(3)]
    for victim in victims:
        (place / "cgroup.procs").write_text(str(victim.pid))
    groups._kill(str(place))
    assert [victim.wait() for victim in victims] == [-9, -9, -9]
    while not groups._remove(str(place)):
        pass


def test_where_version_2_has_no_such_controller_it_is_found_out_by_trying():
    place = unified()
    if "memory" in (place / "cgroup.subtree_control").read_text():
        pytest.skip("this group may bound the memory of those below it")
    assert not groups._works(groups.Place("memory", 2, str(place)))
    assert list(place.glob(f"{groups.PREFIX}*")) == []
