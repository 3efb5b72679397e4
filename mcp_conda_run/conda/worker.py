"""The engines' child process: one request in, progress and one answer out, as JSON lines.

Started by `worker_engine.py` through `process.py`, one for each request, some before there is one; killed with its
whole group when the caller no longer wants the answer: py-rattler goes on fetching and linking after a cancellation or
a failure. Ends by `os._exit`, because py-rattler's threads can crash the interpreter while it shuts down
(PyO3/pyo3-async-runtimes #40).

Lines written: `{"progress": {...}}`, then `{"result": ...}` or `{"error": {kind, code, message, hint, details}}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NoReturn

from ..errors import CondaRunError, HostError, InstallError
from ..models import Progress
from . import lifeline
from .access import use_credentials
from .redact import redact

UNREACHABLE_PROXY = "http://127.0.0.1:9"
"""Port 9 is `discard`, where nothing listens: offline, a request that slipped through is refused at once."""


class Answers:
    """The stream to the caller; each line is written at once and whole."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, **line: Any) -> None:
        """Write one line."""
        data = memoryview(json.dumps(line).encode() + b"\n")
        while data:
            data = data[os.write(self._descriptor, data) :]

    def progress(self, progress: Progress) -> None:
        """Write a progress line."""
        self.write(progress=asdict(progress))


def as_error(error: Exception) -> dict[str, str]:
    """Return any exception as the parts of one of the project's errors."""
    if not isinstance(error, CondaRunError):
        traceback.print_exc()
        text = redact(f"{type(error).__name__}: {error}")
        error = HostError("The package engine failed in a way that it does not know.", details=text)
        error.code = "engine-crashed"
    kind = "install" if isinstance(error, InstallError) else "host"
    return {"kind": kind, "code": error.code, "message": error.message, "hint": error.hint, "details": error.details}


def cut_off_network() -> None:
    """Make every connection of this process fail, for requests that must stay offline."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = UNREACHABLE_PROXY
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ""


async def answer(request: Mapping[str, Any], answers: Answers) -> Any:
    """Do what the request asks for."""
    from . import installing, solving  # noqa: PLC0415 - loads py-rattler, whose failure must become an answer

    if "micromamba" in request and request["operation"] in {"solve", "install"}:
        return await answer_with_micromamba(request, answers)
    match request["operation"]:
        case "solve":
            return await solving.solve(request)
        case "describe":
            return await solving.describe(request)
        case "names":
            return await solving.names(request)
        case "install":
            return await installing.install(request, answers.progress)
        case other:
            raise HostError(f"The package engine does not know the operation {other}.", code="engine-crashed")


async def answer_with_micromamba(request: Mapping[str, Any], answers: Answers) -> Any:
    """Do what the request asks for with the user's micromamba."""
    from . import micromamba_installing, micromamba_solving  # noqa: PLC0415

    if request["operation"] == "solve":
        return await micromamba_solving.solve(request)
    return await micromamba_installing.install(request, answers.progress)


def main_with_engine() -> NoReturn:
    """Serve one request, with py-rattler loaded before it comes."""
    with suppress(Exception):  # it will be tried again, and then it is an answer
        from . import installing, solving  # noqa: F401, PLC0415
    main()


def main() -> NoReturn:
    """Serve one request."""
    serve(answer)


def serve(answer: Callable[[Mapping[str, Any], Answers], Awaitable[Any]]) -> NoReturn:
    """Take one request, answer it, and end this process; whatever goes wrong is an answer."""
    answers = Answers(lifeline.take_stdout())

    async def serve_one() -> NoReturn:
        try:
            request = lifeline.take_request()
            if request["offline"]:
                cut_off_network()
            use_credentials(request)
            answers.write(result=await answer(request, answers))
        except Exception as error:  # noqa: BLE001 - every failure is an answer
            answers.write(error=as_error(error))
        os._exit(0)

    asyncio.run(serve_one())
    raise AssertionError("unreachable: serve_one() ends the process")
