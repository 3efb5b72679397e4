"""Whether a run is over one of its bounds: by its control group where it has one, else by a look at its processes.

Used by keepers, several times a second for each run, so it asks for no more than the bounds need. Decides nothing: the
keeper kills.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from .groups import Group
from .order import Bounds
from .processes import proportional_memory, used


class Watch:
    """The watch over one run.

    Args:
        bounds: of the run.
        group: its control group, or None.

    Attributes:
        group: the same; the keeper may take it away while the run has not begun.
        stage: a descriptor of the tmpfs that takes what the run writes, which is memory as well; None if there is none.
        peak_bytes: the most memory that was seen.
    """

    def __init__(self, bounds: Bounds, group: Group | None) -> None:
        self._bounds = bounds
        self.group = group
        self.stage: int | None = None
        self.peak_bytes = 0

    @property
    def held(self) -> dict[str, str]:
        """Return, for each limit that a control group holds, by what."""
        return self.group.holds if self.group is not None else {}

    def exceeded(self, find_pids: Callable[[], list[int]], ended_cpu_s: float = 0) -> str:
        """Return the name of the bound of memory, processes or CPU time that the run is over, or nothing.

        Args:
            find_pids: returns its processes.
            ended_cpu_s: CPU time of those that have ended.
        """
        if self.exceeded_by_group():
            return "memory"
        held = self.held
        bounds = dataclasses.replace(
            self._bounds,
            memory_bytes=0 if "memory_bytes" in held else self._bounds.memory_bytes,
            processes=0 if "processes" in held else self._bounds.processes,
        )
        if not (bounds.memory_bytes or bounds.processes or bounds.cpu_s):
            return ""
        pids = find_pids()
        now = used(pids, stage_bytes=self._stage_bytes())
        self.peak_bytes = max(self.peak_bytes, now.memory_bytes)
        if bounds.memory_bytes and now.memory_bytes > bounds.memory_bytes:
            self.peak_bytes = proportional_memory(pids, stage_bytes=self._stage_bytes())
            if self.peak_bytes > bounds.memory_bytes:
                return "memory"
        if bounds.processes and now.processes > bounds.processes:
            return "processes"
        return "cpu" if bounds.cpu_s and now.cpu_s + ended_cpu_s > bounds.cpu_s else ""

    def exceeded_by_group(self) -> bool:
        """Say whether the kernel has ended something of the run for its memory."""
        if self.group is None or not self.group.memory_was_exceeded():
            return False
        self.peak_bytes = max(self.peak_bytes, self.group.peak_bytes())
        return True

    def _stage_bytes(self) -> int:
        if self.stage is None:
            return 0
        status = os.fstatvfs(self.stage)
        return (status.f_blocks - status.f_bfree) * status.f_frsize
