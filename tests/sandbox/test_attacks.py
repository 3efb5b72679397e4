"""Attacks on what watches and surrounds a run, more than on its walls: what is counted, cleaned up, and said."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from .conftest import Host
from .zygote_server import Server, server, servers

__all__ = ["server", "servers"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

MEBIBYTE = 1 << 20
WAYS = ("exec", "fork", "pool")
FOR_EVER = "\nimport time; time.sleep(600)"


@pytest.fixture(params=WAYS)
def how(request: pytest.FixtureRequest) -> str:
    return request.param


# --- memory that is in no process -------------------------------------------------------------------------------------

MEMFDS = """
import os
kept = []
for number in range(8):
    kept.append(os.memfd_create("hoard"))
    for _ in range(50):
        os.write(kept[-1], bytes(1 << 20))
"""

SEGMENTS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype, libc.shmat.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]
made = 0
for _ in range(4):
    segment = libc.shmget(0, SIZE, 0o1600)
    if segment >= 0:
        address = libc.shmat(segment, None, 0)
        ctypes.memset(address, 1, SIZE)
        libc.shmdt(address)
        made += 1
print(made)
"""


def test_files_in_memory_that_nobody_maps_count_as_memory(server: Server, how: str):
    answer = server.run(how, MEMFDS + FOR_EVER, memory_bytes=200 * MEBIBYTE)
    assert answer["exit"]["limit"] == "memory"


def test_files_in_memory_within_the_bound_are_left_alone(server: Server, how: str):
    assert server.run(how, MEMFDS + "print(1)", memory_bytes=800 * MEBIBYTE)["out"] == "1\n"


def test_large_segments_that_outlive_their_processes_cannot_be_made(server: Server, how: str):
    assert server.run(how, SEGMENTS.replace("SIZE", str(1 << 20)))["out"] == "0\n"


def test_small_segments_can_be_made(server: Server, how: str):
    assert server.run(how, SEGMENTS.replace("SIZE", "4096"))["out"] == "4\n"


# --- disk that no look at directories finds ---------------------------------------------------------------------------

HIDING = {
    "a file that was deleted": "f = tempfile.TemporaryFile(); f.write(bytes(20 << 20)); f.flush()",
    "a directory that may not be listed": (
        "d = tempfile.mkdtemp(); os.mkdir(d + '/dark', 0o300); open(d + '/dark/big', 'wb').write(bytes(20 << 20))"
    ),
    "a path that is too long": (
        "os.chdir(tempfile.mkdtemp())\nfor n in range(30): os.mkdir('d' * 200); os.chdir('d' * 200)\n"
        "open('big', 'wb').write(bytes(20 << 20))"
    ),
    "many files without content": (
        "d = tempfile.mkdtemp()\nfor n in range(6000): os.close(os.open(f'{d}/{n}', os.O_CREAT))"
    ),
    "many directories": "d = tempfile.mkdtemp()\nfor n in range(6000): os.mkdir(f'{d}/{n}')",
}


@pytest.mark.parametrize("tier", ["A'", "C"])
@pytest.mark.parametrize("place", HIDING)
def test_what_is_hidden_from_the_watch_over_the_disk_ends_the_run(hosts: Callable[[str], Host], place: str, tier: str):
    code = f"import os, tempfile\n{HIDING[place]}{FOR_EVER}"
    answer = hosts("unprivileged").run(tier, code, disk_bytes=5 * MEBIBYTE, memory_bytes=0)
    assert answer["exit"]["limit"] == "disk"
