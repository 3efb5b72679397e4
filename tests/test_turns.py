"""Turns: never more at a time than there are slots, clients one after the other, and a bound on all that wait."""

from __future__ import annotations

import asyncio
import sys

import pytest

from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import Progress, RunRequest
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.turns import Turns
from tests.support.warm import small_settings


class Stage:
    """Runs that stay in their turn until they are told to leave."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.began: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, asyncio.Event] = {}

    async def ask(self, *names: str) -> None:
        """Start runs, named by their client and a number."""
        for name in names:
            self._leave[name] = asyncio.Event()
            self.tasks[name] = asyncio.ensure_future(self._run(name))
            await settled()

    async def _run(self, name: str) -> None:
        async with self.turns.turn(name[0]):
            self.began.append(name)
            await self._leave[name].wait()

    async def leave(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
            await settled()


async def settled() -> None:
    """Let all tasks go as far as they can; none of them waits for anything but another."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_run_at_a_time_than_there_are_slots():
    stage = Stage(Turns(2, 10))
    await stage.ask("a1", "a2", "a3")
    assert stage.began == ["a1", "a2"]
    await stage.leave("a1")
    assert stage.began == ["a1", "a2", "a3"]
    await stage.leave("a2", "a3")


async def test_clients_take_turns_however_much_one_of_them_asks_for():
    stage = Stage(Turns(1, 10))
    await stage.ask("a1", "a2", "a3", "a4", "b1", "c1", "b2")
    for name in ("a1", "a2", "b1", "c1", "a3", "b2", "a4"):
        assert stage.began[-1] == name
        await stage.leave(name)
    assert stage.began == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_one_that_gives_up_while_it_waits_takes_no_turn():
    stage = Stage(Turns(1, 10))
    await stage.ask("a1", "a2", "a3")
    stage.tasks["a2"].cancel()
    await stage.leave("a1")
    assert stage.began == ["a1", "a3"]


async def test_one_that_gives_up_at_its_turn_passes_it_on():
    stage = Stage(Turns(1, 10))
    await stage.ask("a1", "a2", "a3")
    stage._leave["a1"].set()
    while not stage.tasks["a1"].done():  # noqa: ASYNC110 - the turn is given on at this step of the loop
        await asyncio.sleep(0)
    stage.tasks["a2"].cancel()
    await settled()
    assert stage.began == ["a1", "a3"]


async def test_a_failed_run_gives_its_turn_back():
    turns = Turns(1, 0)
    with pytest.raises(ValueError, match="x"):
        async with turns.turn():
            raise ValueError("x")
    async with asyncio.timeout(5), turns.turn():
        pass


def test_one_too_many_is_refused_with_what_to_do():
    turns = Turns(1, 1)
    with turns.admission(), turns.admission():
        with pytest.raises(RequestError) as caught, turns.admission():
            pass
        assert caught.value.code == "busy"
        assert "MCP_CONDA_RUN_QUEUE" in caught.value.hint
    with turns.admission():
        assert turns.admitted == 1


@pytest.mark.skipif(sys.platform != "linux", reason="runs need Linux")
async def test_a_run_that_waits_for_its_turn_says_so(warm_small_cache, small_channel, tmp_path):
    begun, go = tmp_path / "begun", tmp_path / "go"
    waits = (
        "import os, time\nopen('/working/begun', 'w').close()\n"
        "while not os.path.exists('/working/go'): time.sleep(0.02)"
    )
    settings = small_settings(warm_small_cache, small_channel, path=tmp_path, slots=1, pool_mb=0)
    heard: list[Progress] = []
    async with Runtime(settings) as runtime, asyncio.timeout(120):
        first = asyncio.create_task(runtime.run(RunRequest(code=waits)))
        while not begun.exists():  # noqa: ASYNC110 - a file tells of nothing
            await asyncio.sleep(0.02)
        second = asyncio.create_task(runtime.run(RunRequest(code="1"), heard.append))
        while not any(progress.phase == "queue" for progress in heard):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        go.touch()
        assert [(await run).status for run in (first, second)] == ["success", "success"]
    assert heard[-1].phase == "run"
