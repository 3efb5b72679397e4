"""What programs do in any sandbox and expect to work: each prints `True` if it was as under `python script.py`.

The same programs are run in each tier (`test_semantics.py`) and in each way of starting (`test_zygote_semantics.py`).
"""

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
        "import getpass, os\nprint((getpass.getuser(), os.path.expanduser('~')) == ('user', os.environ['HOME']))"
    ),
    "locale": ("import sys\nprint((sys.stdout.encoding, sys.getfilesystemencoding()) == ('utf-8', 'utf-8'))"),
    "time zones": (
        "import zoneinfo, datetime as d\nberlin = zoneinfo.ZoneInfo('Europe/Berlin')\n"
        "print(d.datetime(2026, 7, 1, tzinfo=berlin).utcoffset() == d.timedelta(hours=2))"
    ),
    "names beyond ASCII": (
        "import tempfile; name = tempfile.gettempdir() + '/\\u00fc\\u6f22'\n"
        "open(name, 'w').write('\\u00df'); print(open(name).read() == '\\u00df')"
    ),
    "a large sparse file": (
        "import os, tempfile\nf = tempfile.NamedTemporaryFile(); f.seek((1 << 29) - 1); f.write(b'x'); f.flush()\n"
        "print(os.path.getsize(f.name) == 1 << 29)"
    ),
    "symbolic links": (
        "import os, tempfile; l = tempfile.mktemp(); os.symlink('/usr', l); print(os.path.realpath(l) == '/usr')"
    ),
    "file locks": (
        "import fcntl, tempfile; f = tempfile.TemporaryFile(); fcntl.flock(f, 2); fcntl.lockf(f, 2); print(True)"
    ),
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
        "import os, tempfile\nd = tempfile.mkdtemp(); open(d + '/a', 'w').close(); os.link(d + '/a', d + '/b')\n"
        "print(os.stat(d + '/b').st_nlink == 2)"
    ),
    "randomness": "import secrets, uuid, os; print(len({uuid.uuid4(), uuid.uuid4()}) == 2 and len(os.urandom(8)) == 8)",
    "name of the interpreter": "import sys; print(sys.executable.startswith(sys.prefix) and not sys.flags.isolated)",
    "memory maps": "import mmap; m = mmap.mmap(-1, 1 << 20); m[0] = 1; print(m[0] == 1)",
    "signals to oneself": (
        "import os, signal\nseen = []\nsignal.signal(signal.SIGUSR1, lambda *a: seen.append(1))\n"
        "os.kill(os.getpid(), signal.SIGUSR1); print(seen == [1])"
    ),
    "parallel linear algebra": "import numpy as n; a = n.ones((300, 300)); print(float((a @ a).sum()) == 300.0 ** 3)",
    "multiprocessing by a server of forks": (
        "import multiprocessing as mp\ndef f(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "  with mp.get_context('forkserver').Pool(2) as p: print(p.map(f, range(4)) == [0, 1, 4, 9])"
    ),
    "a spawned process without a lock": (
        "import multiprocessing as mp, sys\n"
        "if __name__ == '__main__':\n"
        "  p = mp.get_context('spawn').Process(target=sys.exit, args=(5,)); p.start(); p.join(); print(p.exitcode == 5)"
    ),
    "processes of concurrent.futures": (
        "from concurrent.futures import ProcessPoolExecutor as P\nimport multiprocessing as mp\n"
        "if __name__ == '__main__':\n"
        "  with P(2, mp.get_context('fork')) as e: print(list(e.map(abs, [-1, -2])) == [1, 2])"
    ),
    "memory shared with a child": (
        "import multiprocessing as mp\nfrom multiprocessing import shared_memory as s\n"
        "m = s.SharedMemory(create=True, size=4096)\n"
        "def f(name):\n  n = s.SharedMemory(name); n.buf[0] = 9; n.close()\n"
        "p = mp.get_context('fork').Process(target=f, args=(m.name,)); p.start(); p.join()\n"
        "print(m.buf[0] == 9); m.close(); m.unlink()"
    ),
    "sqlite with a log ahead, from two connections": (
        "import sqlite3, tempfile\nn = tempfile.mkdtemp() + '/a.db'; a = sqlite3.connect(n); b = sqlite3.connect(n)\n"
        "mode = a.execute('pragma journal_mode=wal').fetchone()[0]; a.execute('create table t(x)')\n"
        "a.execute('insert into t values (1)'); a.commit(); rows = b.execute('select x from t').fetchall()\n"
        "a.execute('insert into t values (2)'); print((mode, rows, b.execute('select x from t').fetchall())"
        " == ('wal', [(1,)], [(1,)]))"
    ),
    "a shell from asyncio": (
        "import asyncio\nasync def main():\n"
        "  p = await asyncio.create_subprocess_shell('cat; exit 3', stdin=-1, stdout=-1)\n"
        "  return (await p.communicate(b'in'))[0], p.returncode\nprint(asyncio.run(main()) == (b'in', 3))"
    ),
    "a server on a unix socket": (
        "import asyncio, tempfile\nasync def main():\n"
        "  n = tempfile.mkdtemp() + '/s'\n"
        "  async def serve(r, w): w.write(await r.readline()); w.close()\n"
        "  await asyncio.start_unix_server(serve, n); r, w = await asyncio.open_unix_connection(n)\n"
        "  w.write(b'a\\n'); line = await r.readline(); w.close(); return line\nprint(asyncio.run(main()) == b'a\\n')"
    ),
    "the locale from the environment": (
        "import locale\nprint(locale.setlocale(locale.LC_ALL, '') == 'C.UTF-8'"
        " and locale.getpreferredencoding() == 'UTF-8')"
    ),
    "output beyond ASCII, from a program as well": (
        "import subprocess, sys\nc = 'print(chr(0xfc) + chr(0x6f22))'\n"
        "print(subprocess.check_output([sys.executable, '-c', c]).decode() == '\\u00fc\\u6f22\\n')"
    ),
    "names beyond ASCII in listings, and undecodable ones": (
        "import os, tempfile\nd = tempfile.mkdtemp(); open(d + '/\\u00fc', 'w')\n"
        "open(os.fsencode(d) + b'/\\xff', 'w')\n"
        "print(sorted(os.listdir(d)) == ['\\u00fc', '\\udcff'])"
    ),
    "a time zone by its variable": (
        "import os, time\nos.environ['TZ'] = 'Asia/Tokyo'; time.tzset(); print(time.localtime(0).tm_hour == 9)"
    ),
    "a file beyond the bound": (
        "import errno, os, tempfile\nf = tempfile.TemporaryFile()\n"
        "try: os.ftruncate(f.fileno(), (1 << 30) + 1)\n"
        "except OSError as e: print(e.errno == errno.EFBIG)"
    ),
    "renaming a directory of the prefix to another name of its own": (
        "import os, sys\nd = os.path.dirname(os.__file__)\n"
        "try: os.rename(d + '/wsgiref', d + '/other'); print(os.path.isdir(d + '/other'))\n"
        "except OSError as e: import errno; print(e.errno == errno.EXDEV)"
    ),
    "a link in the prefix to a file of the prefix": (
        "import os, sys\nl = sys.prefix + '/link'; os.symlink(os.__file__, l)\n"
        "print(os.path.realpath(l) == os.path.realpath(os.__file__) and open(l).read() == open(os.__file__).read())"
    ),
    "caches of packages have a place": (
        "import os\nhome = os.environ['HOME']\n"
        "places = [os.environ[n] for n in ('XDG_CACHE_HOME', 'NUMBA_CACHE_DIR')]\n"
        "for p in places: os.makedirs(p, exist_ok=True); open(p + '/x', 'w').close()\n"
        "print(all(p.startswith(home + '/') for p in places))"
    ),
    "fontconfig finds a place for its cache": (
        "import shutil, subprocess\n"
        "p = subprocess.run(['fc-list'], capture_output=True, text=True) if shutil.which('fc-list') else None\n"
        "print(p is None or p.returncode == 0 and p.stderr == '')"
    ),
    "a file in memory": "import os; d = os.memfd_create('x'); os.write(d, b'ab'); print(os.pread(d, 2, 0) == b'ab')",
    "timers and alarms": (
        "import signal, time\nseen = []\nsignal.signal(signal.SIGALRM, lambda *a: seen.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, .01)\nwhile not seen: time.sleep(.01)\nprint(seen == [1])"
    ),
}
