"""Spans of OpenTelemetry, for whoever has set up a tracer: nothing is made, sent or imported otherwise.

Told by `phases.py` and `witness.py`. Goes through the API alone, which `mcp` brings and has loaded in a server; in a
program that uses the library it is there if the program loaded it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import __version__
from .models import Progress

PREFIX = "conda_run"
_OF_PROGRESS = {"lock": "lock", "solve": "solve", "download": "download"} | dict.fromkeys(
    ("link", "compile", "check", "install"), "build"
)
"""Which span a phase of `models.Progress` belongs to; the other phases are timed by `phases.py`."""


def _tracer() -> Any:
    trace = sys.modules.get("opentelemetry.trace")
    return trace.get_tracer("mcp-conda-run", __version__) if trace is not None else None


def record_span(name: str, seconds: float, *, ended_s_ago: float = 0) -> None:
    """Record something that took so long and ended now, or so long ago, as a child of the current span."""
    tracer = _tracer()
    if tracer is not None:
        end = time.time_ns() - int(ended_s_ago * 1e9)
        tracer.start_span(f"{PREFIX}.{name}", start_time=end - int(seconds * 1e9)).end(end)


@contextmanager
def run_span(run_id: str) -> Iterator[RunSpan]:
    """Have a span around a run, which is the parent of those of its phases."""
    tracer = _tracer()
    if tracer is None:
        yield RunSpan(None)
        return
    with tracer.start_as_current_span(PREFIX, attributes={f"{PREFIX}.run_id": run_id}) as span:
        run = RunSpan(span)
        try:
            yield run
        finally:
            run.note(Progress("", ""))


class RunSpan:
    """The span of one run, and those of what its progress tells of."""

    def __init__(self, span: Any) -> None:
        self._span = span
        self._phase = ""
        self._began = 0.0

    def describe(self, **attributes: str | float) -> None:
        """Say of the run what a reader of traces looks for; empty values say nothing."""
        if self._span is not None:
            for name, value in attributes.items():
                if value not in {"", None}:
                    self._span.set_attribute(f"{PREFIX}.{name}", value)

    def note(self, progress: Progress) -> None:
        """Take what is going on: when that changes, what went on before is a span."""
        phase = _OF_PROGRESS.get(progress.phase, "")
        if self._span is None or phase == self._phase:
            return
        now = time.perf_counter()
        if self._phase:
            record_span(self._phase, now - self._began)
        self._phase, self._began = phase, now
