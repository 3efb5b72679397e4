"""Tier B: found where own namespaces are refused, bounded, ended, and shown to be what holds."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_conda_run.environments.clone import clone_prefix
from mcp_conda_run.sandbox.bubblewrapped import find
from mcp_conda_run.sandbox.choose import limits_rest_on
from mcp_conda_run.settings import Settings

from .bubbles import makes_overlays, needs_overlays
from .conftest import ROOT, Host
from .host import BubbleWithoutAWall, run
from .test_walls import DAEMON, FORKS, alive, mounts, number

pytestmark = pytest.mark.skipif(not find(), reason="bubblewrap is not installed")

MEBIBYTE = 1 << 20

# Refuses unshare(2) for mount, process and network namespaces, by which this project makes them, and not clone(2), by
# which bubblewrap does: what AppArmor decides by the program, this decides by the call. BPF: load the number; if it is
# unshare's, load the low half of its argument; if one of these flags is set, EPERM.
WITHOUT_UNSHARE = """
import json, os, struct, sys
from pathlib import Path
from mcp_conda_run.errors import CondaRunError
from mcp_conda_run.guest import syscalls
from mcp_conda_run.sandbox.choose import make_tier
from mcp_conda_run.sandbox.probe import probe
from mcp_conda_run.settings import Settings
number = 272 if os.uname().machine == "x86_64" else 97
flags = 0x20000 | 0x20000000 | 0x40000000
rows = (
    (0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16), (0x45, 0, 1, flags),
    (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000),
)
syscalls.set_no_new_privileges()
syscalls.install_seccomp(b"".join(struct.pack("HBBI", *row) for row in rows))
cache = Path(sys.argv[1])
found = probe(cache)
tier, why = make_tier(Settings(cache_dir=cache))
tier.close()
try:
    strict = make_tier(Settings(cache_dir=cache, isolation="strict"))[0].name
except CondaRunError as error:
    strict = error.code
print(json.dumps([dict(found.works), dict(found.reasons), tier.name, why, found.bubblewrap_overlays, strict]))
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What is found and chosen where unshare(2) is refused."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNSHARE, str(tmp_path_factory.mktemp("cache"))],
        check=True,
        capture_output=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    return json.loads(done.stdout)


def test_bubblewrap_is_found_where_own_namespaces_are_refused(refused: list[Any]):
    works, reasons, *_ = refused
    assert works == {"A": False, "A'": False, "B": True}
    assert "Operation not permitted" in reasons["A"]


def test_it_is_chosen_then_and_the_reason_says_why(refused: list[Any]):
    _, _, tier, why, *_ = refused
    assert tier == "B"
    assert "A: " in why


def test_strict_isolation_does_not_take_it(refused: list[Any]):
    assert refused[-1] == "isolation-unavailable"


@pytest.fixture
def cache(hosts: Callable[[str], Host]) -> Path:
    return hosts("own").place.cache


# --- bounds and ends --------------------------------------------------------------------------------------------------


def test_a_fork_bomb_meets_its_bound(host: Host):
    assert number(host.run("B", FORKS, processes=40)) < 48


def test_memory_is_bounded(host: Host):
    answer = host.run("B", "kept = []\nwhile True: kept.append(b'x' * (1 << 20))", memory_bytes=200 * MEBIBYTE)
    assert answer["exit"] == {"code": None, "signal": "SIGKILL", "limit": "memory"}


def test_shared_memory_is_bounded_by_its_size(host: Host):
    code = (
        "n = 0\ntry:\n  f = open('/dev/shm/x', 'wb')\n  while n < 100: f.write(bytes(1 << 20)); f.flush(); n += 1\n"
        "except OSError: pass\nprint(n)"
    )
    assert number(host.run("B", code, disk_bytes=20 * MEBIBYTE)) == 20


def test_what_is_written_to_disk_is_bounded(host: Host):
    code = "open('/tmp/x', 'wb').write(bytes(60 << 20))\nimport time; time.sleep(60)"
    assert host.run("B", code, disk_bytes=20 * MEBIBYTE)["exit"]["limit"] == "disk"


@pytest.mark.parametrize("place", ["/new", "/dev/new", "/etc/new", "/run/new", "/usr/lib/new", "/home/new"])
def test_nothing_can_be_written_outside_of_what_is_counted(host: Host, place: str):
    assert "Read-only file system" in host.run("B", f"open({place!r}, 'w')")["err"]


def test_how_the_code_ended_is_not_blurred(host: Host):
    assert host.run("B", "import os; os.kill(os.getpid(), 15)")["exit"]["signal"] == "SIGTERM"
    assert host.run("B", "raise SystemExit(143)")["exit"] == {"code": 143, "signal": "", "limit": ""}


def test_daemons_end_with_the_run(host: Host):
    tag = f"daemon-b-{os.getpid()}"
    before = mounts()
    host.run("B", DAEMON.replace("TAG", tag))
    assert (alive(tag), mounts()) == ([], before)


async def test_a_cancelled_run_leaves_nothing(cache: Path):
    tier = BubbleWithoutAWall(cache, {})
    tag = f"cancelled-b-{os.getpid()}"
    task = asyncio.create_task(run(tier, cache, DAEMON.replace("TAG", tag) + "\nwhile True: pass"))
    while len(alive(f"{tag}-sleep")) < 3:  # noqa: ASYNC110 - other processes set no event
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    tier.close()
    assert alive(tag) == []


