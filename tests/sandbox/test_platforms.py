"""Other platforms than Linux, as far as that can be tested on Linux: which tier, what it would start, what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_conda_run.errors import HostError
from mcp_conda_run.sandbox import choose, probe, seatbelt
from mcp_conda_run.sandbox.choose import make_tier
from mcp_conda_run.sandbox.probe import Probe
from mcp_conda_run.sandbox.seatbelt import PROGRAM, SeatbeltTier, profile
from mcp_conda_run.settings import Settings

from .conftest import Place
from .zygote_host import make_launch, run
from .zygote_server import zygote_place

posix = pytest.mark.skipif(os.name != "posix", reason="runs are not started on Windows")


@pytest.fixture(scope="session")
def place(installed: Path) -> Place:
    return zygote_place(installed, "own")


def rules(text: str) -> list[tuple[str, set[str], str]]:
    """Return the rules of a profile: allow or deny, the operations, and the filter."""
    found = re.findall(r"^\((allow|deny) ([a-z*\- ]+?)(?: \((.*)\))?\)$", text, re.MULTILINE)
    return [(verdict, set(operations.split()), filter_) for verdict, operations, filter_ in found]


def may(text: str, operation: str, path: str) -> bool:
    """Say whether a profile allows something with the content of a file; the last rule that fits counts."""
    verdict = "deny"
    for each, operations, filter_ in rules(text):
        kind, _, quoted = filter_.partition(' "')
        named = quoted.removesuffix('"')
        fits = not filter_ or (kind == "literal" and path == named)
        fits |= kind == "subpath" and (path == named or path.startswith(f"{named}/"))
        if fits and {operation, "default"} & operations:
            verdict = each
    return verdict == "allow"


TEXT = profile(read_only=["/data"], writable=["/cache/runs/1", "/mine"], ports=[4000])


def test_every_line_of_the_profile_is_a_rule():
    lines = TEXT.splitlines()
    assert lines[0] == "(version 1)"
    assert len(rules(TEXT)) == len(lines) - 1
    assert TEXT.count("(") == TEXT.count(")")


@pytest.mark.parametrize("path", ["/Users/me/.ssh/id_ed25519", "/cache/envs/2/lib", "/cache/runs/10", "/private/tmp/x"])
def test_what_is_not_named_can_be_neither_read_nor_written(path: str):
    assert not may(TEXT, "file-read*", path)
    assert not may(TEXT, "file-write*", path)


@pytest.mark.parametrize(
    ("path", "writable"), [("/cache/runs/1/lib", True), ("/mine/a", True), ("/data/a", False), ("/usr/lib/x", False)]
)
def test_what_is_named_can_be_read_and_the_runs_own_written(path: str, writable: bool):
    assert may(TEXT, "file-read*", path)
    assert may(TEXT, "file-write*", path) == writable


def test_of_the_network_one_port_of_the_proxy_is_open():
    network = [row for row in rules(TEXT) if "network" in str(row)]
    assert network == [("allow", {"network-outbound"}, 'remote ip "localhost:4000"')]
    assert "network" not in profile(read_only=[], writable=[], ports=[])


def test_a_path_cannot_end_its_string():
    text = profile(read_only=['/a") (allow default) (subpath "/'], writable=["/b\\"], ports=[])
    assert '(subpath "/a\\") (allow default) (subpath \\"/")' in text
    assert '(subpath "/b\\\\")' in text


@posix
def test_a_run_is_started_by_sandbox_exec_with_its_own_paths_open(place: Place, tmp_path: Path):
    launch = make_launch(place.cache, workspace=str(tmp_path))
    (tmp_path / "read").mkdir()
    tier = SeatbeltTier(place.cache)
    prefix = tier.cache / "runs" / launch.run_id
    order = tier._order(launch, prefix, tier.cache / "scratch" / launch.run_id, (99,))
    tier.close()
    program, option, text, python, *_ = order.argv
    assert (program, option, python) == (PROGRAM, "-p", str(prefix / launch.environment.python))
    assert may(text, "file-write*", f"{tmp_path}/x")
    assert may(text, "file-write*", f"{prefix}/x")
    assert not may(text, "file-read*", f"{place.prefix}/x")


@posix
async def test_everything_but_the_lock_itself_works(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "sandbox-exec"
    program.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(seatbelt, "PROGRAM", str(program))
    tier = SeatbeltTier(place.cache)
    launch = make_launch(place.cache, workspace=str(tmp_path), network="full")
    before = set(tier.cache.glob("runs/*"))
    _, said = await run(tier, launch, "import numpy, os\nopen('made', 'w').close()\nint(numpy.arange(4).sum())")
    tier.close()
    assert said.record is not None
    assert said.record.value is not None
    assert said.record.value.json == 6
    assert (tmp_path / "made").exists()
    assert set(tier.cache.glob("runs/*")) <= before


@posix
async def test_a_mount_above_the_cache_is_refused(place: Place):
    tier = SeatbeltTier(place.cache)
    with pytest.raises(HostError, match="environments of all runs"):
        tier.check(make_launch(place.cache, workspace=str(place.cache.parent)))
    tier.close()


def test_the_result_says_that_it_has_not_been_tried(place: Place):
    tier = SeatbeltTier(place.cache)
    isolation = tier.isolation(make_launch(place.cache))
    tier.close()
    assert isolation.tier == "seatbelt"
    assert any("not been tried on real machines" in note for note in isolation.notes)


def test_macos_gets_its_own_tier_if_the_probe_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choose, "probe", lambda _: Probe({"seatbelt": True}, {"A": "namespaces are Linux's"}))
    tier, _ = make_tier(Settings(cache_dir=tmp_path))
    tier.close()
    assert tier.name == "seatbelt"


def test_strict_isolation_does_not_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choose, "probe", lambda _: Probe({"seatbelt": True}, {"A": "namespaces are Linux's"}))
    with pytest.raises(HostError, match="Strict isolation"):
        make_tier(Settings(cache_dir=tmp_path, isolation="strict"))


@posix
@pytest.mark.skipif(os.path.exists(PROGRAM), reason="this is a Mac")
def test_without_sandbox_exec_the_probe_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe.platform, "system", lambda: "Darwin")
    found = probe.probe_now(tmp_path)
    assert found.best == "none"
    assert "sandbox-exec" in found.reasons["seatbelt"]


IMPORTS = """
import asyncio, psutil, sys, mcp_conda_run.settings
sys.platform = "darwin"
class Refuse:
    def find_spec(self, name, *rest):
        if name in {"mcp_conda_run.guest.syscalls", "mcp_conda_run.guest.landlock", "mcp_conda_run.guest.seccomp"}:
            raise ImportError(f"{name} is Linux's")
sys.meta_path.insert(0, Refuse())
import mcp_conda_run.sandbox.choose, mcp_conda_run.sandbox.spawner, mcp_conda_run.sandbox.seatbelt
"""


def test_nothing_of_linux_is_loaded_on_macos():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
