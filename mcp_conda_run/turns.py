"""Whose turn it is to run: a bounded number of runs at a time, and clients one after the other.

Asked by `runtime.py` for every run. A client that asks for many runs at once does not make the others wait for all of
them: of those who wait, each client has one turn before any has a second. Belongs to one event loop. Never decides how
long a run may take.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from .errors import RequestError


class Turns:
    """The turns of one runtime.

    Args:
        slots: how many may run at the same time.
        queue: how many more may be on their way: waiting for packages or for their turn.

    Attributes:
        admitted: how many were let in and are not done.
    """

    def __init__(self, slots: int, queue: int) -> None:
        self.admitted = 0
        self._most = slots + queue
        self._free = slots
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def full(self) -> bool:
        """Say whether the next one has to wait."""
        return not self._free

    @contextmanager
    def admission(self) -> Iterator[None]:
        """Let a run in, from its request to its answer.

        Raises:
            RequestError: too many are on their way already.
        """
        if self.admitted >= self._most:
            raise RequestError(
                f"{self.admitted} runs are under way or waiting for their turn; more are not accepted now.",
                hint="Ask again when some of them have ended; the operator can allow more with MCP_CONDA_RUN_QUEUE.",
                code="busy",
            )
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    @asynccontextmanager
    async def turn(self, client: str = "") -> AsyncIterator[None]:
        """Wait for a turn, and have it for as long as the context lasts.

        Args:
            client: who asks; all who give the same name share their turns.
        """
        await self._take(client)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, client: str) -> None:
        if self._free:  # then nobody waits
            self._free -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was this one's turn at that very moment
                self._give_back()
            raise

    def _give_back(self) -> None:
        self._free += 1
        while self._free and self._waiting:
            client, theirs = self._waiting.popitem(last=False)
            first = theirs.popleft()
            if theirs:
                self._waiting[client] = theirs  # behind all others
            if not first.done():
                self._free -= 1
                first.set_result(None)
