"""What a keeper promises of any process it starts: how it ended, that its bounds hold, and that nothing survives it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.errors import HostError
from mcp_conda_run.models import Isolation
from mcp_conda_run.sandbox.order import Bounds, Order
from mcp_conda_run.sandbox.running import MARK, RunProcess, kill_marked, running
from mcp_conda_run.sandbox.spawner_client import PACKAGE, Spawner
from mcp_conda_run.sandbox.tier import Exit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="runs are not started on Windows yet")

RUN_ID = os.environ.setdefault("TEST_KEEPER_RUN_ID", secrets.token_hex(8))  # the same in the server that a test starts
MEBIBYTE = 1 << 20
WAIT_S = 20

DAEMON = """
import os, sys, time
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 3)
            time.sleep(600)
        os._exit(0)
    os.wait()
print("forked", flush=True)
"""


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


@asynccontextmanager
async def started(spawner: Spawner, code: str, bounds: Bounds | None = None, **fields) -> AsyncIterator[RunProcess]:
    order = Order(
        argv=fields.pop("argv", [sys.executable, "-I", "-S", "-c", code]),
        environ={MARK: RUN_ID},
        cwd=fields.pop("cwd", "/"),
        rlimits=fields.pop("rlimits", {}),
        bounds=bounds or Bounds(),
    )

    isolation = Isolation(tier="none")
    async with running(spawner, order, {}, "/", lambda _: isolation, sweep=lambda: kill_marked(RUN_ID)) as process:
        yield process


async def output_of(process: RunProcess) -> str:
    """Read standard output up to its end, which comes when the last process of the run is gone."""

    def read() -> str:
        with open(os.dup(process.stdout), encoding="utf-8") as file:
            return file.read()

    return await asyncio.wait_for(asyncio.to_thread(read), WAIT_S)


async def line_of(process: RunProcess) -> str:
    def read() -> str:
        with open(os.dup(process.stdout), encoding="utf-8", buffering=1) as file:
            return file.readline().strip()

    return await asyncio.wait_for(asyncio.to_thread(read), WAIT_S)


def of_the_run() -> list[psutil.Process]:
    """Return the living processes that carry the run's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == RUN_ID and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


async def nothing_runs(within_s: float = WAIT_S) -> bool:
    deadline = time.monotonic() + within_s
    while of_the_run():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


async def test_a_process_that_ends_well_has_exit_code_zero(spawner: Spawner):
    async with started(spawner, "pass") as process:
        assert await process.wait() == Exit(0)


async def test_the_exit_code_is_known(spawner: Spawner):
    async with started(spawner, "raise SystemExit(42)") as process:
        assert await process.wait() == Exit(42)


async def test_a_crash_is_known_by_its_signal(spawner: Spawner):
    async with started(spawner, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)") as process:
        assert await process.wait() == Exit(None, "SIGSEGV")


async def test_wait_can_be_called_again(spawner: Spawner):
    async with started(spawner, "pass") as process:
        await process.wait()
        assert await process.wait() == Exit(0)


async def test_output_and_errors_arrive_apart(spawner: Spawner):
    async with started(spawner, "import sys; print('out'); print('err', file=sys.stderr)") as process:
        assert await output_of(process) == "out\n"
        assert os.read(process.stderr, 100) == b"err\n"


async def test_standard_input_is_at_its_end(spawner: Spawner):
    async with started(spawner, "import sys; print(repr(sys.stdin.read()))") as process:
        assert await output_of(process) == "''\n"


async def test_the_control_socket_is_descriptor_three_and_talks_to_the_host(spawner: Spawner):
    async with started(spawner, "import socket; socket.socket(fileno=3).sendall(b'hello')") as process:
        assert await asyncio.to_thread(process.control.recv, 5) == b"hello"


async def test_no_other_descriptor_is_open_in_a_run(spawner: Spawner):
    code = "import os; fd = os.open('/dev/fd', os.O_RDONLY); print(sorted(map(int, os.listdir(fd))))"
    async with started(spawner, code) as process:
        numbers = eval(await output_of(process))
    assert [number for number in numbers if number <= 3] == [0, 1, 2, 3]
    assert len(numbers) <= 6  # and those that listing them opens


