"""One question to a helper process that answers as `worker.py` does: progress lines, and then one answer.

Used by whoever has such a process: the engines, PyPI's wheels, archives, other tools' locks. Starting, bounding and
ending it is `process.py`'s.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import HostError, InstallError
from ..models import Progress, ProgressCallback, no_progress
from .process import Child, Ended, module_command, run_child

log = logging.getLogger(__name__)


async def ask(
    module: str,
    request: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    timeout_s: float,
    progress: ProgressCallback = no_progress,
    started: Child | None = None,
) -> Any:
    """Return the answer to a request.

    Args:
        module: of this room, which answers.
        request: plain data.
        environment: all of the process's environment variables.
        timeout_s: how long it may take.
        progress: told of what it says meanwhile.
        started: the process, if it runs already.

    Raises:
        TimeoutError: it took longer.
        InstallError: the process says so.
        HostError: the process says so, or it died.
    """
    last: dict[str, Any] = {}

    def on_line(line: bytes) -> None:
        message = json.loads(line)
        if "progress" in message:
            progress(Progress(**message["progress"]))
        else:
            last.update(message)

    ended = await run_child(
        module_command(module),
        request,
        environment=environment,
        timeout_s=timeout_s,
        on_line=on_line,
        started=started,
    )
    if ended.stderr:
        log.debug("%s wrote: %s", module, ended.stderr)
    if "error" in last:
        raise as_exception(last["error"])
    if "result" not in last:
        raise crashed(ended)
    return last["result"]


def absolute(path: Path) -> str:
    """Return the path as a helper process needs it, without following links."""
    return str(path.absolute())


def as_exception(error: Mapping[str, str]) -> InstallError | HostError:
    """Return the error that the process described."""
    kind = InstallError if error["kind"] == "install" else HostError
    return kind(error["message"], hint=error["hint"], details=error["details"], code=error["code"])


def crashed(ended: Ended) -> HostError:
    """Return the error for a process that ended without an answer."""
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
    return HostError(
        f"The package engine's process died ({how}).",
        hint="Try again; if a signal 9 ended it, the machine may be out of memory.",
        details="\n".join(ended.stderr.splitlines()[-5:]),
        code="engine-crashed",
    )