def test_nothing_is_left_after_the_server_was_killed(cache: Path):
    tag = f"orphan-b-{os.getpid()}"
    request = {"cache": str(cache), "tier": "B", "code": DAEMON.replace("TAG", tag) + "\nwhile True: pass"}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.sandbox.host", str(os.geteuid())], stdin=subprocess.PIPE, cwd=ROOT
    )
    assert server.stdin is not None
    server.stdin.write(json.dumps(request).encode() + b"\n")
    server.stdin.flush()
    while len(alive(f"{tag}-sleep")) < 3:
        assert server.poll() is None
    server.kill()
    server.wait()
    server.stdin.close()
    for _ in range(1000):
        if not alive(tag):
            break
    assert alive(tag) == []


# --- walls ------------------------------------------------------------------------------------------------------------


def test_the_filter_of_system_calls_is_what_refuses_namespaces(host: Host):
    code = "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))"
    assert host.run("B", code)["out"] == "-1\n"
    assert host.run("B", code, missing={"filter_calls": False})["out"] == "0\n"


def test_the_options_with_the_hosts_paths_are_not_in_sight(host: Host):
    code = "print(open('/proc/1/cmdline').read())"
    assert str(host.place.workspace) not in host.run("B", code, workspace=str(host.place.workspace))["out"]


def test_our_own_process_in_there_cannot_be_looked_into(host: Host):
    code = (
        "import os\nfor pid in map(str, range(2, os.getpid())):\n"
        "  try: print(open(f'/proc/{pid}/mem', 'rb'))\n  except OSError as e: print(e.errno)"
    )
    assert host.run("B", code)["out"] in {"13\n", "1\n"}


@pytest.mark.parametrize("network", ["none", "full"])
def test_the_network_is_what_was_asked_for(host: Host, network: str):
    code = (
        "import os, socket\ns = socket.socket(); s.settimeout(5)\n"
        "try: s.connect(('127.0.0.1', 3128)); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(12).decode())\n"
        "except OSError as e: print(e.errno)"
    )
    answer = host.run("B", code, network=network)
    assert answer["out"] == {"none": "111\n", "full": "HTTP/1.1 400\n"}[network]
    assert answer["isolation"]["via"] == {"none": "", "full": "proxy"}[network]


def test_what_cannot_be_promised_is_said(host: Host):
    notes = " ".join(host.run("B", "pass")["isolation"]["notes"])
    assert "clone" in notes
    assert ("user 0" in notes) == (host.user == "own" and os.geteuid() == 0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root has its identity to keep")
@pytest.mark.parametrize("variant", [{"tier": "B"}, {"tier": "A", "missing": {"drop_identity": False}}])
def test_a_run_that_stays_root_cannot_write_to_the_kernels_files(hosts: Callable[[str], Host], variant: dict[str, Any]):
    code = (
        "import os\nfor p in ('sys/kernel/core_pattern', 'sys/kernel/domainname', 'sysrq-trigger', 'irq'):\n"
        "  if os.path.exists('/proc/' + p): print(os.access('/proc/' + p, os.W_OK))"
    )
    assert set(hosts("own").run(code=code, **variant)["out"].split()) == {"False"}


# --- overlays ---------------------------------------------------------------------------------------------------------


def test_the_probe_knows_whether_bubblewrap_makes_overlays(refused: list[Any]):
    assert refused[-2] == makes_overlays()


@needs_overlays
def test_modes_can_be_changed_where_the_prefix_is_an_overlay(host: Host):
    code = (
        "import os, sys; p = sys.prefix + '/lib'; os.chmod(p, 0o711); print(oct(os.stat(p).st_mode & 0o777)); "
        "p = os.path.realpath(sys.executable); os.chmod(p, 0o700); print(oct(os.stat(p).st_mode & 0o777))"
    )
    before = [os.stat(path).st_mode for path in (host.place.prefix / "lib", host.place.prefix / "bin/python")]
    assert host.run("B overlay", code)["out"] == "0o711\n0o700\n"
    assert [os.stat(path).st_mode for path in (host.place.prefix / "lib", host.place.prefix / "bin/python")] == before


@needs_overlays
def test_what_is_written_to_the_overlay_is_bounded(host: Host):
    code = "import sys, time; open(sys.prefix + '/x', 'wb').write(bytes(60 << 20)); time.sleep(60)"
    assert host.run("B overlay", code, disk_bytes=20 * MEBIBYTE)["exit"]["limit"] == "disk"


@needs_overlays
def test_the_overlays_own_directories_are_not_in_sight(host: Host):
    code = "import os; print(sorted(os.listdir('/run')), os.path.exists(os.path.dirname(os.environ['CONDA_PREFIX'])))"
    assert "work" not in host.run("B overlay", code)["out"]


@needs_overlays
def test_nothing_is_said_of_a_clone_where_there_is_none(host: Host):
    assert "clone" not in " ".join(host.run("B overlay", "pass")["isolation"]["notes"])


# --- what it says -----------------------------------------------------------------------------------------------------


def test_doctor_knows_what_its_limits_rest_on(tmp_path: Path):
    tier = BubbleWithoutAWall(tmp_path, {})
    basis = limits_rest_on(tier, Settings(cache_dir=tmp_path).limits())
    tier.close()
    assert "user namespace" in basis["processes"]
    assert "scratch" in basis["disk_bytes"]


def test_a_clone_that_is_seen_at_its_sources_path_keeps_that_path(tmp_path: Path):
    source, clone = tmp_path / "environment", tmp_path / "somewhere-else-with-a-longer-name"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "script").write_text(f"#!{source}/bin/python\n")
    (source / "link").symlink_to(source / "bin")
    clone_prefix(source, clone, same_path=True)
    assert (clone / "bin" / "script").read_text() == f"#!{source}/bin/python\n"
    assert os.readlink(clone / "link") == str(source / "bin")
