"""The tier of Windows: what can be seen of it anywhere, and runs for real where there is a Windows.

The second half was last run under Wine 8, whose jobs have no bounds of their own (`wine`); nothing here needs Wine.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.errors import HostError
from mcp_conda_run.models import Environment, Limits, Mount
from mcp_conda_run.sandbox import choose, jobs
from mcp_conda_run.sandbox.choose import make_tier
from mcp_conda_run.sandbox.conversation import Conversation, GuestRequest, converse
from mcp_conda_run.sandbox.jobs import JobTier
from mcp_conda_run.sandbox.probe import Probe, probe_now
from mcp_conda_run.sandbox.tier import Launch
from mcp_conda_run.settings import Settings
from mcp_conda_run.windows_jobs import Accounting, BasicLimits, CompletionPort, ExtendedLimits, limits

LIMITS = Limits(
    wall_s=120,
    cpu_s=0,
    memory_bytes=1 << 30,
    processes=32,
    disk_bytes=64 << 20,
    open_files=1024,
    file_size_bytes=1 << 30,
    output_bytes=1 << 20,
)
WINDOWS = sys.platform == "win32"
windows = pytest.mark.skipif(not WINDOWS, reason="jobs are Windows'")
elsewhere = pytest.mark.skipif(WINDOWS, reason="this is Windows")


def on_wine() -> bool:
    return WINDOWS and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


held_by_the_system = pytest.mark.skipif(not WINDOWS or on_wine(), reason="needs a real Windows: Wine's jobs hold less")


# --- what does not need Windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "size"), [(BasicLimits, 64), (ExtendedLimits, 144), (Accounting, 48), (CompletionPort, 16)]
)
def test_a_structure_is_as_long_as_windows_expects(structure: type[ctypes.Structure], size: int):
    assert ctypes.sizeof(structure) == size


@pytest.mark.parametrize(
    ("field", "offset"), [("flags", 16), ("active_processes", 40), ("affinity", 48), ("scheduling_class", 60)]
)
def test_a_field_of_the_limits_lies_where_windows_looks_for_it(field: str, offset: int):
    assert getattr(BasicLimits, field).offset == offset


@pytest.mark.parametrize(("field", "offset"), [("job_memory", 120), ("peak_job_memory", 136)])
def test_a_field_of_the_further_limits_lies_where_windows_looks_for_it(field: str, offset: int):
    assert getattr(ExtendedLimits, field).offset == offset


def test_a_job_ends_with_its_last_handle_whatever_its_bounds():
    assert limits().basic.flags == 0x2000 | 0x0400


def test_a_bound_that_is_asked_for_is_switched_on():
    found = limits(memory_bytes=5, processes=7, cpu_s=1.5)
    assert found.basic.flags == 0x2000 | 0x0400 | 0x0200 | 0x0008 | 0x0004
    assert (found.job_memory, found.basic.active_processes, found.basic.per_job_user_time) == (5, 7, 15_000_000)


def make_launch(cache: Path, *, network: str = "full", workspace: Path | None = None, **more: float) -> Launch:
    """Return what the tier is given for a run."""
    prefix = cache / "envs" / ("0" * 16)
    return Launch(
        run_id=secrets.token_hex(8),
        environment=Environment(
            key="0" * 16,
            prefix=prefix,
            python_version="{}.{}.{}".format(*sys.version_info[:3]),
            python="python.exe",
            modules={},
            stdlib=frozenset(),
            packages=(),
            variables={"CONDA_PREFIX": str(prefix)},
        ),
        mounts=(Mount(workspace, "/working"),) if workspace else (),
        limits=dataclasses.replace(LIMITS, **more),
        network=network,
    )


def test_the_result_says_that_there_are_no_walls_and_that_it_has_not_been_tried(tmp_path: Path):
    isolation = JobTier(tmp_path).isolation(make_launch(tmp_path))
    said = " ".join(isolation.notes)
    assert isolation.tier == "job"
    assert "not been tried on real machines" in said
    assert "can read, change and delete everything that the user of the server can" in said
    assert "reaches the network and every service" in said


def test_what_windows_does_not_bound_is_said_to_be_unbounded():
    rests_on = jobs.job_limits(LIMITS)
    assert rests_on["memory_bytes"].startswith("job object")
    assert rests_on["open_files"] == rests_on["file_size_bytes"] == "nothing: Windows has no such bound"


@pytest.mark.parametrize("network", ["none", "data.example.org:443"])
def test_a_network_that_cannot_be_held_is_refused(tmp_path: Path, network: str):
    with pytest.raises(HostError, match="cannot be restricted") as caught:
        JobTier(tmp_path).check(make_launch(tmp_path, network=network))
    assert caught.value.code == "network-not-enforceable"


def as_windows(monkeypatch: pytest.MonkeyPatch, found: Probe) -> None:
    monkeypatch.setattr(choose.platform, "system", lambda: "Windows")
    monkeypatch.setattr(choose, "probe", lambda _: found)


@pytest.mark.parametrize("isolation", ["auto", "none"])
def test_windows_gets_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str):
    as_windows(monkeypatch, Probe({"job": True}, {"A": "namespaces are Linux's"}))
    tier, _ = make_tier(Settings(cache_dir=tmp_path, isolation=isolation))
    tier.close()
    assert tier.name == "job"


def test_strict_isolation_does_not_take_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    as_windows(monkeypatch, Probe({"job": True}, {"A": "namespaces are Linux's"}))
    with pytest.raises(HostError, match="Strict isolation"):
        make_tier(Settings(cache_dir=tmp_path, isolation="strict"))


@elsewhere
def test_where_jobs_cannot_be_made_the_probe_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mcp_conda_run.sandbox.probe.platform.system", lambda: "Windows")
    found = probe_now(tmp_path)
    assert found.best == "none"
    assert "a Job Object cannot be made" in found.reasons["job"]


@pytest.mark.parametrize(
    ("code", "signal"), [(0xC0000005, "SIGSEGV"), (-0x3FFFFFFB, "SIGSEGV"), (0xC000001D, "SIGILL")]
)
def test_a_crash_is_told_by_the_name_that_it_has_elsewhere(code: int, signal: str):
    exit_ = jobs.JobEnclosure.exit(object.__new__(jobs.JobEnclosure), code)
    assert (exit_.code, exit_.signal) == (None, signal)


def test_a_code_of_the_system_that_has_no_name_is_no_exit_code():
    assert jobs.JobEnclosure.exit(object.__new__(jobs.JobEnclosure), 0xC0000142).signal == "status 0xc0000142"


@pytest.mark.parametrize("code", [3, 0xFFFFFFFF])
def test_an_exit_code_stays_one(code: int):
    assert jobs.JobEnclosure.exit(object.__new__(jobs.JobEnclosure), code).code == code


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache with one environment, which is the Python of these tests without its packages."""
    root = tmp_path_factory.mktemp("jobs")
    left_out = shutil.ignore_patterns(
        "site-packages", "test", "tests", "__pycache__", "Doc", "tcl", "idlelib", "ensurepip"
    )
    shutil.copytree(sys.base_prefix, root / "envs" / ("0" * 16), ignore=left_out)
    (root / "envs" / ("0" * 16) / "conda-meta").mkdir()
    yield root
    shutil.rmtree(root, ignore_errors=True)


