"""The audit log: one JSON line for each run that begins, and one for each that ends with what was installed for it.

Written by `witness.py` for every run, of the CLI, the library and a server alike, if the operator asked for it
(`audit_log`). Fails closed: a run that cannot be written down does not begin. Code is told by its hash and length,
arguments by their number: both may hold secrets.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import CondaRunError, HostError
from .models import RunRequest, RunResult


class AuditLog:
    """An append-only file; nothing at all without a path.

    Raises:
        HostError: the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            self._write([])

    def began(self, run_id: str, client: str, request: RunRequest) -> None:
        """Write that a run begins.

        Raises:
            HostError: it cannot be written, so the run must not begin.
        """
        if self._path is None:
            return
        code = (request.code or "").encode("utf-8", "surrogatepass")
        self._append(
            event="run-began",
            run_id=run_id,
            client=client,
            file=str(request.file or ""),
            code_sha256=hashlib.sha256(code).hexdigest() if request.code is not None else "",
            code_bytes=len(code),
            arguments=len(request.args),
            packages=list(request.packages),
            python=request.python or "",
            template=request.template or "",
            network=request.network or "",
            timeout_s=request.timeout_s or 0,
        )

    def ended(self, run_id: str, seconds: float, result: RunResult | None, error: CondaRunError | None) -> None:
        """Write how a run ended, and what was installed for it.

        Raises:
            HostError: it cannot be written.
        """
        if self._path is None:
            return
        said: dict[str, Any] = {"event": "run-ended", "run_id": run_id, "seconds": round(seconds, 3)}
        if error is not None:
            said |= {"status": "refused", "error": error.code}
        if result is not None:
            said |= _of_result(result)
        self._append(**said)

    def _append(self, **said: Any) -> None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, **said})
        self._write([line.encode() + b"\n"])

    def _write(self, lines: list[bytes]) -> None:
        """Append in one write, so that lines of several servers do not mix (write(2), O_APPEND)."""
        assert self._path is not None  # noqa: S101 - for the type checker
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            descriptor = os.open(self._path, flags, 0o600)
            try:
                for line in lines:
                    if os.write(descriptor, line) != len(line):
                        raise OSError("only a part could be written")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise HostError(
                f"The audit log {self._path} cannot be written: {error.strerror or error}.",
                hint="Nothing runs until it can be, or audit_log is unset.",
                code="audit-log",
            ) from None


def _of_result(result: RunResult) -> dict[str, Any]:
    isolation = result.isolation
    return {
        "status": str(result.status),
        "exit_code": result.exit_code,
        "signal": result.signal,
        "limit": result.limit,
        "error": result.error.type if result.error is not None else "",
        "environment": result.environment,
        "installed": [
            {"name": each.name, "version": each.version, "channel": each.channel, "reason": each.reason}
            for each in result.packages
        ],
        "isolation": {"tier": isolation.tier, "network": isolation.network} if isolation is not None else None,
        "attempts": len(result.attempts),
    }
