"""A worker that is started before its request: it answers like any other, and does not outlive its context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.errors import InstallError

from ..support.http_channel import ChannelServer
from .conftest import Engine, MakeEngine, Solve
from .test_ending import workers

WAIT_S = 60


async def one_is_there() -> psutil.Process:
    async with asyncio.timeout(WAIT_S):
        while not workers():  # noqa: ASYNC110 - processes set no event
            await asyncio.sleep(0.01)
    (worker,) = workers()
    return worker


async def test_it_answers_the_request_that_comes(engine: Engine, solve: Solve, tmp_path: Path):
    packages = await solve("python")
    async with engine.expected():
        worker = await one_is_there()
        installing = asyncio.create_task(engine.install(packages, tmp_path / "prefix"))
        seen = {worker.pid}
        while not installing.done():
            seen |= {each.pid for each in workers() if each.parent() == psutil.Process()}
            await asyncio.sleep(0.01)
    await installing
    assert seen == {worker.pid}
    assert (tmp_path / "prefix/conda-meta").is_dir()
    assert workers() == []


async def test_a_second_request_has_a_worker_of_its_own(engine: Engine, solve: Solve):
    async with engine.expected():
        one, other = await asyncio.gather(solve("python"), solve("python"))
    assert one == other


async def test_it_ends_if_nothing_is_asked(engine: Engine):
    async with engine.expected():
        worker = await one_is_there()
    assert not worker.is_running()


async def test_it_ends_with_a_context_that_is_cancelled(engine: Engine):
    async def expect() -> None:
        async with engine.expected():
            await asyncio.Event().wait()

    task = asyncio.create_task(expect())
    worker = await one_is_there()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not worker.is_running()


async def test_one_that_has_died_is_not_needed(engine: Engine, solve: Solve):
    async with engine.expected():
        worker = await one_is_there()
        worker.kill()
        async with asyncio.timeout(WAIT_S):
            while worker.is_running():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert [package.name for package in await solve("python")][-1:] == ["python"]


async def test_offline_it_has_no_network_either(
    make_engine: MakeEngine, small_channel: Path, http_channel: Callable[[Path], ChannelServer]
):
    server = http_channel(small_channel)
    engine = make_engine(offline=True)
    async with engine.expected():
        await one_is_there()
        with pytest.raises(InstallError):
            await engine.names([server.url], "linux-64")
    assert server.requests == []


async def test_with_credentials_none_is_started_early(make_engine: MakeEngine):
    engine = make_engine()
    engine._access.learn(["https://user:secret@channel.invalid/private"])
    async with engine.expected():
        await asyncio.sleep(0)
        assert workers() == []
