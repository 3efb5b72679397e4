"""Puts the processes of a run into its control group, before it gets its code.

Used by keepers. The kernel lets one process at a time join a group, and while it is busy it first waits for all
processors to have taken note, for several milliseconds: no matter while an interpreter starts, but nothing that a
keeper of many runs can stand still for. So that one does it in a thread.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from .groups import Group

ROUNDS = 10

Find = Callable[[], list[int]]
"""Returns the processes of a run."""


def enroll(group: Group | None, find: Find) -> bool:
    """Put all processes of a run into its group; return whether all are in it."""
    if group is None:
        return True
    known: set[int] = set()
    try:
        for _ in range(ROUNDS):  # what a process forked before it was in the group is not in it
            fresh = set(find()) - known
            if not fresh:
                return True
            group.add_all(fresh)
            known |= fresh
    except OSError:
        return False
    return False


class Enroller:
    """Enrols the runs of one keeper in a thread, in the order in which it is asked to.

    Attributes:
        done: a descriptor that becomes readable when there is something for `finish` to do.
    """

    def __init__(self) -> None:
        self.done, self._tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._asked: queue.SimpleQueue[tuple[Group | None, Find, Callable[[bool], None]]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Callable[[bool], None], bool]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, group: Group | None, find: Find, then: Callable[[bool], None]) -> None:
        """Put all processes of a run into its group.

        Args:
            group: the group; with None there is nothing to do, and `then` is called at once.
            find: returns the processes; called in the thread.
            then: called by `finish`, with whether all are in it.
        """
        if group is None:
            then(True)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="enroller", daemon=True)
            self._thread.start()
        self._asked.put((group, find, then))

    def finish(self) -> None:
        """Tell who asked, in the caller's thread."""
        os.read(self.done, 4096)
        with suppress(queue.Empty):
            while True:
                then, succeeded = self._answers.get_nowait()
                then(succeeded)

    def _work(self) -> None:
        while True:
            group, find, then = self._asked.get()
            self._answers.put((then, enroll(group, find)))
            with suppress(BlockingIOError):  # full of reasons to look already
                os.write(self._tell, b"1")
