"""Tier A under load and at its end: bounds of each run alone, runs beside each other, and nothing left of any."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.errors import HostError
from mcp_conda_run.models import Mount
from mcp_conda_run.sandbox.namespaces import NamespaceTier, place_mounts
from mcp_conda_run.sandbox.order import SANDBOX_ID

from .conftest import ROOT, Host, Place
from .host import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

MEBIBYTE = 1 << 20

FORKS = """
import errno, os, time
count = 0
try:
    while count < 150:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError as error:
    assert error.errno == errno.EAGAIN
print(count, flush=True)
os._exit(0)
"""

FILL = """
import errno
written = 0
try:
    with open(PLACE, "wb") as file:
        while written < 100:
            file.write(bytes(1 << 20))
            file.flush()
            written += 1
except OSError as error:
    assert error.errno == errno.ENOSPC
print(written)
"""


@pytest.fixture(params=["A", "A prepared", "A'"])
def tier(request: pytest.FixtureRequest) -> str:
    return request.param


def number(answer: dict) -> int:
    assert answer["exit"]["code"] == 0, answer["err"]
    return int(answer["out"])


def test_a_run_gets_no_more_processes_than_its_bound(host: Host, tier: str):
    assert number(host.run(tier, FORKS, processes=64)) < 64


def test_without_the_bound_a_run_gets_more_processes(host: Host):
    assert number(host.run("A", FORKS, processes=0)) == 150


async def test_each_of_several_runs_has_the_bound_for_itself(hosts: Callable[[str], Host]):
    place = hosts("own").place
    tier = NamespaceTier(place.cache)
    answers = await asyncio.gather(*(run(tier, place.cache, FORKS, processes=40) for _ in range(3)))
    tier.close()
    assert all(30 < number(answer) < 40 for answer in answers)


@pytest.mark.parametrize("where", ["'/tmp/big'", "'/dev/shm/big'", "__import__('sys').prefix + '/big'", "'big'"])
def test_what_a_run_writes_is_bounded_by_one_size(host: Host, where: str):
    code = FILL.replace("PLACE", where)
    assert 50 < number(host.run("A", code, disk_bytes=64 * MEBIBYTE)) <= 64


def test_with_a_larger_bound_more_can_be_written(host: Host):
    assert number(host.run("A", FILL.replace("PLACE", "'/tmp/big'"), disk_bytes=200 * MEBIBYTE)) == 100


def test_what_a_run_writes_to_disk_is_bounded_by_the_watchdog(host: Host):
    code = FILL.replace("PLACE", "'/tmp/big'") + "\nimport time; time.sleep(600)"
    assert host.run("A'", code, disk_bytes=20 * MEBIBYTE)["exit"]["limit"] == "disk"


def test_files_without_content_are_bounded_too(host: Host):
    code = "n = 0\ntry:\n  while n < 200_000: open(f'/tmp/{n}', 'w').close(); n += 1\nexcept OSError: pass\nprint(n)"
    assert number(host.run("A", code, disk_bytes=8 * MEBIBYTE)) < 100_000


def test_memory_is_bounded(host: Host, tier: str):
    code = "kept = []\nwhile True: kept.append(bytearray(1 << 20))"
    assert host.run(tier, code, memory_bytes=200 * MEBIBYTE)["exit"] == {
        "code": None,
        "signal": "SIGKILL",
        "limit": "memory",
    }


def test_files_in_memory_count_as_memory(host: Host):
    code = FILL.replace("PLACE", "'/dev/shm/big'") + "\nimport time; time.sleep(600)"
    answer = host.run("A", code, disk_bytes=400 * MEBIBYTE, memory_bytes=90 * MEBIBYTE)
    assert answer["exit"]["limit"] == "memory"


def test_a_run_that_stays_below_its_bounds_is_left_alone(host: Host, tier: str):
    assert number(host.run(tier, "x = bytearray(50 << 20); print(len(x) >> 20)", memory_bytes=200 * MEBIBYTE)) == 50


# --- what is left -----------------------------------------------------------------------------------------------------

DAEMON = """
import os, sys, time
for n in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 4)
            os.execv("/bin/sleep", [sys.argv[0] and "TAG-sleep", "600"])
        os._exit(0)
