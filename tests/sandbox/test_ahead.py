"""The keeper that waits for the next run: which runs it takes, what holds them then, and that it leaves nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.models import Isolation, Mount
from mcp_conda_run.sandbox import spawner_client
from mcp_conda_run.sandbox.namespaces import NamespaceTier
from mcp_conda_run.sandbox.order import Order
from mcp_conda_run.sandbox.policy import NetworkPolicy
from mcp_conda_run.sandbox.spawner_client import Lifeline
from mcp_conda_run.sandbox.tier import Launch

from .conftest import Host
from .host import START, WAIT_S, run, waiting_keepers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

MEBIBYTE = 1 << 20
BEGINNING = spawner_client.BOOTSTRAP.rpartition(START)[0]


@pytest.fixture
def cache(hosts: Callable[[str], Host]) -> Path:
    return hosts("own").place.cache


class Observed(NamespaceTier):
    """Tier A, with the keepers of its runs."""

    def __init__(self, cache: Path) -> None:
        super().__init__(cache)
        self.keepers: list[int] = []

    def _isolation(self, launch: Launch, policy: NetworkPolicy, lifeline: Lifeline) -> Isolation:
        self.keepers.append(psutil.Process(lifeline._started.result()).ppid())
        return super()._isolation(launch, policy, lifeline)


@pytest.fixture
def tier(cache: Path) -> Iterator[Observed]:
    made = Observed(cache)
    yield made
    made.close()


async def one_waits() -> int:
    async with asyncio.timeout(WAIT_S):
        while not waiting_keepers():  # noqa: ASYNC110 - processes set no event
            await asyncio.sleep(0.01)
    (keeper,) = waiting_keepers()
    return keeper


async def prepared(tier: NamespaceTier, cache: Path, **more) -> int:
    """Make a run; return the keeper that waits for the next."""
    assert (await run(tier, cache, "pass", **more))["exit"]["code"] == 0
    return await one_waits()


async def test_the_next_run_is_the_waiting_keepers(tier: Observed, cache: Path):
    keeper = await prepared(tier, cache)
    tier.keepers.clear()
    assert (await run(tier, cache, "print(6 * 7)"))["out"] == "42\n"
    assert tier.keepers == [keeper]


async def test_each_run_has_another(tier: Observed, cache: Path):
    assert await prepared(tier, cache) != await prepared(tier, cache)


async def test_several_runs_at_once_need_not_wait_for_it(tier: Observed, cache: Path):
    await prepared(tier, cache)
    answers = await asyncio.gather(*(run(tier, cache, f"print({number})") for number in range(4)))
    assert [answer["out"] for answer in answers] == ["0\n", "1\n", "2\n", "3\n"]


@pytest.mark.parametrize(("first", "then"), [(300, 100), (100, 300)])
async def test_a_run_has_its_own_bounds_whatever_the_last_ones_were(tier: Observed, cache: Path, first: int, then: int):
    keeper = await prepared(tier, cache, memory_bytes=first * MEBIBYTE)
    tier.keepers.clear()
    answer = await run(tier, cache, "kept = b'x' * (200 << 20); print('kept')", memory_bytes=then * MEBIBYTE)
    assert answer["exit"]["limit"] == ("memory" if then < 200 else "")
    assert tier.keepers != [keeper]


async def test_a_run_with_another_network_is_not_its_own(tier: Observed, cache: Path):
    class Without(Observed):
        def _order(self, *given) -> Order:
            order = super()._order(*given)
            return replace(order, walls=replace(order.walls, own_network=self.own_network))

    other = Without(cache)
    other.own_network = True
    count = "import socket; print(len(socket.if_nameindex()))"
    try:
        inside = (await run(other, cache, count))["out"]
        other.own_network = False
        outside = (await run(other, cache, count))["out"]
        await one_waits()
        other.own_network = True
        assert (await run(other, cache, count))["out"] == inside == "1\n"
    finally:
        other.close()
    assert int(outside) == len(os.listdir("/sys/class/net"))


async def test_a_directory_that_was_not_there_when_it_began_to_wait_can_be_mounted(
    tier: Observed, cache: Path, tmp_path: Path
):
    keeper = await prepared(tier, cache)
    tier.keepers.clear()
    late = tmp_path / "late"
    late.mkdir()
    (late / "file").write_text("text")
    answer = await run(tier, cache, "print(open('/late/file').read())", more_mounts=(Mount(late, "/late"),))
    assert (answer["out"], tier.keepers) == ("text\n", [keeper])


@pytest.mark.parametrize("victim", ["keeper", "pid 1"])
async def test_a_run_does_not_need_it(tier: Observed, cache: Path, victim: str):
    keeper = psutil.Process(await prepared(tier, cache))
    (keeper if victim == "keeper" else keeper.children()[0]).kill()
    keeper.wait(WAIT_S)
    assert (await run(tier, cache, "print(6 * 7)"))["out"] == "42\n"


async def test_it_ends_when_there_are_no_runs_for_long(tier: Observed, cache: Path, monkeypatch: pytest.MonkeyPatch):
    sooner = "from mcp_conda_run.sandbox import spawner; spawner.IDLE_S = 2.0"
    monkeypatch.setattr(spawner_client, "BOOTSTRAP", f"{BEGINNING}\n{sooner}\n{START}")
    keeper = psutil.Process(await prepared(tier, cache))
    keeper.wait(WAIT_S)
    assert (await run(tier, cache, "print(6 * 7)"))["out"] == "42\n"


@pytest.mark.parametrize("end", ["closed", "killed"])
async def test_it_ends_with_its_spawner(tier: Observed, cache: Path, end: str):
    keeper = psutil.Process(await prepared(tier, cache))
    processes = [keeper, *keeper.children(recursive=True)]
    if end == "closed":
        tier.close()
    else:
        os.kill(keeper.ppid(), signal.SIGKILL)
    assert psutil.wait_procs(processes, WAIT_S)[1] == []
