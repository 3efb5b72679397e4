"""The runtime, opened on demand: a client's handshake waits for nothing, the first run waits for the runtime.

Used by `runs.py`. The engine's and the tier's modules are imported in a thread when the runtime is first wanted, never
by importing the server.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from ..errors import CondaRunError, HostError
from ..models import Ask, Environment, Mount, Plan, ProgressCallback, RunRequest, RunResult
from ..settings import Settings

if TYPE_CHECKING:
    from ..runtime import Runtime

log = logging.getLogger(__name__)


class Runner(Protocol):
    """What the server needs of a `Runtime`."""

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Return what runs see of the host."""
        ...

    def environment(self, key: str) -> Environment | None:
        """Return an environment that a result names."""
        ...

    async def run(
        self,
        request: RunRequest,
        progress: ProgressCallback = ...,
        *,
        ask: Ask | None = ...,
        run_id: str = ...,
        client: str = ...,
    ) -> RunResult:
        """Run code or a file."""
        ...

    async def plan(self, request: RunRequest, progress: ProgressCallback = ...) -> Plan:
        """Say what a run would install."""
        ...


OpenRunner = Callable[[], AbstractAsyncContextManager[Runner]]


def runtime_opener(settings: Settings) -> OpenRunner:
    """Return what opens the real runtime."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Runner]:
        runtime_class = await asyncio.to_thread(_runtime_class)
        async with runtime_class(settings) as runtime:
            # What is loaded by now stays for good; to look through it again and again would stop the event loop each
            # time for some ten milliseconds.
            gc.freeze()
            try:
                yield runtime
            finally:
                gc.unfreeze()

    return opened


def _runtime_class() -> type[Runtime]:
    from ..planning.hints import load_rules  # noqa: PLC0415 - heavy; the handshake must not wait for it
    from ..planning.tables import load_tables  # noqa: PLC0415
    from ..runtime import Runtime  # noqa: PLC0415

    load_rules()  # the first run would do both in the event loop
    load_tables()
    return Runtime


class LazyRuntime:
    """Opens a runtime once, and closes it in the task that opened it (task groups inside it demand that)."""

    def __init__(self, open_runner: OpenRunner) -> None:
        self._open = open_runner
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Runner] | None = None

    def prepare(self) -> asyncio.Future[Runner]:
        """Begin to open the runtime unless that has begun; after a failure, begin again."""
        if self._ready is None or self._task is None or self._task.done():
            self._ready = asyncio.get_running_loop().create_future()
            self._ready.add_done_callback(_retrieve)
            self._task = asyncio.create_task(self._keep(self._ready))
        return self._ready

    async def get(self) -> Runner:
        """Return the runtime as soon as it is open.

        Raises:
            CondaRunError: it cannot be opened; a later call tries again.
        """
        if self._closing.is_set():
            raise HostError("The server is shutting down.")
        return await asyncio.shield(self.prepare())

    async def close(self) -> None:
        """Close the runtime if it was opened."""
        self._closing.set()
        if self._task is None:
            return
        if self._ready is not None and not self._ready.done():
            self._task.cancel()
        await asyncio.wait({self._task})

    async def _keep(self, ready: asyncio.Future[Runner]) -> None:
        try:
            async with self._open() as runner:
                ready.set_result(runner)
                await self._closing.wait()
        except CondaRunError as error:
            _fail(ready, error)
        except Exception as error:
            log.exception("The runtime failed")
            _fail(ready, HostError(f"The runtime cannot be opened: {error}.", hint="See the server's log."))
        finally:
            ready.cancel()


def _fail(ready: asyncio.Future[Runner], error: CondaRunError) -> None:
    if not ready.done():
        ready.set_exception(error)


def _retrieve(ready: asyncio.Future[Runner]) -> None:
    """Look at the exception, so that asyncio does not complain when nobody waited for the runtime."""
    if not ready.cancelled():
        ready.exception()