def run(launch: Launch, cache: Path, code: str) -> Conversation:
    """Run code to its end, on the event loop that Windows has."""

    async def main() -> Conversation:
        async with JobTier(cache).launch(launch) as process:
            request = GuestRequest(
                code=code,
                filename=f"{process.scratch}/main.py",
                path0=next(iter(process.paths.values()), process.scratch),
                mount_map=dict(process.paths),
            )
            return await converse(process, request, launch.limits)

    return asyncio.run(main())


def value_of(said: Conversation) -> object:
    assert said.record is not None, said
    assert said.record.value is not None, said.record
    return said.record.value.json


@windows
def test_a_value_and_output_come_back(cache: Path):
    said = run(make_launch(cache), cache, "print('\\u00fc')\n6 * 7")
    assert (value_of(said), said.stdout, said.exit.code) == (42, "\u00fc\n", 0)


@windows
def test_an_exception_comes_back_with_its_traceback(cache: Path):
    said = run(make_launch(cache), cache, "def f():\n    return 1 / 0\nf()")
    assert said.record is not None
    assert said.record.error is not None
    assert said.record.error.type == "ZeroDivisionError"
    assert "return 1 / 0" in said.record.error.traceback


@windows
def test_the_mount_can_be_written_to_by_its_name(cache: Path, tmp_path: Path):
    said = run(make_launch(cache, workspace=tmp_path), cache, "open('/working/made', 'w').write('new')")
    assert value_of(said) == 3
    assert (tmp_path / "made").read_text() == "new"


@windows
def test_the_prefix_is_the_runs_own(cache: Path):
    code = "import os, sys\nopen(os.path.join(sys.prefix, 'mine'), 'w').close()\nsys.prefix.lower()"
    launch = make_launch(cache)
    said = run(launch, cache, code)
    assert launch.run_id in str(value_of(said))
    assert not (launch.environment.prefix / "mine").exists()


