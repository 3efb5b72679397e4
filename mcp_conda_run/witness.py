"""A run as those outside of it see it: in the audit log, and as a span of a trace.

Put by `runtime.py` around each run, whoever asked for it: the CLI, a program or a server. Never changes what a run does
or says, except that a run which cannot be written down does not begin.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .audit import AuditLog
from .errors import CondaRunError, HostError
from .models import Progress, ProgressCallback, RunRequest, RunResult, Status
from .tracing import RunSpan, run_span

log = logging.getLogger(__name__)


def new_run_id() -> str:
    """Return 16 hexadecimal digits; unguessable, as over HTTP they are all that separates the clients' results."""
    return secrets.token_hex(8)


class Witness:
    """What sees a run: told of its progress and of its result."""

    def __init__(self, span: RunSpan, tell: ProgressCallback) -> None:
        self._span = span
        self._tell = tell
        self.result: RunResult | None = None

    def note(self, progress: Progress) -> None:
        """Take what is going on, and pass it on."""
        self._span.note(progress)
        self._tell(progress)

    def saw(self, result: RunResult) -> None:
        """Take how it ended."""
        self.result = result
        packages = ",".join(package.name for package in result.packages)
        self._span.describe(
            status=str(result.status),
            template=result.template,
            environment=result.environment,
            packages=packages,
            limit=result.limit,
        )


@contextmanager
def witnessed(
    audit: AuditLog, request: RunRequest, tell: ProgressCallback, *, run_id: str, client: str
) -> Iterator[Witness]:
    """Have a run written down when it begins and when it ends, and traced in between.

    Args:
        audit: where it is written down.
        request: what is asked for.
        tell: who is told of progress besides.
        run_id: the run.
        client: who asks, as far as that is known.

    Raises:
        HostError: it cannot be written down, so it must not begin.
    """
    began = time.perf_counter()
    audit.began(run_id, client, request)
    with run_span(run_id) as span:
        witness = Witness(span, tell)
        error: CondaRunError | None = None
        try:
            yield witness
        except CondaRunError as refused:
            error = refused
            raise
        except asyncio.CancelledError:
            witness.saw(RunResult(status=Status.CANCELLED, run_id=run_id))
            raise
        except Exception as failed:
            error = CondaRunError(f"{type(failed).__name__}")
            raise
        finally:
            try:
                audit.ended(run_id, time.perf_counter() - began, witness.result, error)
            except HostError as unwritten:
                log.error("%s", unwritten.message)
