"""Many runs at once: the event loop stays free, all are answered or refused, nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import time
from asyncio import events
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mcp_conda_run import RunRequest, Runtime
from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import RunResult, Status

from ..support.warm import small_settings

AT_ONCE = 40
BLOCKED_S = 0.005
REFERENCE_S = 0.002
"""What `reference` takes on the machine for which the bound was set."""

CODE = """
import numpy
for i in range(200):
    open(f"/working/{N}-{i}", "w").write("x")
print(("y" * 99 + "\\n") * 10_000, end="")
int(numpy.arange(10).sum())
"""


@pytest.fixture
async def runtime(warm_small_cache: Path, small_channel: Path, tmp_path: Path) -> AsyncIterator[Runtime]:
    async with Runtime(small_settings(warm_small_cache, small_channel, path=tmp_path, queue=98, slots=2)) as runtime:
        yield runtime


class Steps:
    """The step of the event loop that takes most of the processor; waiting for a processor does not count."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.longest = (0.0, "")
        run = events.Handle._run

        def measured(handle: events.Handle) -> None:
            began = time.thread_time()
            run(handle)
            took = time.thread_time() - began
            if took > self.longest[0]:
                self.longest = (took, repr(handle)[:2000])

        monkeypatch.setattr(events.Handle, "_run", measured)


def reference() -> float:
    """Return the processor time of a fixed piece of work, which grows with how slow the machine is now."""
    began = time.thread_time()
    sum(n * n for n in range(40_000))
    return time.thread_time() - began


async def test_the_event_loop_is_never_blocked_for_long(runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
    await runtime.run(RunRequest(code=CODE, global_variables={"N": "first"}))
    gc.freeze()  # as the server does
    steps = Steps(monkeypatch)
    slowest = reference()
    requests = [RunRequest(code=CODE, global_variables={"N": n}) for n in range(AT_ONCE)]
    results = await asyncio.gather(*map(runtime.run, requests))
    slowest = max(slowest, reference())
    gc.unfreeze()
    assert Counter(result.status for result in results) == {Status.SUCCESS: AT_ONCE}
    assert {len(result.stdout) for result in results} == {1_000_000}
    assert steps.longest[0] < BLOCKED_S * max(1, slowest / REFERENCE_S), steps.longest


async def test_of_five_hundred_calls_each_is_answered_or_refused_with_what_to_do(runtime: Runtime):
    await runtime.run(RunRequest(code="1"))
    calls = (runtime.run(RunRequest(code=f"{n} + 0"), client=str(n % 3)) for n in range(500))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    values = [each.value.json for each in answers if isinstance(each, RunResult) and each.value is not None]
    refused = [each for each in answers if isinstance(each, RequestError)]
    assert values == list(range(100))
    assert len(refused) == 400
    assert {(each.code, bool(each.hint)) for each in refused} == {("busy", True)}


async def test_a_client_with_one_call_does_not_wait_for_all_of_anothers(runtime: Runtime):
    await runtime.run(RunRequest(code="1"))
    order: list[str] = []

    async def call(client: str) -> None:
        await runtime.run(RunRequest(code="1"), client=client)
        order.append(client)

    many = [asyncio.ensure_future(call("a")) for _ in range(20)]
    while not runtime._turns._waiting:  # noqa: ASYNC110 - until they have got as far as that
        await asyncio.sleep(0)
    await asyncio.gather(*many, call("b"))
    assert order.index("b") < 10


async def test_nothing_of_a_run_is_left_when_its_turn_is_over(runtime: Runtime):
    code = "import os\nif os.fork() == 0:\n    os.setsid()\n    os.execv('/bin/sleep', ['left-behind', '600'])\n'done'"
    for _ in range(3):
        result = await runtime.run(RunRequest(code=code))
        assert result.value is not None
        async with asyncio.timeout(20), runtime._turns.turn(), runtime._turns.turn():  # both: then no run has one
            assert left_behind() == []


def left_behind() -> list[psutil.Process]:
    """Return the processes below this one that say so of themselves."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [process] if "left-behind" in process.cmdline() else []
    return found
