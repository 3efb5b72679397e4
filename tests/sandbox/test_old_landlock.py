"""Tier C on kernels whose Landlock does not know yet what newer ones do; here a newer one is told not to know it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mcp_conda_run.guest import landlock
from mcp_conda_run.sandbox import landlocked

from .conftest import ROOT, Host

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not landlock.version(), reason="this kernel has no Landlock, or it is not switched on"
)

LOCKED = """
import ctypes, os, struct, sys
from mcp_conda_run.guest import landlock
version, victim, inside, filtered = int(sys.argv[1]), *sys.argv[2:5]
landlock.version = lambda known=landlock.version(): min(version, known)
from mcp_conda_run.guest import seccomp
from mcp_conda_run.sandbox import fencing
from mcp_conda_run.sandbox.order import Fence
if not filtered:
    fencing.OFFLINE = seccomp.filter_program(families=(), freeze_metadata=True)
libc = ctypes.CDLL(None, use_errno=True)
fencing.lock_in(Fence(read_only=[victim, "/usr", "/lib", "/lib64"], writable=[inside], devices=[]))
def openat2():
    how = struct.pack("QQQ", os.O_RDONLY | os.O_TRUNC, 0, 0)
    if libc.syscall(437, -100, victim.encode(), how, len(how)) < 0:
        raise OSError(ctypes.get_errno(), "openat2")
ATTEMPTS = {
    "truncate": lambda: os.truncate(victim, 0),
    "open for reading": lambda: os.open(victim, os.O_RDONLY | os.O_TRUNC),
    "open for neither": lambda: os.open(victim, os.O_ACCMODE | os.O_TRUNC),
    "openat2": openat2,
    "open for writing": lambda: os.open(victim, os.O_WRONLY | os.O_TRUNC),
}
try:
    ATTEMPTS[sys.argv[5]]()
except OSError:
    pass
with open(inside + "/own", "w") as file:
    file.write("x" * 10)
with open(inside + "/own", "r+") as file:
    file.truncate(5)
print(os.path.getsize(inside + "/own"))
"""


def attempt(place: Path, name: str, version: int, *, filtered: bool) -> str:
    """Return what is left of somebody else's file after an attempt to empty it."""
    victim, inside = place / "victim", place / "inside"
    victim.write_text("all of it")
    inside.mkdir()
    arguments = [str(version), str(victim), str(inside), "yes" if filtered else "", name]
    done = subprocess.run(
        [sys.executable, "-c", LOCKED, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "5\n"
    return victim.read_text()


BY_READERS = ["truncate", "open for reading", "open for neither", "openat2"]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", [*BY_READERS, "open for writing"])
def test_a_file_that_may_only_be_read_cannot_be_emptied(tmp_path: Path, name: str, version: int):
    assert attempt(tmp_path, name, version, filtered=True) == "all of it"


@pytest.mark.parametrize("name", BY_READERS)
def test_it_is_the_filter_that_holds_it(tmp_path: Path, name: str):
    assert attempt(tmp_path, name, 2, filtered=False) == ""


@pytest.mark.skipif(landlock.version() < landlock.TRUNCATION, reason="this kernel's Landlock is too old")
def test_newer_kernels_hold_it_themselves(tmp_path: Path):
    assert attempt(tmp_path, "truncate", landlock.version(), filtered=False) == "all of it"


def test_what_a_kernel_does_not_know_is_said(host: Host):
    notes = host.run("C", "pass")["isolation"]["notes"]
    known = {
        landlock.LINKS: landlocked.NO_LINKS,
        landlock.TRUNCATION: landlocked.NO_TRUNCATION,
        landlock.SCOPES: landlocked.NO_SCOPES,
    }
    assert {note for note in known.values() if note in notes} == {
        note for version, note in known.items() if landlock.version() < version
    }
