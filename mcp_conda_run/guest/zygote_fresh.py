"""Makes a forked process look like an interpreter that has just been started.

Called by `zygote.py` in the run's main process, before it asks for code. What stays different, and why:

* string hashes have the zygote's seed, so sets have the same order in all of its runs; the seed is read at start only;
* the address layout is the zygote's: a fork copies it; there is nothing of another run or of the server in it;
* `sys.modules` holds what was preloaded, and `ctypes`, which building the walls needs; objects that existed before the
  fork are frozen for the garbage collector, so `gc.get_objects` does not list them;
* `/proc/self/environ` and `/proc/self/cmdline` show how the zygote was started; `os.environ` and C's are the run's own;
* `MCP_CONDA_RUN_ID` names the process, not the run: a process is sealed before it is known for which run.
"""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

THREAD_FUNCTIONS = {
    "openblas": (
        "scipy_openblas_set_num_threads64_",
        "scipy_openblas_set_num_threads",
        "openblas_set_num_threads64_",
        "openblas_set_num_threads",
    ),
    "mkl_rt": ("MKL_Set_Num_Threads",),
    "libblis": ("bli_thread_set_num_threads",),
    "libgomp": ("omp_set_num_threads",),
    "libomp": ("omp_set_num_threads",),
    "libiomp5": ("omp_set_num_threads",),
}
"""For a part of a shared library's name, the functions by which it is told how many threads to use."""

THREAD_VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl_rt": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "libblis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "libgomp": ("OMP_NUM_THREADS",),
    "libomp": ("OMP_NUM_THREADS",),
    "libiomp5": ("OMP_NUM_THREADS",),
}
"""The environment variables that each obeys, the first that is set counts."""


def thread_functions() -> list[tuple[str, Callable[[int], Any]]]:
    """Return what sets the number of threads of the numeric libraries that are loaded now."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = {line.split(maxsplit=5)[5].strip() for line in file if line.rstrip().endswith(".so") or ".so." in line}
    found = []
    for path in sorted(paths):
        for part, names in THREAD_FUNCTIONS.items():
            if part in os.path.basename(path):
                library = ctypes.CDLL(path)
                functions = [getattr(library, name) for name in names if hasattr(library, name)]
                found += [(part, function) for function in functions[:1]]
    return found


def allow_threads(threads: list[tuple[str, Callable[[int], Any]]]) -> None:
    """Allow numeric libraries as many threads as they would take in a fresh interpreter; called once, in the zygote.

    OpenBLAS starts its threads when it is told their number, ends them before a fork, and starts them again when they
    are first needed. The fork here is for nothing but that: then the zygote has no threads, its runs have none before
    they need them, and no fork has any to end.

    Args:
        threads: what `thread_functions` returned.
    """
    for part, set_number in threads:
        set_number(allowed_threads(part, {}))
    if threads:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def restore(environ: Mapping[str, str], threads: list[tuple[str, Callable[[int], Any]]]) -> None:
    """Undo what the zygote's own life left in this process.

    Args:
        environ: all environment variables of the run.
        threads: what `thread_functions` returned.
    """
    for name in [name for name in os.environ if name not in environ]:
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:  # each write copies pages
            os.environ[name] = value
    for part, set_number in threads:
        number = allowed_threads(part, environ)
        if number != allowed_threads(part, {}):  # it was told the usual number by `allow_threads`
            set_number(number)
    reseed()
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[1:] = [os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "start.py"), sys.argv[1]]


def allowed_threads(part: str, environ: Mapping[str, str]) -> int:
    """Return how many threads a library would use that was loaded now."""
    for name in THREAD_VARIABLES[part]:
        value = environ.get(name, "").partition(",")[0]
        if value.isdigit() and int(value):
            return int(value)
    return len(os.sched_getaffinity(0))


def reseed() -> None:
    """Give this process randomness of its own where forking does not (`random` does it, and so does OpenSSL)."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None  # type: ignore[attr-defined]
        tempfile.tempdir = None  # type: ignore[attr-defined]
    uuid = sys.modules.get("uuid")
    if uuid is not None:
        uuid._last_timestamp = uuid._node = None  # type: ignore[attr-defined]
