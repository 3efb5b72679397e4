"""The portable start: no fork, no descriptor that travels, no event loop that knows of pipes; on any POSIX system.

Every run here is on an event loop that refuses to watch descriptors.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from mcp_conda_run.errors import HostError
from mcp_conda_run.sandbox.cloned import CloneTier
from mcp_conda_run.sandbox.conversation import Conversation, GuestRequest, converse
from mcp_conda_run.sandbox.order import Order
from mcp_conda_run.sandbox.portable import Ends
from mcp_conda_run.sandbox.running import MARK

from .conftest import Place
from .portable_host import LoopWithoutReadiness, PortableTier, SessionEnclosure
from .programs import PROGRAMS
from .test_semantics import TOGETHER
from .zygote_host import make_launch, run
from .zygote_server import zygote_place

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has its own: test_jobs.py")
T = TypeVar("T")


@pytest.fixture(scope="session")
def place(installed: Path) -> Place:
    return zygote_place(installed, "own")


TIERS: list[PortableTier] = []


def new_tier(place: Place) -> PortableTier:
    """Return a tier, for whose end `on_such_a_loop` waits."""
    TIERS.append(PortableTier(place.cache))
    return TIERS[-1]


def on_such_a_loop(coroutine: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine as Windows would; all threads of runs have ended then, and their directories are deleted."""

    async def main() -> T:
        return await coroutine()

    try:
        with asyncio.Runner(loop_factory=LoopWithoutReadiness) as runner:
            result = runner.run(main())
    finally:
        assert all(tier._trash.wait(120) for tier in TIERS)  # it takes processes and descriptors too
        TIERS.clear()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("run-")] == []
    return result


def talk(place: Place, code: str, **more: Any) -> Conversation:
    """Run code to its end."""
    return on_such_a_loop(lambda: run(new_tier(place), make_launch(place.cache, **more), code))[1]


