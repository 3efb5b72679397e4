"""Attacks on what watches and surrounds a run, more than on its walls: what is counted, cleaned up, and said."""

from __future__ import annotations

import json
import resource
import sys
import time
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


# --- what one run can take from others --------------------------------------------------------------------------------

FLOOD = """
import os, socket, time
pairs, sent = [], 0
try:
    while sent < 3000:
        pairs.append(socket.socketpair())
        socket.send_fds(pairs[-1][0], [b"x"], [pairs[-1][0].fileno()] * 200)
        sent += 200
except OSError:
    pass
open("/working/flooded", "w").close()
while os.path.exists("/working/flooded"):
    time.sleep(0.01)
print(sent)
"""


def test_descriptors_on_their_way_do_not_keep_the_server_from_starting_runs(
    hosts: Callable[[str], Host], servers: Callable[[str], Server]
):
    """The kernel counts them for all processes of a user, and a user's runs are that user."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("this machine allows the server no more descriptors than its runs")
    host, other = hosts("unprivileged"), servers("unprivileged")
    flooded = host.place.workspace / "flooded"
    flooded.unlink(missing_ok=True)
    try:
        host._send(tier="A", code=FLOOD, workspace=str(host.place.workspace))
        while not flooded.exists():
            time.sleep(0.01)
        assert other.run("exec", "print(6 * 7)")["out"] == "42\n"
    finally:
        flooded.unlink(missing_ok=True)
        assert host._process.stdout is not None
        said = json.loads(host._process.stdout.readline())
    assert int(said["out"]) > 1000  # the flood was one


# --- the channels, and the end ----------------------------------------------------------------------------------------

TALK = "import os, struct, json\ndef say(body): os.write(3, struct.pack('>Q', len(body)) + body)\n"
TALKING = {
    "a length beyond all bounds": "os.write(3, b'\\xff' * 8)",
    "a length without a message": "os.write(3, struct.pack('>Q', 1000))",
    "lists in lists": "say(b'[' * 100_000)",
    "a number of a hundred thousand digits": "say(b'9' * 100_000)",
    "no text": "say(bytes(range(256)))",
    "a record of the wrong shape": "say(json.dumps({'value': [], 'error': {}, 'exit_code': 'x'}).encode())",
    "many small records": (
        "os.set_blocking(3, False)\ntry:\n  for _ in range(1_000_000): say(b'{}')\nexcept BlockingIOError: pass"
    ),
    "nothing, the channel being closed": "os.close(3)",
    "nothing, all descriptors being closed": "os.closerange(0, 1024)",
    "somebody else's descriptors": "import socket; socket.send_fds(socket.socket(fileno=os.dup(3)), [b'x'], [0] * 200)",
}


@pytest.mark.parametrize("said", TALKING)
@pytest.mark.parametrize("way", ["exec", "pool"])
def test_whatever_is_said_on_the_channel_the_run_ends_and_the_next_one_works(
    servers: Callable[[str], Server], way: str, said: str
):
    server = servers("own")
    answer = server.run(way, f"{TALK}{TALKING[said]}\n7", wall_s=20)
    assert answer["value"] is None
    assert answer["exit"]["signal"] == ""
    assert server.run(way, "6 * 7")["value"] == "42"


RESTING = {
    "an exit function that never returns": "import atexit, time; atexit.register(time.sleep, 600)",
    "a thread that never ends": "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()",
    "stopping itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "stopping what reaps it": (
        "import os, signal, time\ntry: os.kill(1, signal.SIGSTOP)\nexcept OSError: pass\ntime.sleep(600)"
    ),
    "stopping everything": ("import os, signal, time\nif os.fork() == 0: os.kill(-1, signal.SIGSTOP)\ntime.sleep(600)"),
    "zombies": "import os, time\nfor _ in range(40):\n  if os.fork() == 0: os._exit(0)\ntime.sleep(600)",
    "a debugger of its own children": (
        "import ctypes, os, time\npid = os.fork()\nif pid == 0: time.sleep(600)\n"
        "ctypes.CDLL(None).ptrace(16, pid, 0, 0); time.sleep(600)"
    ),
}


@pytest.mark.parametrize("rest", RESTING)
@pytest.mark.parametrize("way", ["exec", "pool"])
def test_a_run_that_does_not_come_to_its_end_is_ended(servers: Callable[[str], Server], way: str, rest: str):
    server = servers("own")
    answer = server.run(way, RESTING[rest], wall_s=1.0)
    assert (answer["exit"]["signal"], answer["timed_out"]) == ("SIGKILL", True)
    assert server.run(way, "6 * 7")["value"] == "42"


def test_no_core_is_dumped_and_no_program_of_the_host_is_started_for_one(server: Server, how: str):
    """With 0 the kernel would still start the host's program (core(5))."""
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    assert server.run(how, code)["out"] == "(1, 1)\n"