@windows
def test_what_the_server_has_in_its_environment_is_not_the_runs(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_SECRET_OF_THE_SERVER", "1")
    assert (
        value_of(run(make_launch(cache), cache, "import os\nos.environ.get('A_SECRET_OF_THE_SERVER', 'none')"))
        == "none"
    )


@windows
@pytest.mark.parametrize(
    "code",
    [
        "import subprocess, sys\nsubprocess.check_output([sys.executable, '-c', 'print(5)'], text=True).strip() == '5'",
        "import asyncio\nawait asyncio.sleep(0)\nTrue",
        "import socket\na, b = socket.socketpair()\na.send(b'x')\nb.recv(1) == b'x'",
        "import sqlite3, tempfile, os\nn = os.path.join(tempfile.mkdtemp(), 'a')\nc = sqlite3.connect(n)\n"
        "c.execute('create table a(b)')\nc.execute('insert into a values (3)')\nc.commit()\n"
        "r = c.execute('select b from a').fetchall()\nc.close()\nr == [(3,)]",
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\nTrue",
        "import os, tempfile\nos.path.expanduser('~') == os.environ['USERPROFILE'] and tempfile.gettempdir().lower()"
        ".startswith(os.environ['TEMP'].lower())",
        "import multiprocessing as m\ndef f(x):\n    return x * x\nsquares = []\nif __name__ == '__main__':\n"
        "    with m.Pool(2) as p:\n        squares = p.map(f, range(4))\nsquares == [0, 1, 4, 9]",
    ],
)
def test_it_works_in_a_run(cache: Path, code: str):
    assert value_of(run(make_launch(cache), cache, code)) is True


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


@windows
def test_the_time_ends_the_run_with_what_it_started(cache: Path):
    code = (
        "import subprocess, sys\nflags = 0x00000008 | 0x00000200\n"  # detached, in a group of its own
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], creationflags=flags)\n"
        "print(p.pid)\nwhile True: pass"
    )
    said = run(make_launch(cache, wall_s=8), cache, code)
    assert said.timed_out
    assert gone(int(said.stdout))


@windows
def test_what_a_run_leaves_running_ends_with_it(cache: Path):
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], creationflags=8).pid"
    )
    assert gone(int(str(value_of(run(make_launch(cache), cache, code)))))


@windows
def test_more_processes_than_allowed_end_the_run_and_name_the_limit(cache: Path):
    code = (
        "import subprocess, sys, time\n"
        "for n in range(8):\n    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "time.sleep(600)"
    )
    assert run(make_launch(cache, processes=3), cache, code).exit.limit == "processes"


@windows
def test_too_much_written_ends_the_run_and_names_the_limit(cache: Path):
    code = "import os, tempfile, time\nwith open(os.path.join(tempfile.mkdtemp(), 'x'), 'wb') as f:\n"
    code += "    f.write(os.urandom(4 << 20))\ntime.sleep(600)"
    assert run(make_launch(cache, disk_bytes=1 << 20), cache, code).exit.limit == "disk"


@windows
def test_a_flood_ends_the_run_and_names_the_limit(cache: Path):
    assert run(make_launch(cache, output_bytes=10_000), cache, "while True: print('x' * 10_000)").exit.limit == "output"


@held_by_the_system
def test_too_much_memory_ends_the_run_and_names_the_limit(cache: Path):
    code = "import time\ntry: b = bytearray(1 << 30)\nexcept MemoryError: pass\ntime.sleep(600)"
    assert run(make_launch(cache, memory_bytes=1 << 28), cache, code).exit.limit == "memory"


@held_by_the_system
def test_too_much_time_of_processors_ends_the_run_and_names_the_limit(cache: Path):
    assert run(make_launch(cache, cpu_s=2), cache, "while True: pass").exit.limit == "cpu"


@windows
def test_nothing_is_left_of_a_cancelled_run(cache: Path, tmp_path: Path):
    launch = make_launch(cache, workspace=tmp_path)

    async def main() -> None:
        async def one() -> None:
            async with JobTier(cache).launch(launch) as process:
                code = "import os\nopen('/working/pid', 'w').write(str(os.getpid()))\nwhile True: pass"
                request = GuestRequest(code=code, filename=f"{process.scratch}/main.py", mount_map=dict(process.paths))
                await converse(process, request, launch.limits)

        task = asyncio.ensure_future(one())
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert gone(int((tmp_path / "pid").read_text()))
    assert not (cache / "runs" / launch.run_id).exists()


SERVER = """
import asyncio, sys
from pathlib import Path
from tests.sandbox.test_jobs import make_launch, run
run(make_launch(Path(sys.argv[1]), workspace=Path(sys.argv[2])), Path(sys.argv[1]),
    "import os, time\\nopen('/working/pid', 'w').write(str(os.getpid()))\\ntime.sleep(600)")
"""


@windows
def test_runs_die_with_a_server_that_is_killed(cache: Path, tmp_path: Path):
    root = Path(__file__).resolve().parents[2]
    pid = tmp_path / "pid"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(cache), str(tmp_path)], cwd=root, stdin=subprocess.DEVNULL
    )
    while not pid.exists() or not pid.read_text():
        assert server.poll() is None
    server.kill()
    server.wait()
    main = int(pid.read_text())
    psutil.wait_procs([psutil.Process(main)] if psutil.pid_exists(main) else [], timeout=30)
    assert gone(main)


@windows
def test_an_environment_keeps_its_files_whatever_a_run_deletes(cache: Path):
    launch = make_launch(cache)
    code = "import os\nos.remove(os.path.join(os.path.dirname(os.__file__), 'this.py'))"
    run(launch, cache, code)
    assert (launch.environment.prefix / "Lib" / "this.py").exists()
