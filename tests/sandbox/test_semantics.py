"""Programs behave in a sandbox as they do under `python script.py`.

Each program alone in tier A; in the other tiers all of them as children of one run. `test_zygote_semantics.py` has them
in the other ways of starting.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from .conftest import USERS, Host
from .programs import PROGRAMS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

TOGETHER = """
import json, os, subprocess, sys, tempfile
said = {}
for number, (name, text) in enumerate(PROGRAMS.items()):
    place = os.path.join(tempfile.mkdtemp(), "main.py")
    open(place, "w", encoding="utf-8").write(text)
    done = subprocess.run([sys.executable, place], capture_output=True, text=True)
    said[name] = done.stdout or done.stderr.strip().rpartition("\\n")[2]
print(json.dumps(said))
"""

NOT_IN_TIER_C = {
    **dict.fromkeys(
        (
            "multiprocessing by fork",
            "multiprocessing by spawn",
            "multiprocessing by a server of forks",
            "processes of concurrent.futures",
            "a manager of multiprocessing",
            "a lock between processes",
            "shared memory",
            "memory shared with a child",
        ),
        "locks and shared memory of processes are files in /dev/shm, which belongs to all processes of the user",
    ),
    "a server on a unix socket": "sockets with a path would reach the host's as well",
    "a pseudo-terminal": "/dev/pts belongs to all processes of the user",
}
"""What does not work without namespaces, and why; `landlocked.NOTES` says it to the user."""


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_works_in_a_sandbox(host: Host, program: str):
    answer = host.run("A", PROGRAMS[program])
    assert (answer["out"], answer["exit"]["code"]) == ("True\n", 0), answer["err"]


@pytest.fixture(scope="session")
def said(hosts: Callable[[str], Host]) -> Callable[[str, str], dict[str, str]]:
    """Return what each program printed, for a user in a tier."""
    known: dict[tuple[str, str], dict[str, str]] = {}

    def find(user: str, tier: str) -> dict[str, str]:
        if (user, tier) not in known:
            answer = hosts(user).run(tier, f"PROGRAMS = {PROGRAMS!r}\n{TOGETHER}")
            known[user, tier] = json.loads(answer["out"])
        return known[user, tier]

    return find


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", ["A prepared", "A'", "none"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_works_in_a_tier_with_less(said: Callable[[str, str], dict[str, str]], program: str, tier: str, user: str):
    assert said(user, tier)[program] == "True\n"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_works_in_tier_c_or_is_known_not_to(said: Callable[[str, str], dict[str, str]], program: str, user: str):
    assert (said(user, "C")[program] == "True\n") == (program not in NOT_IN_TIER_C)


def test_renaming_a_directory_of_the_environment_is_another_devices_affair(hosts: Callable[[str], Host]):
    """An overlay cannot rename what lies below it (EXDEV); programs copy then, as between file systems."""
    code = (
        "import os, errno\nd = os.path.dirname(os.__file__)\n"
        "try: os.rename(d + '/json', d + '/json2')\nexcept OSError as e: print(e.errno == errno.EXDEV)"
    )
    assert hosts("own").run("A", code)["out"] == "True\n"


@pytest.mark.parametrize("tier", ["A", "none"])
def test_a_file_of_two_gibibytes_can_be_made_where_the_bound_allows_it(hosts: Callable[[str], Host], tier: str):
    code = (
        "import os, tempfile\nf = tempfile.NamedTemporaryFile(); f.seek((1 << 31) + 5); f.write(b'x'); f.flush()\n"
        "f.seek(1 << 31); print(os.path.getsize(f.name) == (1 << 31) + 6 and f.read() == bytes(5) + b'x')"
    )
    assert hosts("own").run(tier, code, file_size_bytes=4 << 30)["out"] == "True\n"


def test_a_program_of_the_system_that_writes_beyond_the_bound_is_ended(hosts: Callable[[str], Host]):
    code = (
        "import signal, subprocess, tempfile\n"
        "c = ['dd', 'if=/dev/zero', 'of=' + tempfile.mktemp(), 'bs=1', 'count=1', 'seek=4096']\n"
        "print(subprocess.run(c, stderr=-3).returncode == -signal.SIGXFSZ)"
    )
    assert hosts("own").run("A", code, file_size_bytes=4096)["out"] == "True\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(3)", {"code": 3, "signal": "", "limit": ""}),
        ("import os; os._exit(7)", {"code": 7, "signal": "", "limit": ""}),
        ("import ctypes; ctypes.string_at(0)", {"code": None, "signal": "SIGSEGV", "limit": ""}),
        ("import os; os.abort()", {"code": None, "signal": "SIGABRT", "limit": ""}),
        ("import os; os.kill(os.getpid(), 15)", {"code": None, "signal": "SIGTERM", "limit": ""}),
    ],
)
def test_the_end_is_what_it_would_be_outside(host: Host, code: str, expected: dict):
    assert host.run("A", code)["exit"] == expected
