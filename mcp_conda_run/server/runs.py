"""The registry of runs: each is a background task of its own, so that it can outlive the call that started it.

Used by `tools.py` and `resources.py`; opened and closed by `stdio.py` and `http.py`. Knows nothing of MCP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from ..audit import AuditLog
from ..errors import CondaRunError, RequestError
from ..models import Ask, Environment, Mount, Plan, Progress, ProgressCallback, RunError, RunRequest, RunResult, Status
from ..settings import Settings
from ..witness import new_run_id
from .lazy_runtime import LazyRuntime, OpenRunner, runtime_opener

log = logging.getLogger(__name__)

KEPT_RUNS, KEPT_S, KEPT_BYTES = 50, 3600, 64 * 1024 * 1024
"""How many finished runs are kept for `get_run` and resources, for how long, and with how much in them."""


@dataclass(eq=False)
class Run:
    """A run that was started here.

    Attributes:
        client: who started it, as far as the transport knows: an address, or nothing.
        session: who is shown it in lists; nobody if empty.
        run_id: the same in answers, resources, the log and the audit log.
        progress: what it is doing now.
        finished: set when `result` or `error` is there.
        result: how it ended.
        error: why it could not even be tried.
    """

    client: str = ""
    session: str = ""
    run_id: str = field(default_factory=new_run_id)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    phase_began: float = field(default_factory=time.monotonic)
    progress: Progress = field(default_factory=lambda: Progress("start", "starting"))
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    result: RunResult | None = None
    error: CondaRunError | None = None
    task: asyncio.Task[None] | None = None

    @property
    def elapsed_s(self) -> float:
        """Return how long it takes, or took."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def phase_s(self) -> float:
        """Return for how long it has been doing what it does now."""
        return (self.ended or time.monotonic()) - self.phase_began

    @property
    def size_bytes(self) -> int:
        """Return about how much memory its result holds."""
        if self.result is None:
            return 0
        value = self.result.value
        of_value = (value.text, *(each.text for each in value.representations)) if value else ()
        texts = (self.result.output, self.result.stdout, self.result.stderr, *of_value)
        return sum(map(len, texts)) + sum(len(figure.data) for figure in self.result.figures)

    def note(self, progress: Progress) -> None:
        """Remember what it is doing."""
        if progress.phase != self.progress.phase:
            self.phase_began = time.monotonic()
        self.progress = progress

    def cancel(self) -> None:
        """Have it killed; `finished` is set as soon as it is dead. A second time does not disturb the first."""
        if self.task is not None and not self.task.cancelling():
            self.task.cancel()

    def end(self, *, result: RunResult | None = None, error: CondaRunError | None = None) -> None:
        """Say how it ended; only the first time counts."""
        if self.finished.is_set():
            return
        self.result = None if result is None else replace(result, run_id=self.run_id)
        self.error = error
        self.ended = time.monotonic()
        self.finished.set()


Announce = Callable[[Run], Awaitable[None]]


