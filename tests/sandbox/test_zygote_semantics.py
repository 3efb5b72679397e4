"""A program cannot tell how its process was started: the same programs, in all three ways, say the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from .programs import PROGRAMS as WORKING
from .zygote_server import Server, server, servers

__all__ = ["server", "servers"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

# Each prints or returns something; what may differ from run to run is left out by the program itself.
PROGRAMS = {
    "value": "1 + 1",
    "streams": "import sys; print('out'); print('err', file=sys.stderr)\n"
    "[s.encoding for s in (sys.stdout, sys.stderr)]",
    "buffering": "import sys; [(s.line_buffering, s.isatty(), s.seekable()) for s in (sys.stdin, sys.stdout)]",
    "stdin": "import sys; sys.stdin.read()",
    "traceback": "def f():\n    1 / 0\nf()",
    "syntax_error": "x = = 1",
    "exit_code": "import sys; sys.exit(3)",
    "exit_text": "import sys; sys.exit('no')",
    "os_exit": "import os; print('x', flush=True); os._exit(7)",
    "abort": "import os; os.abort()",
    "terminate": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)",
    "broken_pipe": "import os; r, w = os.pipe(); os.close(r); os.write(w, b'x')",
    "atexit": "import atexit; atexit.register(lambda: print('bye')); 1 / 0",
    "threads": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.1), print('late'))).start()\n"
    "print('end', threading.active_count(), threading.current_thread() is threading.main_thread())",
    "executor": "from concurrent.futures import ThreadPoolExecutor as T\n"
    "with T(8) as e: print(sum(e.map(int, range(99))))",
    "asyncio": "import asyncio\nasync def f():\n    await asyncio.sleep(.01)\n    return 5\nasyncio.run(f())",
    "await": "import asyncio\nawait asyncio.sleep(0, 7)",
    "main": "import sys, __main__; (__name__, __file__, sys.argv, __main__.__file__, '__spec__' in globals())",
    "arguments": "import sys; (sys.orig_argv[1:], sys.flags, sys.executable, sys.path)",
    "environment": "import os; sorted((k, v) for k, v in os.environ.items() if k != 'MCP_CONDA_RUN_ID')",
    "c_environment": "import ctypes, os; l = ctypes.CDLL(None); l.getenv.restype = ctypes.c_char_p\n"
    "[l.getenv(k) for k in (b'HOME', b'OMP_NUM_THREADS', b'OPENBLAS_NUM_THREADS')]",
    "directory": "import os; (os.getcwd(), os.listdir('.'), oct(os.umask(0)))",
    "ids": "import os\n"
    "(os.getpid(), os.getppid(), os.getuid(), os.getgid(), os.getgroups(), os.getsid(0) == os.getpid())",
    "user": "import getpass, os, pwd, socket; (getpass.getuser(), os.path.expanduser('~'), socket.gethostname())",
    "descriptors": "import os; sorted(n for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n))",
    "limits": "import resource as r; [(n, r.getrlimit(getattr(r, n))) for n in dir(r) if n.startswith('RLIMIT_')]",
    "signals": "import signal; [(s.name, str(signal.getsignal(s))) for s in signal.Signals if s.name != 'SIGKILL']",
    "blocked_signals": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [])",
    "process_state": "rows = dict(l.split(':', 1) for l in open('/proc/self/status') if ':' in l)\n"
    "[(k, rows[k].strip()) for k in ('SigIgn', 'SigCgt', 'NoNewPrivs', 'Seccomp', 'CapEff', 'CapBnd', 'CapAmb')]",
    "out_of_memory": "[l for l in open('/proc/self/oom_score_adj')]",
    "capabilities_of_children": "import subprocess; subprocess.run(['grep', 'Cap', '/proc/self/status'], "
    "capture_output=True, text=True).stdout",
    "subprocess": "import subprocess, sys; c = 'import numpy, sys; print(sys.prefix, len(sys.argv), sys.flags)'\n"
    "subprocess.run([sys.executable, '-c', c], capture_output=True, text=True)",
    "process_list": "import os; sorted(n for n in os.listdir('/proc') if n.isdigit())",
    "fork_pool": "import multiprocessing as m\ndef f(x): return x * x\nif __name__ == '__main__':\n"
    "  with m.get_context('fork').Pool(2) as p: print(p.map(f, range(5)))",
    "spawn_pool": "import multiprocessing as m\ndef f(x): return x * x\nif __name__ == '__main__':\n"
    "  with m.get_context('spawn').Pool(2) as p: print(p.map(f, range(5)))",
    "shared_memory": "from multiprocessing import shared_memory as s\nm = s.SharedMemory(create=True, size=1 << 20)\n"
    "print(m.size); m.close(); m.unlink()",
    "sqlite": "import sqlite3, tempfile\nf = tempfile.NamedTemporaryFile(); c = sqlite3.connect(f.name)\n"
    "c.execute('create table a(b)'); c.commit(); f.name.startswith('/tmp/')",
    "pickle": "import pickle\nclass A: pass\npickle.loads(pickle.dumps(A())).__class__",
    "source": "import inspect\ndef f(): return 1\ninspect.getsource(f)",
    "frames": "import inspect; [(f.function, f.filename) for f in inspect.stack()][1:2], len(inspect.stack())",
    "recursion": "import sys\ndef f(n):\n    try: return f(n + 1)\n    except RecursionError: return n\n"
    "sys.getrecursionlimit(), f(0)",
    "clocks": "import time, datetime; (time.tzname, time.process_time() < 5, str(datetime.datetime.now().tzinfo))",
    "locale": "import locale; (locale.getlocale(), locale.getpreferredencoding())",
    "warnings": "import warnings; warnings.warn('old', DeprecationWarning); [str(f) for f in warnings.filters]",
    "garbage": "import gc; (gc.isenabled(), gc.get_threshold())",
    "terminal": "import os, pty; m, s = os.openpty(); os.ttyname(s)",
    "open_file": "f = open('/tmp/x', 'w'); f.write('y'); print(open('/proc/self/mounts').read().count('overlay'))",
    "new_module": "import sys, os; p = sys.prefix + '/lib/python%d.%d/site-packages/fresh.py' % sys.version_info[:2]\n"
    "open(p, 'w').write('x = 1'); import fresh; fresh.x",
    "numpy": "import numpy as np; (int(np.arange(10).sum()), np.geterr(), str(np.get_printoptions()))",
    "logging": "import logging; (logging.getLogger().handlers, logging.getLogger().level)",
    "interfaces": "import socket; socket.if_nameindex()",
    "no_file_size": "open('/tmp/f', 'wb').truncate(1 << 40)",
    "dumpable": "import os; (os.stat('/proc/self/fd').st_uid, os.access('/proc/self/mem', os.R_OK))",
}


def outcome(server: Server, how: str, program: str) -> dict[str, Any]:
    imports = ["numpy"] if program == "numpy" else []
    answer = server.run(how, PROGRAMS[program], workspace=str(server.place.workspace), imports=imports)
    return {**answer, "how": ""}


@pytest.fixture(scope="session")
def executed() -> Callable[[Server, str], dict[str, Any]]:
    """Return what comes of a program in a fresh interpreter."""
    known: dict[tuple[str, str], dict[str, Any]] = {}

    def find(server: Server, program: str) -> dict[str, Any]:
        if (server.user, program) not in known:
            known[server.user, program] = outcome(server, "exec", program)
        return known[server.user, program]

    return find


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("how", ["fork", "pool"])
def test_a_program_does_the_same_as_in_a_fresh_interpreter(server: Server, executed, how: str, program: str):
    assert outcome(server, how, program) == executed(server, program)


@pytest.mark.parametrize("program", WORKING)
@pytest.mark.parametrize("how", ["fork", "pool"])
def test_what_works_in_a_fresh_interpreter_works_in_a_forked_one(server: Server, how: str, program: str):
    answer = server.run(how, WORKING[program], workspace=str(server.place.workspace))
    assert (answer["out"], answer["exit"]["code"]) == ("True\n", 0), answer["failure"] or answer["err"]


RANDOM = {
    "random": "import random; random.random()",
    "numpy": "import numpy; float(numpy.random.rand())",
    "numpy_generator": "import numpy; float(numpy.random.default_rng().random())",
    "uuid4": "import uuid; str(uuid.uuid4())",
    "uuid1": "import uuid; str(uuid.uuid1())",
    "secrets": "import secrets; secrets.token_hex()",
    "urandom": "import os; os.urandom(8).hex()",
    "openssl": "import ssl; ssl.RAND_bytes(8).hex()",
    "tempfile": "import tempfile; tempfile.mktemp()",
    "shuffle": "import random; x = list(range(99)); random.shuffle(x); x",
}


@pytest.mark.parametrize("source", RANDOM)
@pytest.mark.parametrize("how", ["fork", "pool"])
def test_randomness_differs_from_run_to_run(servers, how: str, source: str):
    imports = ["numpy"] if "numpy" in source else []
    values = {servers("own").run(how, RANDOM[source], imports=imports)["value"] for _ in range(3)}
    assert len(values) == 3


def test_a_run_has_as_many_blas_threads_as_an_executed_one(server: Server):
    code = (
        "import numpy as np\na = np.ones((600, 600)); a @ a\n"
        "[l for l in open('/proc/self/status') if l.startswith('Threads')]"
    )
    answers = {how: server.run(how, code, imports=["numpy"])["value"] for how in ("exec", "fork", "pool")}
    assert len(set(answers.values())) == 1


@pytest.mark.parametrize("how", ["fork", "pool"])
def test_arguments_and_code_are_the_runs_own(server: Server, how: str):
    first = server.run(how, "import sys; SECRET = 'one'; sys.argv", args=["a", "b"])
    second = server.run(how, "import sys; (sys.argv[1:], 'SECRET' in globals())")
    assert "'a', 'b'" in first["value"]
    assert second["value"] == "([], False)"
