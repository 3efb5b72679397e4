"""What Windows does otherwise, in one place: locks, names that are in use, ends of helper processes, facts of files.

Called by every room where Linux and macOS agree and Windows does not; there each of these is the one call that it
always was. Standard library only: the spawner's process and the engine's workers load it as well. What a run is
confined by is not decided here.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import IO, TYPE_CHECKING, Any

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl
    import signal

if TYPE_CHECKING:
    from pathlib import Path  # not loaded: the process that starts runs has no use for it

WINDOWS = sys.platform == "win32"
PYTHON = "python.exe" if WINDOWS else "bin/python"
SCRIPTS = "Scripts" if WINDOWS else "bin"
SITE_PACKAGES = "Lib/site-packages" if WINDOWS else "lib/python*/site-packages"
"""Where things are below a prefix of conda's; the last is a pattern."""
BUSY_S = 5.0
"""How long a name of Windows may be in use by somebody who looks at the file: another reader, an indexer, a scanner."""
PAUSE_S = 0.02
LOCK_PAUSE_S = 0.1


# --- locks ------------------------------------------------------------------------------------------------------------


def try_lock(file: IO[Any]) -> bool:
    """Take the lock of an open file for this process; return whether it was free. It ends with the file.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def lock(file: IO[Any]) -> None:
    """Take the lock of an open file for this process, however long that takes.

    Raises:
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        while not try_lock(file):
            time.sleep(LOCK_PAUSE_S)
    else:
        fcntl.flock(file, fcntl.LOCK_EX)


# --- names ------------------------------------------------------------------------------------------------------------


def replace_file(source: Path, target: Path) -> None:
    """Give a file the name of another one, which is gone then, in one step.

    Windows refuses while anybody has the other one open: it is asked again for some seconds.

    Raises:
        OSError: it cannot be.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            os.replace(source, target)
        except PermissionError:
            if not WINDOWS or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_S)
        else:
            return


def remove_protected(path: str) -> None:
    """Remove a file whose name could not be removed: on Windows because it is write-protected.

    Raises:
        OSError: it still cannot be.
    """
    if sys.platform == "win32":
        from .windows_files import remove_protected as remove  # noqa: PLC0415 - only where it is needed

        remove(path)
    else:
        os.chmod(path, stat.S_IRWXU)
        os.unlink(path)


def remove_while_locked(path: Path) -> None:
    """Remove a lock file whose lock this process holds; on Windows that is done when the lock is given up."""
    if not WINDOWS:
        path.unlink(missing_ok=True)


def path_of(url: str) -> str:
    """Return the path that a `file://` URL names, which begins with a drive on Windows."""
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415 - the process that starts runs has no use for it

    path = unquote(urlsplit(url).path)
    return path.lstrip("/") if WINDOWS and path[2:3] == ":" else path


def long_paths_fail() -> bool:
    """Say whether paths of more than 260 characters are refused, as by Windows unless it is told otherwise."""
    if sys.platform == "win32":
        import winreg  # noqa: PLC0415 - Windows only

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
                return not winreg.QueryValueEx(key, "LongPathsEnabled")[0]
        except OSError:
            return True
    return False


# --- facts of files ---------------------------------------------------------------------------------------------------


def is_reparse_point(status: os.stat_result) -> bool:
    """Say whether this is a junction or another thing of Windows that leads elsewhere and is no symbolic link."""
    attributes: int = getattr(status, "st_file_attributes", 0)
    return bool(attributes & stat.FILE_ATTRIBUTE_REPARSE_POINT)


def leads_elsewhere(entry: os.DirEntry[str]) -> bool:
    """Say whether a directory that is no symbolic link is a junction; asks for nothing where there are none."""
    return WINDOWS and is_reparse_point(entry.stat(follow_symlinks=False))


def held_bytes(status: os.stat_result) -> int:
    """Return what a file takes on its disk; its length where the platform does not say."""
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else blocks * 512


def identity(entry: os.DirEntry[str], status: os.stat_result) -> tuple[int, int]:
    """Return what is the same for all names of a file; on Windows the status that a listing gives does not say."""
    return (0, entry.inode()) if WINDOWS else (status.st_dev, status.st_ino)


def changed_ns(status: os.stat_result) -> int:
    """Return when a file was last changed or given a name, in nanoseconds since the epoch.

    By the inode's time, which programs cannot set. Windows has none: there by the later of those of its content and of
    its making.
    """
    return max(status.st_ctime_ns, status.st_mtime_ns) if WINDOWS else status.st_ctime_ns


# --- helper processes -------------------------------------------------------------------------------------------------


class Family:
    """One of our own helper processes with all that it starts, which end together, with this process at the latest.

    The helper has to be started in a session of its own. On Windows, which has none, it is put into a job, before it
    has started anything: helpers wait for their request first.

    Args:
        pid: the helper; not reaped yet.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._job: Any = None
        if sys.platform == "win32":
            from .windows_jobs import Job  # noqa: PLC0415 - only where it is needed

            try:
                self._job = Job()
                self._job.take(pid)
            except OSError:  # it has ended already
                self._job = None

    def kill(self) -> None:
        """End all of it; nothing happens if it is gone."""
        if sys.platform == "win32":
            if self._job is not None:
                self._job.kill()
        else:
            try:
                os.killpg(self._pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return
