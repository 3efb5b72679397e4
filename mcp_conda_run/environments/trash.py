"""Removing large trees without making anybody wait: rename into the trash now, delete in the background.

Called by the store and by tiers whose prefixes are real directories. What is left when the process ends is deleted by
the next one. Whatever modes and names a run left behind, it goes: the tree is the user's own, so its modes can be
mended.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..portability import WINDOWS, remove_protected

_log = logging.getLogger(__name__)


class Trash:
    """A directory whose content is on its way out. Safe to use from any thread and by several processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._queue: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._pending = 0
        self._in_use: list[Path] = []

    def discard(self, path: Path) -> None:
        """Make `path` disappear now and its content soon; a path that is not there is fine."""
        grave = self.directory / secrets.token_hex(8)
        try:
            path.rename(grave)
        except FileNotFoundError:
            return
        except OSError:  # a read-only parent, another file system, in use (Windows): delete it where it is
            grave = path
        with self._lock:
            again, self._in_use = self._in_use, []
        for each in (*again, grave):
            self._enqueue(each)

    def empty_in_background(self) -> None:
        """Delete what earlier processes left in the trash."""
        for entry in os.scandir(self.directory):
            self._enqueue(Path(entry.path))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until everything discarded so far is deleted; return whether it is."""
        with self._lock:
            return self._idle.wait_for(lambda: self._pending == 0, timeout_s)

    def _enqueue(self, path: Path) -> None:
        with self._lock:
            self._pending += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="trash", daemon=True)
                self._thread.start()
        self._queue.put(path)

    def _work(self) -> None:
        while True:
            path = self._queue.get()
            try:
                delete_tree(path)
            except OSError as error:
                if WINDOWS:  # a library of it may be loaded by another run: it is tried again with the next discarded
                    with self._lock:
                        self._in_use.append(path)
                _log.log(logging.DEBUG if WINDOWS else logging.WARNING, "cannot delete %s: %s", path, error)
            finally:
                with self._lock:
                    self._pending -= 1
                    self._idle.notify_all()


def delete_tree(path: Path) -> None:
    """Delete a file or a tree of any depth and with any modes.

    Raises:
        OSError: something of it cannot be deleted even by its owner.
    """
    if os.name == "posix" and not _rm(path):
        _make_removable(path)
        _rm(path)
    if os.path.lexists(path):
        shutil.rmtree(path, onerror=_unlock_and_retry)


def _rm(path: Path) -> bool:
    """Run rm(1): it needs no recursion, so that no depth of directories can stop it."""
    try:
        done = subprocess.run(
            ["rm", "-rf", "--", os.fspath(path)], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


def _make_removable(path: Path) -> None:
    """Give the owner all rights on every directory of the tree (an overlay's work directory has none)."""
    stack = [os.fspath(path)]
    while stack:
        directory = stack.pop()
        try:
            os.chmod(directory, stat.S_IRWXU)
            with os.scandir(directory) as entries:
                stack.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError:  # too long a path, or not ours: rm will say so
            continue


def _unlock_and_retry(function: Callable[..., Any], path: str, _: Any) -> None:
    if function is os.unlink:
        remove_protected(path)
        return
    os.chmod(path, stat.S_IRWXU)
    function(path)
