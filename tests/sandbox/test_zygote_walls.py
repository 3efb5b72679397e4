"""Runs that come from a zygote are behind the same walls as those that are executed; and so is the zygote itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from .conftest import USERS
from .test_escape import ALLOWED, ATTEMPTS, WALLS, make_targets
from .test_tiers import contents
from .test_walls import FILL, FORKS
from .zygote_server import Server, replace_file, server, servers

__all__ = ["server", "servers"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

MEBIBYTE = 1 << 20
FORKED = ("fork", "pool")


@pytest.fixture(params=FORKED)
def how(request: pytest.FixtureRequest) -> str:
    return request.param


def number(answer: dict[str, Any]) -> int:
    assert answer["exit"]["code"] == 0, answer["err"] or answer["failure"]
    return int(answer["out"])


@pytest.fixture(scope="session")
def results(servers: Callable[[str], Server]) -> Callable[[str, str], dict[str, Any]]:
    """Return what all attempts to escape came to, for a user and a way of starting; each is run once."""
    known: dict[tuple[str, str], dict[str, Any]] = {}

    def find(user: str, how: str) -> dict[str, Any]:
        if (user, how) not in known:
            known[user, how] = attempt(servers(user), how)
        return known[user, how]

    return find


def attempt(server: Server, how: str) -> dict[str, Any]:
    with ExitStack() as stack:
        targets = make_targets(server, stack) | {"attempts": [*WALLS, *ALLOWED]}
        code = f"TARGETS = {targets!r}\n" + ATTEMPTS.replace('TARGETS: dict = globals().get("TARGETS", {})', "")
        answer = server.run(how, code, workspace=str(server.place.workspace))
        assert answer["exit"]["code"] == 0, answer["failure"]
        return json.loads(answer["out"])


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", WALLS)
def test_the_attempt_fails(results: Callable[[str, str], dict[str, Any]], name: str, how: str, user: str):
    assert results(user, how)[name] in WALLS[name].answers


@pytest.mark.parametrize("user", USERS)
def test_what_a_run_is_meant_to_do_works(results: Callable[[str, str], dict[str, Any]], how: str, user: str):
    assert results(user, how)["talk_to_oneself_over_loopback"] == "got"


def test_a_run_sees_the_same_root_as_an_executed_one(server: Server, how: str):
    code = (
        "import os\nfor place in ('/', '/run', '/dev', '/dev/pts', '/etc', '/home', '/var', '/var/tmp', '/sys'):\n"
        "    print(place, sorted(os.listdir(place)))"
    )
    assert server.run(how, code)["out"] == server.run("exec", code)["out"]


def test_the_zygotes_hidden_directory_is_gone_for_runs(server: Server, how: str):
    code = "print(any('.zygote' in line.split()[4] for line in open('/proc/self/mountinfo')))"
    assert server.run(how, code, workspace=str(server.place.workspace))["out"] == "False\n"


def test_a_run_gets_no_more_processes_than_its_bound(server: Server, how: str):
    assert number(server.run(how, FORKS, processes=64)) < 64


@pytest.mark.parametrize("where", ["'/tmp/big'", "'/dev/shm/big'", "__import__('sys').prefix + '/big'"])
def test_what_a_run_writes_is_bounded_by_one_size(server: Server, how: str, where: str):
    code = FILL.replace("PLACE", where)
    assert 50 < number(server.run(how, code, disk_bytes=64 * MEBIBYTE)) <= 64


def test_memory_is_bounded(server: Server, how: str):
    code = "import time\nkept = [bytearray(b'x' * (1 << 20)) for _ in range(400)]\ntime.sleep(60)"
    answer = server.run(how, code, memory_bytes=200 * MEBIBYTE)
    assert answer["exit"] == {"code": None, "signal": "SIGKILL", "limit": "memory"}


def test_cpu_time_is_bounded_over_all_processes(server: Server, how: str):
    code = "import os\nos.fork()\nwhile True: pass"
    assert server.run(how, code, cpu_s=1)["exit"]["limit"] == "cpu"


def test_the_environment_survives_the_removal_of_everything(server: Server, how: str):
    before = contents(server.place.prefix)
    code = "import shutil, sys, os; p = sys.prefix; shutil.rmtree(p, True); print(os.path.exists(p + '/lib'))"
    assert server.run(how, code)["out"] == "False\n"
    assert contents(server.place.prefix) == before


def test_what_a_run_writes_to_the_mount_belongs_to_the_server(server: Server, how: str):
    workspace = server.place.workspace
    answer = server.run(how, "open('made.txt', 'w').write('hello')", workspace=str(workspace))
    assert answer["failure"] is None
    made = workspace / "made.txt"
    assert (made.read_text(), made.stat().st_uid) == ("hello", workspace.stat().st_uid)
    made.unlink()


def test_the_next_run_sees_nothing_of_the_last(server: Server, how: str):
    code = "import sys, os\nfound = os.path.exists(sys.prefix + '/left'), os.path.exists('/tmp/left')\n"
    server.run(how, "import sys; open(sys.prefix + '/left', 'w'); open('/tmp/left', 'w')")
    assert server.run(how, code + "print(found)")["out"] == "(False, False)\n"


# --- the zygote itself ------------------------------------------------------------------------------------------------

NOSY = """
import json, os, socket
def outcome(function):
    try:
        return function()
    except OSError as error:
        return type(error).__name__
SEEN = {
    "home": outcome(lambda: os.listdir("/root")),
    "root": sorted(os.listdir("/")),
    "pids": sorted(name for name in os.listdir("/proc") if name.isdigit()),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "network": outcome(lambda: socket.create_connection(("192.0.2.1", 80), timeout=1) and "connected"),
    "usr": outcome(lambda: open("/usr/made", "w") and "written"),
    "prefix": outcome(lambda: open(os.environ["CONDA_PREFIX"] + "/made", "w") and "written"),
    "socket": outcome(lambda: socket.socket(40, socket.SOCK_STREAM) and "made"),
    "uid": os.getuid(),
    "arguments": open("/proc/1/cmdline").read(),
}
"""


@pytest.fixture
def nosy(server: Server) -> Any:
    """Have a package in the environment that looks around when it is imported, in the place of numpy."""
    package = next(server.place.prefix.glob("lib/python3*/site-packages/numpy/__init__.py"))
    text = package.read_text()
    own = Server(server.user, server.place)
    replace_file(package, NOSY + text)
    yield own
    replace_file(package, text)
    own.close()


def test_a_package_sees_nothing_of_the_host_when_it_is_preloaded(nosy: Server):
    code = "import numpy; print(__import__('json').dumps(numpy.SEEN))"
    seen = json.loads(nosy.run("pool", code, imports=["numpy"])["out"])
    assert seen["home"] == "FileNotFoundError"
    assert seen["pids"] == ["1"]
    assert seen["interfaces"] == ["lo"]
    assert seen["network"] == "OSError"
    assert seen["usr"] == seen["prefix"] == "OSError"
    assert seen["socket"] == "OSError"
    assert seen["uid"] != 0
    assert "zygote.py" in seen["arguments"]
