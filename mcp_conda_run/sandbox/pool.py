"""Tier A with warm interpreters: a run starts in a process that was waiting for it, behind all its walls.

A run takes a sealed process of its environment's zygote (`pool`); if none waits, one that is forked at once (`fork`);
if there is no zygote yet, or anything is wrong with it, the process is executed as ever (`exec`), and a zygote is
started beside it for the next run. Nothing of this is visible but in the time, and in `Process.start`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ..errors import CondaRunError, HostError
from .connection import Connection
from .namespaces import NamespaceTier
from .order import CONTROL_FD, GUEST_DIRECTORY, SCRATCH, Order
from .policy import NetworkPolicy
from .pool_sets import preload_set
from .pool_shelf import Shelf, Slot
from .proxy import serving
from .rootfs import stage_options
from .running import MARK, RunProcess
from .tier import Launch
from .zygotes import Child, Zygote
from .zygotes_order import ZygotePlan

_log = logging.getLogger(__name__)

MEBIBYTE = 1 << 20
MEMORY_MB = 1024
"""What zygotes and waiting processes may use together."""
ZYGOTE_BYTES = 64 * MEBIBYTE
"""What a zygote is expected to use, before it is known."""
LOADING_BYTES = 2048 * MEBIBYTE
"""What importing the packages may use."""
TIDY_S = 15.0
WAITING_IDLE_S = 300.0
ZYGOTE_IDLE_S = 900.0
RETRY_S = 60.0
"""After a failure no zygote of the kind is started for so long; twice as long after each further one."""

ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
"""Threads do not live through a fork; each run gets its number back (`guest/zygote_fresh.py`)."""


@dataclasses.dataclass(slots=True)
class Trouble:
    """Failures of a kind of zygote: how many, and until when none is started."""

    count: int = 0
    until: float = 0


class PooledTier(NamespaceTier):
    """Runs in namespaces, from warm interpreters where there are any; see `tier.Tier`.

    Args:
        cache_dir: where environments are.
        memory_mb: what zygotes and waiting processes may use together, in MiB.
        pasta: the program that gives runs the internet; empty for the proxy. Such runs are executed.
    """

    def __init__(self, cache_dir: Path, *, memory_mb: int = MEMORY_MB, pasta: str = "") -> None:
        super().__init__(cache_dir, pasta=pasta)
        self._budget = memory_mb * MEBIBYTE
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shelves: dict[Hashable, Shelf] = {}
        self._starting: dict[Hashable, asyncio.Task[None]] = {}
        self._trouble: dict[Hashable, Trouble] = {}
        self._tidying: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Give up zygotes and waiting processes."""
        if self._tidying is not None:
            self._tidying.cancel()
        for task in self._starting.values():
            task.cancel()
        for shelf in self._shelves.values():
            shelf.close()
        self._shelves.clear()
        super().close()

    @asynccontextmanager
    async def launch(self, launch: Launch) -> AsyncIterator[RunProcess]:
        """Start a process in fresh namespaces over the environment, or take one that is there.

        Raises:
            HostError: the kernel refuses, or a mount would show or hide what it must not.
        """
        taken = await self._take(launch)
        if taken is None:
            async with super().launch(launch) as executed:
                yield executed
            return
        shelf, slot, child, how = taken
        policy = NetworkPolicy.parse(launch.network)
        try:
            async with AsyncExitStack() as stack:
                listener = child.lifeline.take_listener()
                if listener is not None:
                    await stack.enter_async_context(serving(listener, policy))
                child.lifeline.note_code()
                paths = {mount.target: mount.target for mount in launch.mounts}
                isolation = self._isolation(launch, policy, child.lifeline)
                yield RunProcess(child.channels, child.lifeline, paths, SCRATCH, isolation, start=how)
        finally:
            try:
                await child.end()
            finally:
                shelf.release(slot)

    async def warm(self, launch: Launch) -> bool:
        """Have a process waiting for launches like this one; return whether there is one.

        Raises:
            HostError: a mount would show or hide what it must not.
        """
        key = self._key(launch)
        self._begin(key, launch)
        if key in self._starting:
            await asyncio.wait({self._starting[key]})
        shelf = self._shelves.get(key)
        if shelf is None:
            return False
        slot = self._slot(shelf, launch)
        shelf.fill(slot)
        if slot.waiting:
            await asyncio.wait([child.ready for child in slot.waiting])
        return any(child.is_ready for child in slot.waiting)

    # --- taking -------------------------------------------------------------------------------------------------------

    async def _take(self, launch: Launch) -> tuple[Shelf, Slot, Child, str] | None:
        """Return a process from a zygote, or None if there is none to be had now; never raises for want of one."""
        key = self._key(launch)
        shelf = self._shelves.get(key)
        if Connection.choose(NetworkPolicy.parse(launch.network), self._pasta).via == "pasta":
            return None  # each waiting process would need its own, which is larger than an interpreter
        try:
            if shelf is None or not self._is_mine():
                self._begin(key, launch)
                return None
            slot = self._slot(shelf, launch)
            return (shelf, slot, *await shelf.take(slot))
        except CondaRunError as error:  # the ordinary way works all the same, or says why not
            _log.info("no process from a zygote: %s", error.message)
            if shelf is not None and not shelf.zygote.is_ready:
                self._lose(key, shelf)
            return None

    def _slot(self, shelf: Shelf, launch: Launch) -> Slot:
        """Return the place of processes that can serve a launch: what is fixed when they are sealed is the same."""
        limits = dataclasses.replace(launch.limits, wall_s=0, output_bytes=0)
        policy = NetworkPolicy.parse(launch.network)
        kind = (limits, policy.nothing, tuple(sorted(launch.variables.items())))
        return shelf.slot(kind, lambda: (self._order(launch, None, policy), stage_options(launch.limits.disk_bytes)))

    def _is_mine(self) -> bool:
        return self._loop is asyncio.get_running_loop()

    @staticmethod
    def _key(launch: Launch) -> Hashable:
        """Return what runs must have in common to come from one zygote."""
        modules = preload_set(launch.imports, launch.environment)
        return launch.environment.prefix, launch.environment.python, launch.guest, launch.mounts, modules

    # --- zygotes ------------------------------------------------------------------------------------------------------

    def _begin(self, key: Hashable, launch: Launch) -> None:
        """Start a zygote in the background, unless it is there, on its way, has failed lately, or has no room."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._tidying = self._loop.call_later(TIDY_S, self._tidy)
        trouble = self._trouble.get(key, Trouble())
        busy = key in self._shelves or key in self._starting
        if busy or not self._is_mine() or time.monotonic() < trouble.until or not self._make_room(ZYGOTE_BYTES):
            return
        order = self._order(launch, None, NetworkPolicy.parse(launch.network))
        task = self._loop.create_task(self._start(key, launch, order), name="zygote-start")
        self._starting[key] = task
        task.add_done_callback(lambda _: self._starting.pop(key, None))

    async def _start(self, key: Hashable, launch: Launch, order: Order) -> None:
        zygote = Zygote(_plan(launch, order))
        try:
            await zygote.start()
        except HostError as error:
            self._note_trouble(key, error.message)
            return
        shelf = Shelf(zygote, self._make_room)
        self._shelves[key] = shelf
        zygote.ended.add_done_callback(lambda ended: self._lose(key, shelf, ended.result()))
        shelf.fill(self._slot(shelf, launch))

    def _lose(self, key: Hashable, shelf: Shelf, reason: str = "it takes no orders") -> None:
        """Forget a zygote that has ended by itself."""
        if self._shelves.get(key) is shelf:
            del self._shelves[key]
            shelf.close()
            self._note_trouble(key, reason)

    def _note_trouble(self, key: Hashable, reason: str) -> None:
        trouble = self._trouble.setdefault(key, Trouble())
        trouble.until = time.monotonic() + RETRY_S * 2**trouble.count
        trouble.count += 1
        _log.warning("a zygote is lost, runs are slower until there is another: %s", reason)

    # --- room ---------------------------------------------------------------------------------------------------------

    def _make_room(self, wanted_bytes: int) -> bool:
        """Return whether so much more may be used; idle zygotes go for it, the one unused for longest first."""
        idle = sorted(self._shelves.items(), key=lambda item: item[1].last_used)
        while self._used_bytes() + wanted_bytes > self._budget:
            key = next((key for key, shelf in idle[:-1] if not shelf.active and key in self._shelves), None)
            if key is None:
                return False
            self._shelves.pop(key).close()
        return True

    def _used_bytes(self) -> int:
        return sum(shelf.memory_bytes for shelf in self._shelves.values()) + ZYGOTE_BYTES * len(self._starting)

    def _tidy(self) -> None:
        now = time.monotonic()
        for key, shelf in list(self._shelves.items()):
            idle = now - shelf.last_used
            if idle > ZYGOTE_IDLE_S and not shelf.active:
                self._shelves.pop(key).close()
            else:
                shelf.tidy(keep=idle <= WAITING_IDLE_S)
        assert self._loop is not None  # noqa: S101 - the timer was started with it
        self._tidying = self._loop.call_later(TIDY_S, self._tidy)


def _plan(launch: Launch, order: Order) -> ZygotePlan:
    """Return the zygote for launches like this one; it gets nothing that belongs to the launch alone."""
    assert order.walls is not None  # noqa: S101 - the orders of this tier have walls
    environ = {name: value for name, value in order.environ.items() if name not in {MARK, *launch.variables}}
    return ZygotePlan(
        argv=[order.argv[0], f"{GUEST_DIRECTORY}/zygote.py", str(CONTROL_FD)],
        environ=environ | ONE_THREAD,
        walls=order.walls,
        modules=preload_set(launch.imports, launch.environment),
        memory_bytes=LOADING_BYTES,
    )
