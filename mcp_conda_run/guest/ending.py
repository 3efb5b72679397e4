"""The end of a program as Python does it, without the time that tearing down an interpreter takes.

Called by `execute.py`, inside the environment: `os._exit` skips what a script may rely on (threads that finish, exit
functions, files that are closed because nobody refers to them any more, what C code left in its own buffers), so each
of these is done here first, in Python's order. Never raises: a program's end cannot be stopped by the program.
"""

from __future__ import annotations

import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def quietly(step: Callable[[], Any]) -> None:
    """Do one step of the end; trouble goes to standard error, as Python reports what it must ignore."""
    try:
        step()
    except BaseException as error:
        try:
            import traceback

            traceback.print_exception(type(error), error, error.__traceback__)
        except BaseException:  # nowhere to report it
            return


def wait_for_threads() -> None:
    """Wait for the threads that are no daemons, and let executors finish what was submitted."""
    threading = sys.modules.get("threading")
    if threading is not None:
        quietly(threading._shutdown)


def run_exit_functions() -> None:
    """Run what was registered with `atexit`."""
    import atexit

    quietly(atexit._run_exitfuncs)


def flush_streams() -> None:
    """Write out what the standard streams, the present and the original ones, still hold."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except BaseException:  # noqa: S112 - closed or broken: Python, too, gives up silently here
            continue


def release(namespace: dict[str, Any]) -> None:
    """Let go of the program's globals, so that open files are written out and `__del__` methods run.

    If files that were opened for writing are still open after that, somebody else holds them: they are looked for.
    """
    threading = sys.modules.get("threading")
    if threading is None or threading.active_count() == 1:  # a daemon thread may still use the globals
        for name in [name for name in namespace if name != "__builtins__"]:
            namespace[name] = None
    quietly(flush_files)
    quietly(flush_c_buffers)


def files_are_open() -> bool:
    """Say whether a regular file is open for writing, beyond the standard streams."""
    if sys.platform == "win32":
        return True  # not to be known here
    import fcntl

    try:
        descriptors = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return True  # not to be known here
    for descriptor in descriptors:
        try:
            writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if descriptor > 2 and writable and stat.S_ISREG(os.fstat(descriptor).st_mode):  # noqa: PLR2004
                return True
        except OSError:  # the descriptor of the listing itself
            continue
    return False


def flush_files() -> None:
    """If files are open, flush every file object, text layers before their buffers.

    The garbage collector is of no use here: in a cycle it may close a file before the layers above it are flushed.
    """
    if not files_are_open():
        return
    import gc
    import io

    files = [each for each in gc.get_objects() if issubclass(type(each), io.IOBase)]
    for each in sorted(files, key=lambda file: not issubclass(type(file), io.TextIOBase)):
        try:
            each.flush()
        except BaseException:  # noqa: S112 - closed meanwhile, or cannot be written
            continue


def flush_c_buffers() -> None:
    """Write out what C and Fortran code printed; only if such code was loaded beyond Python's own."""
    if "ctypes" not in sys.modules and not any(map(is_foreign_extension, list(sys.modules.values()))):
        return
    import ctypes

    # Windows has one C library for all that is built for it, and no name for "whatever is loaded".
    ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None).fflush(None)


def is_foreign_extension(module: Any) -> bool:
    """Say whether a module is compiled code from a package."""
    try:
        file = vars(module).get("__file__") or ""
        return "site-packages" in file and file.endswith((".so", ".dylib", ".pyd"))
    except BaseException:  # anything can stand in sys.modules
        return False