"""


def alive(tag: str) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline", "status"])
    return [p for p in found if tag in " ".join(p.info["cmdline"] or ()) and p.info["status"] != psutil.STATUS_ZOMBIE]


def mounts() -> str:
    return Path("/proc/mounts").read_text()


def test_daemons_end_with_the_run(host: Host, tier: str):
    tag = f"daemon-{os.getpid()}"
    before = mounts()
    host.run(tier, DAEMON.replace("TAG", tag))
    assert alive(tag) == []
    assert mounts() == before


def test_signals_have_their_usual_meaning(host: Host, tier: str):
    assert host.run(tier, "import os; os.kill(os.getpid(), 15)")["exit"]["signal"] == "SIGTERM"
    assert host.run(tier, "import os; os.abort()")["exit"]["signal"] == "SIGABRT"


async def test_a_cancelled_run_leaves_nothing(hosts: Callable[[str], Host]):
    place = hosts("own").place
    tier = NamespaceTier(place.cache)
    tag = f"cancelled-{os.getpid()}"
    code = DAEMON.replace("TAG", tag) + "\nwhile True: pass"
    before = mounts()
    task = asyncio.create_task(run(tier, place.cache, code))
    while len(alive(f"{tag}-sleep")) < 3:  # noqa: ASYNC110 - other processes set no event
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    tier.close()
    assert alive(tag) == []
    assert mounts() == before


def test_nothing_is_alive_or_mounted_a_second_after_the_server_was_killed(hosts: Callable[[str], Host]):
    place = hosts("own").place
    tag = f"orphan-{os.getpid()}"
    request = {"cache": str(place.cache), "tier": "A", "code": DAEMON.replace("TAG", tag) + "\nwhile True: pass"}
    before = mounts()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.sandbox.host", str(os.geteuid())], stdin=subprocess.PIPE, cwd=ROOT
    )
    assert server.stdin is not None
    server.stdin.write(json.dumps(request).encode() + b"\n")
    server.stdin.flush()
    while len(alive(f"{tag}-sleep")) < 3:
        assert server.poll() is None
    server.kill()
    killed = time.monotonic()
    server.wait()
    server.stdin.close()
    while alive(tag) and time.monotonic() < killed + 1:
        pass
    assert alive(tag) == []
    assert mounts() == before


async def outside_uid(place: Place) -> int:
    """Return as whom a run lives outside of its namespaces."""
    tier = NamespaceTier(place.cache)
    tag = f"identity-{os.getpid()}"
    task = asyncio.create_task(run(tier, place.cache, DAEMON.replace("TAG", tag) + "\nwhile True: pass"))
    while not (found := alive(f"{tag}-sleep")):  # noqa: ASYNC110 - other processes set no event
        await asyncio.sleep(0)
    uid = found[0].uids().real
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    tier.close()
    return uid


async def test_a_root_servers_run_is_somebody_else_or_the_result_says_so(hosts: Callable[[str], Host]):
    if os.geteuid() != 0:
        pytest.skip("this is not root")
    host = hosts("own")
    notes = " ".join((await asyncio.to_thread(host.run, "A", "pass"))["isolation"]["notes"])
    assert (await outside_uid(host.place) == SANDBOX_ID) == ("user 0" not in notes)


async def test_where_identities_cannot_be_dropped_a_root_servers_run_says_so(hosts: Callable[[str], Host]):
    if os.geteuid() != 0:
        pytest.skip("this is not root")
    answer = await asyncio.to_thread(hosts("own").run, "A", "print(1)", missing={"drop_identity": False})
    assert answer["out"] == "1\n"
    assert "user 0" in " ".join(answer["isolation"]["notes"])


# --- beside each other ------------------------------------------------------------------------------------------------


async def test_runs_at_the_same_time_see_nothing_of_each_other(hosts: Callable[[str], Host]):
    place = hosts("own").place
    tier = NamespaceTier(place.cache)
    code = (
        "import os, socket, sys, time\n"
        "open('/tmp/mine', 'w'); open('/dev/shm/mine', 'w'); open(sys.prefix + '/mine' , 'w')\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0same-name'); s.listen()\n"
        "t = socket.create_server(('127.0.0.1', 4000))\n"
        "time.sleep(0.3)\n"
        "pids = [n for n in os.listdir('/proc') if n.isdigit()]\n"
        "print([os.listdir('/tmp'), os.listdir('/dev/shm'), pids])"
    )
    answers = await asyncio.gather(*(run(tier, place.cache, code) for _ in range(3)))
    tier.close()
    top = place.cache.parts[2] if place.cache.parts[1] == "tmp" else ""
    for answer in answers:
        temporary, shared, pids = eval(answer["out"])
        assert ([name for name in temporary if name != top], shared, pids) == (["mine"], ["mine"], ["2"])


# --- mounts -----------------------------------------------------------------------------------------------------------


async def test_one_directory_can_be_mounted_at_two_places(hosts: Callable[[str], Host]):
    place = hosts("own").place
    tier = NamespaceTier(place.cache)
    (place.workspace / "seen").touch()
    more = (Mount(place.workspace, "/data", read_only=True),)
    code = (
        "import os\nwritable = []\n"
        "for p in ('/working', '/data'):\n"
        "  try: open(p + '/seen', 'a'); writable.append(p)\n"
        "  except OSError as e: assert e.errno == 30\n"
        "print([sorted(os.listdir('/data')) == sorted(os.listdir('/working')), writable])"
    )
    answer = await run(tier, place.cache, code, workspace=str(place.workspace), more_mounts=more)
    tier.close()
    assert eval(answer["out"]) == [True, ["/working"]]


def test_a_mount_above_the_cache_does_not_show_the_cache(host: Host):
    code = "import os, sys; print([os.listdir('/working/cache'), os.path.exists(sys.prefix)])"
    answer = host.run("A", code, workspace=str(host.place.cache.parent))
    assert eval(answer["out"]) == [[], True]


@pytest.mark.parametrize(
    "target", ["/", "/usr", "/usr/lib/x", "/proc", "/etc", "/tmp", "relative", "/var/cache", "/run/x"]
)
def test_a_mount_over_the_system_or_the_environment_is_refused(tmp_path: Path, target: str):
    with pytest.raises(HostError, match="Nothing can be mounted"):
        place_mounts((Mount(tmp_path, target),), Path("/var/cache/mcp-conda-run"))
