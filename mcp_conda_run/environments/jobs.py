"""Work that belongs to nobody: those who want the same wait for the same task, and who goes away does not stop it.

`provision.py` has its builds done here. `close` ends what is still going on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..models import Environment, Progress, ProgressCallback

Make = Callable[[ProgressCallback], Awaitable[Environment]]


class Jobs:
    """Builds that are under way, by what is built."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}

    async def shared(self, name: str, make: Make, progress: ProgressCallback) -> Environment:
        """Return what the job of this name makes; start it if it is not under way."""
        job = self._jobs.get(name)
        if job is None:
            job = self._jobs[name] = _Job(make)
            job.task.add_done_callback(lambda task: self._over(name, task))
        job.listeners.append(progress)
        try:
            return await asyncio.shield(job.task)
        finally:
            job.listeners.remove(progress)

    async def close(self) -> None:
        """End every job that is still going on; nothing of them stays."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.task.cancel()
        await asyncio.gather(*(job.task for job in jobs), return_exceptions=True)

    def _over(self, name: str, task: asyncio.Future[Environment]) -> None:
        del self._jobs[name]
        if not task.cancelled():
            task.exception()  # looked at: the callers may all have gone away


class _Job:
    """A build that several callers may wait for; each hears how it goes."""

    def __init__(self, make: Make) -> None:
        self.listeners: list[ProgressCallback] = []
        self.task = asyncio.ensure_future(self._run(make))

    async def _run(self, make: Make) -> Environment:
        return await make(self._tell)

    def _tell(self, progress: Progress) -> None:
        for listener in list(self.listeners):
            listener(progress)
