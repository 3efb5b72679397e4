"""Cancelled, too slow, or killed: nothing of the engine stays behind, and the next install works on the same cache."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.conda import process
from mcp_conda_run.errors import HostError, InstallError
from mcp_conda_run.models import LockedPackage, Progress

from ..support.http_channel import ChannelServer, Gate
from .conftest import Engine, MakeEngine, Solve

Serve = Callable[[Path], ChannelServer]
GONE_S = 10


def workers(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Return the helper processes of this process (or of another)."""
    found = []
    for child in (parent or psutil.Process()).children(recursive=True):
        try:
            if any("mcp_conda_run.conda" in argument for argument in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
def server(small_channel: Path, http_channel: Serve) -> ChannelServer:
    return http_channel(small_channel)


@asynccontextmanager
async def held_install(
    engine: Engine, packages: tuple[LockedPackage, ...], prefix: Path, gate: Gate
) -> AsyncIterator[asyncio.Task[None]]:
    """Start an install and give it when it waits in the middle of a download."""
    task = asyncio.create_task(engine.install(packages, prefix))
    await asyncio.to_thread(gate.wait_until_reached)
    yield task
    await asyncio.gather(task, return_exceptions=True)


async def test_a_cancelled_install_leaves_no_process(
    engine: Engine, solve: Solve, server: ChannelServer, tmp_path: Path
) -> None:
    packages = await solve("python", channels=(server.url,))
    async with held_install(engine, packages, tmp_path / "prefix", server.hold("*/python-3*")) as task:
        (worker,) = workers()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not worker.is_running()


async def test_a_cancelled_install_leaves_a_working_cache(
    engine: Engine, solve: Solve, server: ChannelServer, tmp_path: Path
) -> None:
    packages = await solve("python", channels=(server.url,))
    async with held_install(engine, packages, tmp_path / "first", server.hold("*/python-3*")) as task:
        task.cancel()
    server.mend()
    await engine.install(packages, tmp_path / "second")
    assert (tmp_path / "second/bin/python").exists()


async def test_after_a_cancelled_install_nothing_more_is_written(
    engine: Engine, solve: Solve, server: ChannelServer, tmp_path: Path, cache: Path
) -> None:
    packages = await solve("python", "numpy", channels=(server.url,))
    async with held_install(engine, packages, tmp_path / "prefix", server.hold("*/python-3*")) as task:
        task.cancel()
    before = everything(tmp_path)
    server.mend()
    assert everything(tmp_path) == before


def everything(root: Path) -> set[str]:
    return {os.path.join(directory, name) for directory, _, names in os.walk(root) for name in names}


async def test_cancelling_twice_still_reaps_the_worker(
    engine: Engine, solve: Solve, server: ChannelServer, tmp_path: Path
) -> None:
    packages = await solve("python", channels=(server.url,))
    async with held_install(engine, packages, tmp_path / "prefix", server.hold("*/python-3*")) as task:
        (worker,) = workers()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(psutil.wait_procs, [worker], GONE_S)
        assert not worker.is_running()


async def test_an_install_that_takes_too_long_is_ended(
    make_engine: MakeEngine, solve: Solve, server: ChannelServer, tmp_path: Path
) -> None:
    packages = await solve("python", channels=(server.url,))
    server.slow("*/python-3*", bytes_per_s=1000)
    impatient = make_engine(timeout_s=1)
    with pytest.raises(InstallError) as caught:
        await impatient.install(packages, tmp_path / "prefix")
    assert caught.value.code == "install-timeout"
    assert caught.value.hint
    assert workers() == []


async def test_a_progress_callback_that_raises_ends_the_worker(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    def broken(_: object) -> None:
        raise LookupError("a bug of the caller")

    packages = await solve("mcr-prefix")
    with pytest.raises(LookupError):
        await engine.install(packages, tmp_path / "prefix", broken)
    assert workers() == []


async def test_a_killed_worker_is_one_clear_error(
    engine: Engine, solve: Solve, server: ChannelServer, tmp_path: Path
) -> None:
    packages = await solve("python", channels=(server.url,))
    async with held_install(engine, packages, tmp_path / "prefix", server.hold("*/python-3*")) as task:
        workers()[0].kill()
        with pytest.raises(HostError) as caught:
            await task
    assert caught.value.code == "engine-crashed"
    assert "signal 9" in caught.value.message


async def test_a_killed_worker_leaves_a_working_cache_and_its_rubbish_is_swept(
    engine: Engine, solve: Solve, server: ChannelServer, tmp_path: Path, unpacked: Path
) -> None:
    packages = await solve("python", channels=(server.url,))
    async with held_install(engine, packages, tmp_path / "first", server.hold("*/python-3*")):
        workers()[0].kill()
    assert half_extracted(unpacked) != [] or engine.name == "micromamba"  # which fetches first, and unpacks then
    server.mend()
    await engine.install(packages, tmp_path / "second")
    assert (tmp_path / "second/bin/python").exists()
    assert half_extracted(unpacked) == []


def half_extracted(pkgs: Path) -> list[Path]:
    return [path for path in pkgs.iterdir() if path.name.startswith(".") and path.is_dir()]


async def test_an_install_waits_for_another_on_the_same_cache_and_says_so(
    engine: Engine, solve: Solve, server: ChannelServer, tmp_path: Path
) -> None:
    packages = await solve("python", channels=(server.url,))
    others = await solve("mcr-prefix")
    waits = asyncio.Event()

    def watch(progress: Progress) -> None:
        if progress.phase == "wait":
            waits.set()

    async with held_install(engine, packages, tmp_path / "first", server.hold("*/python-3*")) as first:
        second = asyncio.create_task(engine.install(others, tmp_path / "second", watch))
        await waits.wait()
        server.mend()
        await asyncio.gather(first, second)
    assert (tmp_path / "first/bin/python").exists()
    assert (tmp_path / "second/share/mcr").is_dir()


SERVER = """
import asyncio, sys
from pathlib import Path
from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.rattler import RattlerEngine

async def main(cache, url):
    engine = RattlerEngine(Path(cache, "pkgs"), Path(cache, "repodata"))
    request = SolveRequest(specs=["python"], channels=[url], platform=current_platform())
    await engine.install(await engine.solve(request), Path(cache, "prefix"))

asyncio.run(main(*sys.argv[1:]))
"""


def test_the_worker_dies_with_a_killed_server(server: ChannelServer, cache: Path) -> None:
    gate = server.hold("*/python-3*")
    with subprocess.Popen([sys.executable, "-c", SERVER, str(cache), server.url]) as host:
        gate.wait_until_reached()
        (worker,) = workers(psutil.Process(host.pid))
        host.kill()
        _, alive = psutil.wait_procs([worker], GONE_S)
    assert alive == []


def test_the_worker_leads_a_group_of_its_own(server: ChannelServer, cache: Path) -> None:
    gate = server.hold("*/python-3*")
    with subprocess.Popen([sys.executable, "-c", SERVER, str(cache), server.url], start_new_session=True) as host:
        gate.wait_until_reached()
        (worker,) = workers(psutil.Process(host.pid))
        group = os.getpgid(worker.pid)
        os.killpg(host.pid, signal.SIGKILL)
    assert group == worker.pid


# --- the process seam -------------------------------------------------------------------------------------------------


async def test_a_child_that_cannot_start_is_one_clear_error() -> None:
    with pytest.raises(HostError) as caught:
        await process.run_child(["/does/not/exist"], {}, environment={}, timeout_s=5, on_line=lambda _: None)
    assert caught.value.code == "engine-crashed"


async def test_a_child_that_dies_before_it_reads_is_told_by_its_end() -> None:
    command = [sys.executable, "-I", "-c", "import sys; sys.exit('no library https://me:secret@host/x')"]
    ended = await process.run_child(
        command, {"much": "x" * 1_000_000}, environment={}, timeout_s=30, on_line=lambda _: None
    )
    assert ended.returncode == 1
    assert "no library https://host/x" in ended.stderr


async def test_what_a_child_writes_to_stderr_is_bounded() -> None:
    command = [sys.executable, "-I", "-c", "import sys; sys.stderr.write('x' * 3_000_000 + 'end')"]
    ended = await process.run_child(command, {}, environment={}, timeout_s=30, on_line=lambda _: None)
    assert len(ended.stderr) == process.STDERR_KEPT_BYTES
    assert ended.stderr.endswith("end")


async def test_a_grandchild_dies_with_the_group(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = ["/bin/sh", "-c", f"sleep 60 > {fifo} & echo started; wait"]
    started = asyncio.Event()
    running = asyncio.create_task(
        process.run_child(command, {}, environment={}, timeout_s=60, on_line=lambda _: started.set())
    )
    with await asyncio.to_thread(fifo.open, "rb") as held_open_by_the_grandchild:
        await started.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await asyncio.to_thread(held_open_by_the_grandchild.read) == b""