class Runs:
    """All runs of this server, and the runtime that they share. Use it as an async context manager.

    Args:
        settings: the knobs.
        open_runner: what opens the runtime; the real one if not given.

    Attributes:
        ended: how many runs ended, by status.
        seconds: how long they took together.
    """

    def __init__(self, settings: Settings, open_runner: OpenRunner | None = None) -> None:
        self.settings = settings
        self._runtime = LazyRuntime(open_runner or runtime_opener(settings))
        self._runs: dict[str, Run] = {}
        self._active: set[Run] = set()
        self._closed = False
        AuditLog(settings.audit_log)  # a server whose runs cannot be written down does not start
        self.ended: Counter[str] = Counter()
        self.seconds = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def active(self) -> int:
        """Return how many runs are under way or wait for a slot."""
        return len(self._active)

    def prepare(self) -> None:
        """Begin to open the runtime, so that the first run finds it open."""
        if not self._closed:
            self._runtime.prepare()

    def start(
        self,
        request: RunRequest,
        ask: Ask | None = None,
        *,
        client: str = "",
        session: str = "",
        announce: Announce | None = None,
    ) -> Run:
        """Start a run in the background.

        Args:
            request: what to run.
            ask: asks the user about packages of PyPI, if there is one to ask.
            client: who asks; nobody in particular if empty. Each client has a bound of its own.
            session: who is shown the run in lists.
            announce: told of the run when it is over.

        Raises:
            RequestError: too many are under way, or the server is shutting down.
        """
        if self._closed:
            raise RequestError("The server is shutting down.", code="closing")
        own = sum(run.client == client for run in self._active)
        if client and own >= self.settings.client_runs:
            raise _too_many(f"This client has {own} runs under way or waiting, which is its share of this server.")
        if len(self._active) >= self.settings.slots + self.settings.queue:
            raise _too_many(f"{len(self._active)} runs are under way or waiting.")
        self._forget()
        run = Run(client, session)
        self._runs[run.run_id] = run
        self._active.add(run)
        run.task = asyncio.create_task(self._work(run, request, ask, announce))
        run.task.add_done_callback(lambda _: self._end(run))
        return run

    async def mounts(self) -> tuple[Mount, ...]:
        """Return what runs see of the host."""
        return (await self._runtime.get()).mounts

    async def environment(self, key: str) -> Environment | None:
        """Return an environment that a result names, unless it was removed since."""
        return await asyncio.to_thread((await self._runtime.get()).environment, key)

    async def plan(self, request: RunRequest, progress: ProgressCallback) -> Plan:
        """Say what a run would install.

        Raises:
            CondaRunError: it cannot be said.
        """
        return await (await self._runtime.get()).plan(request, progress)

    def get(self, run_id: str) -> Run:
        """Return a run by its id.

        Raises:
            RequestError: there is none, or it is forgotten.
        """
        self._forget()
        run = self._runs.get(run_id)
        if run is None:
            raise RequestError(
                f"There is no run {run_id[:40]!r}.",
                hint=f"Results are kept for {KEPT_S // 60} minutes, and of the last {KEPT_RUNS} runs; run it again.",
                code="unknown-run",
            )
        return run

    def of_session(self, session: str) -> list[Run]:
        """Return the runs that are shown to a session, the oldest first."""
        self._forget()
        return [run for run in self._runs.values() if session and run.session == session]

    async def close(self) -> None:
        """Kill all runs, wait until they are dead, and close the runtime."""
        self._closed = True
        for run in self._active:
            run.cancel()
        tasks = {run.task for run in self._active if run.task is not None}
        if tasks:
            await asyncio.wait(tasks)
        await self._runtime.close()

    async def _work(self, run: Run, request: RunRequest, ask: Ask | None, announce: Announce | None) -> None:
        try:
            runner = await self._runtime.get()
            run.end(result=await runner.run(request, run.note, ask=ask, run_id=run.run_id, client=run.client))
            if announce is not None:
                await announce(run)
        except CondaRunError as error:
            run.end(error=error)
        except Exception as error:
            log.exception("Run %s failed", run.run_id)
            run.end(error=CondaRunError(f"The server failed: {type(error).__name__}.", hint="See the server's log."))

    def _end(self, run: Run) -> None:
        """Let go of a run whose task is over; one that was cancelled, perhaps before it began, gets its result here."""
        self._active.discard(run)
        run.end(result=RunResult(status=Status.CANCELLED, error=RunError("Cancelled", "The run was cancelled.")))
        status = str(run.result.status) if run.result is not None else "refused"
        self.ended[status] += 1
        self.seconds += run.elapsed_s
        log.info("run ended", extra={"run_id": run.run_id, "status": status, "seconds": round(run.elapsed_s, 3)})

    def _forget(self) -> None:
        """Drop finished runs that are too old, too many or too large, the oldest first."""
        finished = [run for run in self._runs.values() if run.ended is not None]
        size = sum(run.size_bytes for run in finished)
        oldest_kept = time.monotonic() - KEPT_S
        for position, run in enumerate(finished):
            too_many = len(finished) - position > KEPT_RUNS
            if not (too_many or size > KEPT_BYTES or (run.ended or 0) < oldest_kept):
                break
            size -= run.size_bytes
            del self._runs[run.run_id]


def _too_many(message: str) -> RequestError:
    return RequestError(message, hint="Wait for some with get_run, or end some with cancel_run.", code="too-many-runs")
