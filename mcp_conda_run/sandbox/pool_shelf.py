"""The processes of one zygote that wait for runs, sealed; how many there are, and how one is taken.

Owned by the pool, one a zygote. Within a bound, as many wait as were missed lately; the shelf is filled up while no run
waits for the processor. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Hashable

from ..errors import HostError
from .order import Order
from .running import MARK
from .zygotes import FORK_S, Child, Zygote

CHILD_BYTES = 8 << 20
"""What a waiting process has for itself, measured with pandas; the rest it shares with its zygote."""
CORES = os.cpu_count() or 1
MOST_WAITING = 2 * CORES
AT_ONCE = max(1, CORES // 2)
"""How many are prepared at the same time: preparing one keeps a processor busy."""
REFILL_DELAY_S = 0.02
"""A run that is shorter than this has the processors for itself."""
FAILURES = 3
"""After so many processes in a row that could not be prepared, the zygote is given up."""


@dataclasses.dataclass(slots=True)
class Slot:
    """Processes of one kind: with the same walls, limits and variables.

    Attributes:
        order: what they are given.
        stage: the mount options of their place for what they write.
        waiting: those that are sealed or on their way to it, the oldest first.
        wanted: how many there shall be.
        missed: whether one was missed since the last look.
    """

    order: Order
    stage: str
    waiting: deque[Child] = dataclasses.field(default_factory=deque)
    wanted: int = 1
    missed: bool = False


class Shelf:
    """A zygote and its waiting processes.

    Args:
        zygote: ready for orders.
        room: says whether so many bytes more may be used.

    Attributes:
        active: how many runs are under way.
        last_used: when one was taken (`time.monotonic`).
    """

    def __init__(self, zygote: Zygote, room: Callable[[int], bool]) -> None:
        self.zygote = zygote
        self.active = 0
        self.last_used = time.monotonic()
        self._room = room
        self._slots: dict[Hashable, Slot] = {}
        self._failures = 0
        self._discarded: set[Child] = set()

    @property
    def memory_bytes(self) -> int:
        """What it uses altogether, without the runs."""
        return self.zygote.memory_bytes + CHILD_BYTES * sum(len(slot.waiting) for slot in self._slots.values())

    def slot(self, kind: Hashable, make: Callable[[], tuple[Order, str]]) -> Slot:
        """Return the place of a kind of process; from now on some of them wait there.

        Args:
            kind: what they have in common.
            make: returns what they are given, and the mount options of their place for what they write.
        """
        if kind not in self._slots:
            self._slots[kind] = Slot(*make())
        return self._slots[kind]

    async def take(self, slot: Slot) -> tuple[Child, str]:
        """Return a process that is ready for code, and how it came to be: `pool` or `fork`.

        Raises:
            HostError: there is none and none can be made; the zygote may be closed then.
        """
        self.last_used = time.monotonic()
        self._drop_dead(slot)
        child = next((child for child in slot.waiting if child.is_ready), None)
        how = "pool" if child is not None else "fork"
        if child is not None:
            slot.waiting.remove(child)
        else:
            slot.missed = True
            slot.wanted = min(slot.wanted + 1, MOST_WAITING)
            child = slot.waiting.popleft() if slot.waiting else self._fork(slot, touch=False)
            await self._until_ready(child)
        self.active += 1
        asyncio.get_running_loop().call_later(REFILL_DELAY_S, self.fill, slot)
        return child, how

    def release(self, slot: Slot) -> None:
        """Take note that a run is over."""
        self.active -= 1
        self.fill(slot)

    def fill(self, slot: Slot) -> None:
        """Prepare as many as are wanted, a few at a time."""
        if not self.zygote.is_ready:
            return
        preparing = sum(not child.ready.done() for child in slot.waiting)
        while len(slot.waiting) < slot.wanted and preparing < AT_ONCE and self._room(CHILD_BYTES):
            try:
                child = self._fork(slot, touch=self.active < CORES)
            except HostError:
                return  # the next run tries again
            child.ready.add_done_callback(lambda _: self._prepared(slot))
            slot.waiting.append(child)
            preparing += 1

    def tidy(self, *, keep: bool) -> None:
        """Let the numbers follow the demand; called now and then.

        Args:
            keep: whether any shall wait at all.
        """
        for kind, slot in list(self._slots.items()):
            slot.wanted = max(1, slot.wanted - (not slot.missed)) if keep else 0
            slot.missed = False
            while len(slot.waiting) > slot.wanted:
                self.discard(slot.waiting.popleft())
            if not keep:
                del self._slots[kind]

    def close(self) -> None:
        """Give up the zygote and what waits; runs go on to their end."""
        for slot in self._slots.values():
            while slot.waiting:
                self.discard(slot.waiting.popleft())
        self.zygote.close()

    def discard(self, child: Child) -> None:
        """End a process without waiting for its end."""
        child.discard()
        self._discarded.add(child)
        child.when_ended(self._discarded.discard)

    def _fork(self, slot: Slot, *, touch: bool) -> Child:
        environ = {**slot.order.environ, MARK: secrets.token_hex(8)}
        return self.zygote.fork(dataclasses.replace(slot.order, environ=environ), slot.stage, touch=touch)

    async def _until_ready(self, child: Child) -> None:
        try:
            async with asyncio.timeout(FORK_S):
                await asyncio.shield(child.ready)
        except TimeoutError:
            self.discard(child)
            self.zygote.kill()
            raise HostError("The zygote does not answer.") from None
        except BaseException:
            self.discard(child)
            raise

    def _prepared(self, slot: Slot) -> None:
        """One more waits, or could not be prepared."""
        before = len(slot.waiting)
        self._drop_dead(slot)
        self._failures = self._failures + 1 if len(slot.waiting) < before else 0
        if self._failures >= FAILURES:
            self.close()
        elif not self._failures:
            self.fill(slot)

    def _drop_dead(self, slot: Slot) -> None:
        for child in list(slot.waiting):
            if child.ready.done() and not child.is_ready:
                slot.waiting.remove(child)
                self.discard(child)