def alive(run_id: str) -> list[psutil.Process]:
    """Return the processes that carry a run's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_value_comes_back(place: Place):
    said = talk(place, "import numpy\nprint('out')\nint(numpy.arange(4).sum())")
    assert said.record is not None
    assert said.record.value is not None
    assert (said.record.value.json, said.stdout, said.exit.code) == (6, "out\n", 0)


@pytest.fixture(scope="module")
def said(place: Place) -> dict[str, str]:
    """What each program printed, as a child of one run."""
    done = talk(place, f"PROGRAMS = {PROGRAMS!r}\n{TOGETHER}")
    return json.loads(done.stdout)


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name != "a file beyond the bound"])  # an rlimit
def test_programs_behave_as_ever(said: dict[str, str], program: str):
    assert said[program] == "True\n"


def test_a_request_larger_than_any_pipe_arrives(place: Place):
    said = talk(place, f"text = '{'x' * 3_000_000}'\nlen(text)")
    assert said.record is not None
    assert said.record.value is not None
    assert said.record.value.json == 3_000_000


def test_both_streams_come_whole(place: Place):
    code = "import os, sys\nfor n in range(300): print('o' * 999); print('e' * 999, file=sys.stderr)"
    said = talk(place, code)
    assert (len(said.stdout), len(said.stderr)) == (300_000, 300_000)


def test_output_right_before_a_crash_is_not_lost(place: Place):
    said = talk(place, "import os, signal\nprint('last words')\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert (said.stdout, said.exit.signal, said.record) == ("last words\n", "SIGSEGV", None)


def test_the_code_has_no_descriptor_but_the_usual_and_its_channel(place: Place):
    said = talk(place, "import os\nnames = set(os.listdir('/dev/fd')); d = os.open('/dev/null', 0); len(names)")
    assert said.record is not None
    assert said.record.value is not None
    assert said.record.value.json == 3 + 2 + 1  # the standard ones, two pipes, that of the listing


def test_a_child_does_not_inherit_the_channel(place: Place):
    code = "import subprocess\nsubprocess.check_output(['ls', '/dev/fd'], text=True, close_fds=False).split()"
    said = talk(place, code)
    assert said.record is not None
    assert said.record.value is not None
    assert len(said.record.value.json) == 4


def test_a_flood_ends_the_run_and_names_its_limit(place: Place):
    said = talk(place, "while True: print('x' * 10_000)", output_bytes=10_000)
    assert said.exit.limit == "output"


def test_too_much_memory_ends_the_run_and_names_its_limit(place: Place):
    said = talk(place, "import time\nb = bytearray(1 << 28)\ntime.sleep(600)", memory_bytes=1 << 27)
    assert said.exit.limit == "memory"


def test_too_much_written_ends_the_run_and_names_its_limit(place: Place):
    code = "import time\nopen('/dev/null')\nimport tempfile, os\nd = tempfile.mkdtemp()\n"
    code += "with open(d + '/x', 'wb') as f: f.write(os.urandom(4 << 20))\ntime.sleep(600)"
    assert talk(place, code, disk_bytes=1 << 20).exit.limit == "disk"


def test_the_time_ends_the_run_with_all_its_processes(place: Place):
    launch = make_launch(place.cache, wall_s=1)
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    _, said = on_such_a_loop(lambda: run(new_tier(place), launch, code))
    assert said.timed_out
    assert alive(launch.run_id) == []


def test_nothing_is_left_of_a_cancelled_run(place: Place, tmp_path: Path):
    launch = make_launch(place.cache, workspace=str(tmp_path))
    tier = new_tier(place)

    async def cancelled() -> None:
        task = asyncio.ensure_future(run(tier, launch, f"open({str(tmp_path / 'here')!r}, 'w')\nwhile True: pass"))
        while not (tmp_path / "here").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on_such_a_loop(cancelled)
    assert alive(launch.run_id) == []
    assert not (tier.cache / "runs" / launch.run_id).exists()
    assert not (tier.cache / "scratch" / launch.run_id).exists()


def test_a_start_that_is_cancelled_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch):
    launch = make_launch(place.cache)
    tier = new_tier(place)
    there, go_on = threading.Event(), threading.Event()
    really = SessionEnclosure.start

    def start(enclosure: SessionEnclosure, order: Order, ends: Ends) -> Any:
        main = really(enclosure, order, ends)
        there.set()
        assert go_on.wait(60)
        return main

    async def cancelled() -> None:
        task = asyncio.ensure_future(run(tier, launch, "1"))
        while not there.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr(SessionEnclosure, "start", start)
    monkeypatch.setattr(SessionEnclosure, "is_empty", lambda _: True)
    on_such_a_loop(cancelled)
    assert alive(launch.run_id) == []


def test_runs_go_on_side_by_side(place: Place):
    tier = new_tier(place)

    async def several() -> list[Any]:
        return list(await asyncio.gather(*(run(tier, make_launch(place.cache), f"{n} * 7") for n in range(4))))

    values = [said.record.value.json for _, said in on_such_a_loop(several)]
    assert values == [0, 7, 14, 21]


def test_no_descriptor_stays_open(place: Place):
    talk(place, "1")  # what is opened once and kept
    before = len(os.listdir("/dev/fd"))
    talk(place, "1")
    assert len(os.listdir("/dev/fd")) == before


def _broken(tier: PortableTier, *given: Any) -> Order:
    return dataclasses.replace(CloneTier._order(tier, *given), argv=["/nowhere/python", "3"])


def test_a_program_that_cannot_be_started_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PortableTier, "_order", _broken)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(HostError, match="could not be started"):
        talk(place, "1")
    assert len(os.listdir("/dev/fd")) == before


def test_a_guest_that_nobody_hears_any_more_does_not_hang_the_end(place: Place):
    tier = new_tier(place)

    async def rude() -> None:
        launch = make_launch(place.cache)
        async with tier.launch(launch) as process:
            request = GuestRequest(code="'x' * 200_000", filename=f"{process.scratch}/main.py")
            task = asyncio.ensure_future(converse(process, request, launch.limits))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    on_such_a_loop(rude)
