"""Programs behave in a sandbox as they do under `python script.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from .conftest import Host

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

PROGRAMS = {
    "a subprocess of the same interpreter": (
        "import subprocess, sys\ncode = 'import numpy, sys; print(sys.prefix)'\n"
        "print(subprocess.check_output([sys.executable, '-c', code], text=True).strip() == sys.prefix)"
    ),
    "a program of the system": "import subprocess; print(subprocess.run(['sh', '-c', 'exit 7']).returncode == 7)",
    "multiprocessing by fork": (
        "import multiprocessing as mp\ndef f(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "  with mp.get_context('fork').Pool(2) as p: print(p.map(f, range(4)) == [0, 1, 4, 9])"
    ),
    "multiprocessing by spawn": (
        "import multiprocessing as mp\ndef f(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "  with mp.get_context('spawn').Pool(2) as p: print(p.map(f, range(4)) == [0, 1, 4, 9])"
    ),
    "a manager of multiprocessing": (
        "import multiprocessing as mp\n"
        "if __name__ == '__main__':\n"
        "  with mp.Manager() as m: d = m.dict(); d['a'] = 1; print(dict(d) == {'a': 1})"
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor as T\nwith T(8) as e: print(sum(e.map(int, range(9))) == 36)"
    ),
    "asyncio with a subprocess": (
        "import asyncio, sys\nasync def main():\n"
        "  p = await asyncio.create_subprocess_exec(sys.executable, '-c', 'print(5)', stdout=-1)\n"
        "  return (await p.communicate())[0]\nprint(asyncio.run(main()) == b'5\\n')"
    ),
    "sqlite": (
        "import sqlite3, tempfile\nc = sqlite3.connect(tempfile.mktemp())\nc.execute('create table a(b)')\n"
        "c.execute('insert into a values (3)'); c.commit(); print(c.execute('select b from a').fetchall() == [(3,)])"
    ),
    "shared memory": (
        "from multiprocessing import shared_memory as s\nm = s.SharedMemory(create=True, size=1 << 20)\nm.buf[5] = 7\n"
        "n = s.SharedMemory(m.name); print(n.buf[5] == 7); n.close(); m.close(); m.unlink()"
    ),
    "a lock between processes": (
        "import multiprocessing as mp\nif __name__ == '__main__':\n  l = mp.get_context('fork').Lock()\n"
        "  with l: print(True)"
    ),
    "who one is": (
        "import getpass, os, pwd\nprint((getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name, os.path.expanduser('~'))"
        " == ('user', 'user', '/home/user'))"
    ),
    "locale": ("import sys\nprint((sys.stdout.encoding, sys.getfilesystemencoding()) == ('utf-8', 'utf-8'))"),
    "time zones": (
        "import zoneinfo, datetime as d\nberlin = zoneinfo.ZoneInfo('Europe/Berlin')\n"
        "print(d.datetime(2026, 7, 1, tzinfo=berlin).utcoffset() == d.timedelta(hours=2))"
    ),
    "names beyond ASCII": (
        "name = '/tmp/\\u00fc\\u6f22'\nopen(name, 'w').write('\\u00df'); print(open(name).read() == '\\u00df')"
    ),
    "a large sparse file": (
        "f = open('/tmp/big', 'wb'); f.seek((1 << 29) - 1); f.write(b'x'); f.close()\n"
        "import os; print(os.path.getsize('/tmp/big') == 1 << 29)"
    ),
    "symbolic links": "import os; os.symlink('/usr', '/tmp/l'); print(os.path.realpath('/tmp/l') == '/usr')",
    "file locks": "import fcntl; f = open('/tmp/x', 'w'); fcntl.flock(f, 2); fcntl.lockf(f, 2); print(True)",
    "a pseudo-terminal": (
        "import pty, os\npid, fd = pty.fork()\nif pid == 0: os.write(1, b'hi'); os._exit(0)\n"
        "print(b'hi' in os.read(fd, 100)); os.waitpid(pid, 0)"
    ),
    "the number of processors": "import os; print(os.cpu_count() >= len(os.sched_getaffinity(0)) >= 1)",
    "moving a directory of the prefix": (
        "import shutil, sys, os\nd = os.path.dirname(os.__file__)\nshutil.move(d + '/json', d + '/json2')\n"
        "print(os.path.isdir(d + '/json2') and not os.path.exists(d + '/json'))"
    ),
    "own directories in the prefix can be renamed": (
        "import sys, os\nos.mkdir(sys.prefix + '/a'); os.rename(sys.prefix + '/a', sys.prefix + '/b')\n"
        "print(os.path.isdir(sys.prefix + '/b'))"
    ),
    "hard links": (
        "import os\nopen('/tmp/a', 'w').close(); os.link('/tmp/a', '/tmp/b'); print(os.stat('/tmp/b').st_nlink == 2)"
    ),
    "randomness": "import secrets, uuid, os; print(len({uuid.uuid4(), uuid.uuid4()}) == 2 and len(os.urandom(8)) == 8)",
    "name of the interpreter": "import sys; print(sys.executable.startswith(sys.prefix) and not sys.flags.isolated)",
    "memory maps": "import mmap; m = mmap.mmap(-1, 1 << 20); m[0] = 1; print(m[0] == 1)",
    "signals to oneself": (
        "import os, signal\nseen = []\nsignal.signal(signal.SIGUSR1, lambda *a: seen.append(1))\n"
        "os.kill(os.getpid(), signal.SIGUSR1); print(seen == [1])"
    ),
    "parallel linear algebra": "import numpy as n; a = n.ones((300, 300)); print(float((a @ a).sum()) == 300.0 ** 3)",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_works_in_a_sandbox(host: Host, program: str):
    answer = host.run("A", PROGRAMS[program])
    assert (answer["out"], answer["exit"]["code"]) == ("True\n", 0), answer["err"]


def test_renaming_a_directory_of_the_environment_is_another_devices_affair(hosts: Callable[[str], Host]):
    """An overlay cannot rename what lies below it (EXDEV); programs copy then, as between file systems."""
    code = (
        "import os, errno\nd = os.path.dirname(os.__file__)\n"
        "try: os.rename(d + '/json', d + '/json2')\nexcept OSError as e: print(e.errno == errno.EXDEV)"
    )
    assert hosts("own").run("A", code)["out"] == "True\n"


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
