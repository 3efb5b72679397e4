"""The runtime is opened once, when it is wanted, and closed in the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mcp_conda_run.errors import HostError
from mcp_conda_run.server.lazy_runtime import LazyRuntime

from .scripted import Scripted


class Opener:
    """Opens scripted runners, after the failures that it was given."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.opened: list[Scripted] = []
        self.closed = 0
        self.tasks: list[asyncio.Task | None] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Scripted]:
        if self.failures:
            raise self.failures.pop(0)
        self.opened.append(Scripted())
        self.tasks.append(asyncio.current_task())
        yield self.opened[-1]
        self.tasks.append(asyncio.current_task())
        self.closed += 1


async def test_all_callers_share_one_runtime():
    opener = Opener()
    lazy = LazyRuntime(opener)
    first, second = await asyncio.gather(lazy.get(), lazy.get())
    assert first is second is opener.opened[0]
    await lazy.close()


async def test_the_task_that_opened_it_closes_it():
    opener = Opener()
    lazy = LazyRuntime(opener)
    await lazy.get()
    await lazy.close()
    assert opener.closed == 1
    assert opener.tasks[0] is opener.tasks[1]


async def test_what_was_never_wanted_is_never_opened():
    opener = Opener()
    await LazyRuntime(opener).close()
    assert opener.opened == []


async def test_a_failure_is_told_and_the_next_call_tries_again():
    lazy = LazyRuntime(Opener(HostError("The disk is full.")))
    with pytest.raises(HostError, match="full"):
        await lazy.get()
    assert isinstance(await lazy.get(), Scripted)
    await lazy.close()


async def test_an_unexpected_failure_is_a_host_error():
    lazy = LazyRuntime(Opener(ZeroDivisionError("x")))
    with pytest.raises(HostError, match="cannot be opened: x"):
        await lazy.get()
    await lazy.close()


async def test_a_cancelled_caller_does_not_stop_the_opening():
    opener = Opener()
    lazy = LazyRuntime(opener)
    caller = asyncio.create_task(lazy.get())
    await asyncio.sleep(0)
    caller.cancel()
    assert isinstance(await lazy.get(), Scripted)
    assert len(opener.opened) == 1
    await lazy.close()


async def test_closing_does_not_wait_for_an_opening_that_hangs():
    @asynccontextmanager
    async def hanging() -> AsyncIterator[Scripted]:
        await asyncio.Event().wait()
        yield Scripted()

    lazy = LazyRuntime(hanging)
    ready = lazy.prepare()
    await asyncio.wait_for(lazy.close(), 5)
    assert ready.cancelled()


async def test_nothing_is_opened_after_the_end():
    lazy = LazyRuntime(Opener())
    await lazy.close()
    with pytest.raises(HostError, match="shutting down"):
        await lazy.get()