async def test_nothing_of_the_servers_environment_reaches_a_run(spawner: Spawner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    async with started(spawner, "import os; print(sorted(os.environ))") as process:
        assert eval(await output_of(process)) in ([MARK], ["LC_CTYPE", MARK])


async def test_a_run_has_a_session_of_its_own(spawner: Spawner):
    async with started(spawner, "import os; print(os.getsid(0) == os.getpid())") as process:
        assert await output_of(process) == "True\n"


async def test_signals_have_their_usual_meaning_in_a_run(spawner: Spawner):
    code = "import subprocess; print(subprocess.run(['sh', '-c', 'kill -PIPE $$; echo survived']).returncode)"
    async with started(spawner, code) as process:
        assert await output_of(process) == f"{-signal.SIGPIPE}\n"


async def test_a_program_that_is_not_there_is_one_clear_error(spawner: Spawner):
    with pytest.raises(HostError, match="No such file"):
        async with started(spawner, "", argv=["/nonexistent/python"]):
            pass


async def test_a_working_directory_that_is_not_there_is_one_clear_error(spawner: Spawner):
    with pytest.raises(HostError, match="/nonexistent"):
        async with started(spawner, "pass", cwd="/nonexistent"):
            pass


async def test_a_failed_start_does_not_stop_the_next_one(spawner: Spawner):
    with pytest.raises(HostError):
        async with started(spawner, "", argv=["/nonexistent/python"]):
            pass
    async with started(spawner, "pass") as process:
        assert await process.wait() == Exit(0)


async def test_a_dead_spawner_is_started_again(spawner: Spawner):
    async with started(spawner, "pass") as process:
        await process.wait()
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    [child] = [process for process in living if "spawner" in " ".join(process.cmdline())]
    child.kill()
    await asyncio.to_thread(psutil.wait_procs, [child], WAIT_S)
    async with started(spawner, "pass") as process:
        assert await process.wait() == Exit(0)


# --- the end of everything --------------------------------------------------------------------------------------------


async def test_kill_ends_a_process_that_ignores_signals(spawner: Spawner):
    code = "import signal\nfor n in range(1, 32):\n  try: signal.signal(n, signal.SIG_IGN)\n  except OSError: pass\n"
    async with started(spawner, f"{code}print('ready', flush=True)\nwhile True: pass") as process:
        assert await line_of(process) == "ready"
        process.kill()
        assert await asyncio.wait_for(process.wait(), WAIT_S) == Exit(None, "SIGKILL")


async def test_kill_is_safe_to_call_again(spawner: Spawner):
    async with started(spawner, "import time; time.sleep(600)") as process:
        process.kill()
        await process.wait()
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to the keeper")
async def test_daemons_die_when_the_main_process_ends(spawner: Spawner):
    async with started(spawner, DAEMON) as process:
        assert await process.wait() == Exit(0)
    assert of_the_run() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to the keeper")
async def test_daemons_without_the_mark_in_their_environment_die_as_well(spawner: Spawner):
    code = DAEMON.replace("time.sleep(600)", f"os.execve('/bin/sleep', ['{RUN_ID}-sleep', '600'], {{}})")
    async with started(spawner, code) as process:
        assert await process.wait() == Exit(0)
    assert [p for p in psutil.process_iter(["cmdline"]) if f"{RUN_ID}-sleep" in (p.info["cmdline"] or ())] == []


async def test_a_cancelled_run_leaves_no_process(spawner: Spawner):
    ready = asyncio.Event()

    async def run() -> None:
        async with started(spawner, DAEMON + "time.sleep(600)") as process:
            assert await line_of(process) == "forked"
            ready.set()
            await process.wait()

    task = asyncio.create_task(run())
    await asyncio.wait_for(ready.wait(), WAIT_S)
    assert len(of_the_run()) >= 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await nothing_runs()


FORKING_TREE = """
import os, time
for depth in range(9):
    os.fork()  # 512 processes in the end: as a bomb it would take the machine with it if the wall were missing
    {in_each}
time.sleep(600)
"""


@pytest.mark.parametrize("in_each", ["pass", "os.setsid() if os.getpid() != os.getsid(0) else None"])
async def test_a_run_that_forks_too_much_is_killed_whole(spawner: Spawner, in_each: str):
    async with started(spawner, FORKING_TREE.format(in_each=in_each), Bounds(by_kernel=False, processes=40)) as process:
        assert (await asyncio.wait_for(process.wait(), WAIT_S)).limit == "processes"
    assert await nothing_runs()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to the keeper")
async def test_a_run_that_kills_its_keeper_is_killed_all_the_same(spawner: Spawner):
    code = DAEMON + "os.kill(os.getppid(), 9); time.sleep(600)"
    async with started(spawner, code) as process:
        await asyncio.wait_for(process.wait(), WAIT_S)
    assert await nothing_runs()


SERVER = """
import asyncio, sys
from tests.sandbox.test_keeper import DAEMON, Spawner, line_of, started

async def main():
    async with started(Spawner(), DAEMON + "time.sleep(600)") as process:
        print(await line_of(process), flush=True)
        await process.wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to the keeper")
async def test_nothing_survives_a_server_that_is_killed():
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, cwd=PACKAGE.parent)  # noqa: ASYNC220 - waits for nothing
    assert server.stdout is not None
    assert await asyncio.to_thread(server.stdout.readline) == b"forked\n"
    assert len(of_the_run()) >= 4
    server.kill()
    server.wait()
    server.stdout.close()
    assert await nothing_runs(within_s=1)


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_memory_of_one_process_is_bounded(spawner: Spawner):
    code = "kept = []\nwhile True: kept.append(bytearray(1 << 20))"
    async with started(spawner, code, Bounds(by_kernel=False, memory_bytes=200 * MEBIBYTE)) as process:
        assert await asyncio.wait_for(process.wait(), WAIT_S) == Exit(None, "SIGKILL", "memory")


async def test_memory_of_all_processes_together_is_bounded(spawner: Spawner):
    code = (
        "import os, time\n"
        "for n in range(8):\n"
        "  if os.fork() == 0:\n    kept = bytearray(50 << 20); time.sleep(600)\n"
        "time.sleep(600)"
    )
    async with started(spawner, code, Bounds(by_kernel=False, memory_bytes=200 * MEBIBYTE)) as process:
        assert (await asyncio.wait_for(process.wait(), WAIT_S)).limit == "memory"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_shared_memory_is_counted(spawner: Spawner):
    code = "import mmap, time\nm = mmap.mmap(-1, 300 << 20)\nm.write(bytes(300 << 20))\ntime.sleep(600)"
    async with started(spawner, code, Bounds(by_kernel=False, memory_bytes=200 * MEBIBYTE)) as process:
        assert (await asyncio.wait_for(process.wait(), WAIT_S)).limit == "memory"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_memory_that_forked_processes_share_is_counted_once(spawner: Spawner):
    code = (
        "import os, time\n"
        "kept = bytearray(100 << 20)\n"
        "pids = [os.fork() or time.sleep(0.4) or os._exit(0) for n in range(4)]\n"
        "print([os.waitpid(pid, 0)[1] for pid in pids])"
    )
    async with started(spawner, code, Bounds(by_kernel=False, memory_bytes=300 * MEBIBYTE)) as process:
        assert await output_of(process) == "[0, 0, 0, 0]\n"


async def test_threads_count_as_processes(spawner: Spawner):
    code = "import threading, time\nfor n in range(50): threading.Thread(target=time.sleep, args=(600,)).start()"
    async with started(spawner, code, Bounds(by_kernel=False, processes=20)) as process:
        assert (await asyncio.wait_for(process.wait(), WAIT_S)).limit == "processes"


async def test_cpu_time_of_children_is_bounded(spawner: Spawner):
    code = "import os\nfor n in range(2): os.fork()\nwhile True: pass"
    async with started(spawner, code, Bounds(cpu_s=0.5)) as process:
        assert (await asyncio.wait_for(process.wait(), WAIT_S)).limit == "cpu"


async def test_cpu_time_by_rlimit_is_named_as_the_limit(spawner: Spawner):
    async with started(spawner, "while True: pass", rlimits={"CPU": (1, 2)}) as process:
        assert await asyncio.wait_for(process.wait(), WAIT_S) == Exit(None, "SIGXCPU", "cpu")


async def test_what_a_run_writes_is_bounded(spawner: Spawner, tmp_path: Path):
    code = (
        "import os, time\n"
        "for n in range(50):\n"
        "  with open(f'file-{n}', 'wb') as file: file.write(os.urandom(1 << 20))\n"
        "time.sleep(600)"
    )
    bounds = Bounds(disk_bytes=20 * MEBIBYTE, disk_places=[str(tmp_path)])
    async with started(spawner, code, bounds, cwd=str(tmp_path)) as process:
        assert (await asyncio.wait_for(process.wait(), WAIT_S)).limit == "disk"


async def test_a_single_file_is_bounded(spawner: Spawner, tmp_path: Path):
    code = "import sys\ntry: open('big', 'wb').write(bytes(2 << 20))\nexcept OSError as error: print(error.errno)"
    async with started(spawner, code, rlimits={"FSIZE": (MEBIBYTE, MEBIBYTE)}, cwd=str(tmp_path)) as process:
        assert await output_of(process) == "27\n"


async def test_open_files_are_bounded(spawner: Spawner):
    code = "kept = []\ntry:\n  while True: kept.append(open('/dev/null'))\nexcept OSError as error: print(len(kept))"
    async with started(spawner, code, rlimits={"NOFILE": (64, 64)}) as process:
        assert 32 < int(await output_of(process)) < 64
