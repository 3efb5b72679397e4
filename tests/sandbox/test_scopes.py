"""A group of the server's own, asked of systemd: what an ordinary user's terminal on most machines needs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.sandbox import scopes

from .conftest import ROOT, Host

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")

REPORT = """
import os
from pathlib import Path
from mcp_conda_run.sandbox import scopes
print(scopes.own_scope([os.getpid()]))
print(Path("/proc/self/cgroup").read_text().strip().partition("::")[2])
"""
GROUPS = """
from mcp_conda_run.sandbox.groups import Groups
from mcp_conda_run.sandbox.order import Bounds
maker = Groups()
print(sorted(maker.make(Bounds(memory_bytes=1 << 30, processes=10)).holds.items()))
maker.close()
"""


@pytest.fixture
def systemd() -> None:
    """Need a machine whose systemd gives this user scopes with bounds of memory."""
    if not scopes._manager():
        pytest.skip("there is no systemd here that would answer this user")
    if not scopes._bounds_can_be_had():
        pytest.skip("version 2 of control groups does not bound memory here")


def python(code: str, *arguments: str) -> list[str]:
    """Return the lines that a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.usefixtures("systemd")
def test_a_process_is_moved_to_a_scope_of_its_own():
    moved, group = python(REPORT)
    assert moved == "True"
    assert Path(group).name.startswith("mcp-conda-run-")


@pytest.mark.usefixtures("systemd")
def test_nobody_else_is_moved():
    before = Path("/proc/self/cgroup").read_text()
    python(REPORT)
    assert Path("/proc/self/cgroup").read_text() == before


@pytest.mark.usefixtures("systemd")
def test_a_scope_is_gone_with_its_last_process():
    _, group = python(REPORT)
    deadline = time.monotonic() + 60
    while Path(f"{scopes.ROOT}{group}").exists() and time.monotonic() < deadline:
        pass
    assert not Path(f"{scopes.ROOT}{group}").exists()


@pytest.mark.usefixtures("systemd")
def test_a_server_that_was_started_in_a_terminal_has_groups_for_its_runs():
    assert python(GROUPS) == ["[('memory_bytes', 'cgroup v2'), ('processes', 'cgroup v2')]"]


ORPHAN = """
import os, signal, subprocess, sys
from mcp_conda_run.sandbox.groups import Groups
from mcp_conda_run.sandbox.order import Bounds
group = Groups().make(Bounds(memory_bytes=1 << 30, processes=10))
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
orphan = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, **quiet)
group.add_all([orphan.pid])
print(orphan.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
SWEEP = """
from mcp_conda_run.sandbox import groups
groups.YOUNG_S = 0.0
groups.Groups().learn()
"""


POOLED = """
import asyncio, sys
from pathlib import Path
from tests.sandbox.test_groups import pooled
async def main():
    async with pooled(Path(sys.argv[1]), memory_bytes=77 << 20) as process:
        print(process.isolation.limits["memory_bytes"])
asyncio.run(main())
"""


@pytest.mark.usefixtures("systemd")
def test_runs_of_a_warm_interpreter_are_in_groups_too(hosts: Callable[[str], Host]):
    assert python(POOLED, str(hosts("own").place.cache))[0].startswith("cgroup v2")


@pytest.mark.usefixtures("systemd")
def test_what_a_dead_server_left_in_its_scope_is_ended_by_the_next_server():
    done = subprocess.run([sys.executable, "-c", ORPHAN], cwd=ROOT, capture_output=True, text=True, check=False)
    python(SWEEP)
    state = Path(f"/proc/{done.stdout.strip()}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_scopes_of_other_servers_are_found_and_nothing_else(tmp_path: Path):
    names = ("mcp-conda-run-1-a.scope", "mcp-conda-run-2-b.scope", "other.scope", "mcp-conda-run-server")
    for name in names:
        (tmp_path / name).mkdir()
    assert scopes.others(str(tmp_path / names[0])) == [str(tmp_path / names[1])]
    assert scopes.others(str(tmp_path / "other.scope")) == []
    assert scopes.others(str(tmp_path / "gone" / names[0])) == []


def test_without_systemd_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(scopes, "RUNNING", str(tmp_path / "nothing"))
    assert scopes._manager() == []
    assert not scopes.own_scope([os.getpid()])


def test_where_memory_is_bounded_by_version_1_a_scope_would_not_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    monkeypatch.setattr(scopes, "ROOT", str(tmp_path))
    assert not scopes._bounds_can_be_had()


def test_a_systemd_that_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    monkeypatch.setattr(scopes, "ROOT", str(tmp_path))
    monkeypatch.setattr(scopes, "_manager", lambda: ["/bin/false"])
    assert not scopes.own_scope([os.getpid()])


def test_a_scope_in_which_this_process_does_not_arrive_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scopes, "TIMEOUT_S", 0.05)
    assert not scopes._arrived("mcp-conda-run-elsewhere.scope")
