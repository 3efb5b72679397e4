"""Which environments are in use, by whom, and when each was last wanted.

Kept by the store, for `care.py`, which removes what nobody uses. Two kinds of empty files tell it to all processes: a
mark in the directory of a living owner says that this process may be running code in the environment, and the time of
a stamp says when the environment was last wanted.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STAMP_S = 3600.0
"""How exactly it is known when an environment was last wanted."""
IDLE_S = 1800.0
"""A mark outlives the last run by this much: for whoever was just given the environment, and for idle zygotes."""
BUILDING = "building"
"""The mark of a process that is installing: it may use any package of the cache."""


class Uses:
    """The marks of one process, and the stamps of all.

    Args:
        marks: this process's directory of marks; it goes with the process's lock.
        stamps: the directory of stamps.
    """

    def __init__(self, marks: Path, stamps: Path) -> None:
        self._marks = marks
        self._stamps = stamps
        self._claimed: dict[str, float] = {}
        self._stamped: dict[str, float] = {}
        self._held: Counter[str] = Counter()

    def open(self) -> None:
        """Make the directories."""
        self._marks.mkdir(parents=True, exist_ok=True)
        self._stamps.mkdir(parents=True, exist_ok=True)

    def claim(self, key: str) -> None:
        """Say that this process is about to use an environment; do so before looking whether it is there."""
        now = time.monotonic()
        if key not in self._claimed:
            _touch(self._marks / key)
        self._claimed[key] = now
        if now - self._stamped.get(key, -STAMP_S) >= STAMP_S:
            self._stamped[key] = now
            _touch(self._stamps / key)

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Keep an environment for as long as a run takes."""
        self.claim(key)
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            self._claimed[key] = time.monotonic()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Say that this process uses the package cache."""
        self._held[BUILDING] += 1
        _touch(self._marks / BUILDING)
        try:
            yield
        finally:
            self._held[BUILDING] -= 1
            if not self._held[BUILDING]:
                (self._marks / BUILDING).unlink(missing_ok=True)

    def give_up_idle(self) -> None:
        """Take back the marks of environments that this process has not used for some time."""
        now = time.monotonic()
        for key, claimed in list(self._claimed.items()):
            if not self._held[key] and now - claimed >= IDLE_S:
                del self._claimed[key]
                (self._marks / key).unlink(missing_ok=True)

    def close(self) -> None:
        """Take back all marks."""
        for key in self._claimed:
            (self._marks / key).unlink(missing_ok=True)
        self._claimed.clear()
        with suppress(OSError):
            self._marks.rmdir()

    def last_wanted(self, key: str) -> float:
        """Return when an environment was last wanted, in seconds since 1970; 0 if nobody knows."""
        try:
            return (self._stamps / key).stat().st_mtime
        except OSError:
            return 0.0

    def forget(self, key: str) -> None:
        """Take note that an environment is gone."""
        (self._stamps / key).unlink(missing_ok=True)


def _touch(path: Path) -> None:
    """Make an empty file, or its time new; where that cannot be, the environment only seems less used than it is."""
    with suppress(OSError):
        path.touch()
        os.utime(path)
