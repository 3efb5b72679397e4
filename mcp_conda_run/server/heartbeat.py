"""Progress notifications: what a run is doing, often enough to keep clients waiting, rarely enough to cost nothing.

Used by `tools.py`, in a task of its own beside the wait: a client that does not read must never block a run.
"""

from __future__ import annotations

from typing import Any

import anyio
from mcp.server.mcpserver import Context

from ..models import Progress
from .report import short
from .runs import Run

MIN_INTERVAL_S = 0.5
HEARTBEAT_S = 4.0
"""Clients with a bound on silence restart it at each notification; 5 s is the shortest such bound known."""

MEGABYTE = 1_000_000
_STEM = 3


def describe(progress: Progress) -> str:
    """Return what is going on in a line: `download: numpy, 120 of 300 MB`; no phase that the message repeats."""
    parts = [progress.message or progress.phase]
    if progress.total and progress.unit == "bytes":
        parts.append(f"{progress.done / MEGABYTE:.0f} of {progress.total / MEGABYTE:.0f} MB")
    elif progress.total:
        parts.append(f"{progress.done:g} of {progress.total:g} {progress.unit}".rstrip())
    said = ", ".join(parts)
    repeats = said.lower().startswith(progress.phase[:_STEM])  # `solve`: solving for ...
    return short(said if repeats else f"{progress.phase}: {said}", 500)


async def tell_progress(run: Run, ctx: Context[Any, Any]) -> None:
    """Send what the run is doing until cancelled. The number is the run's age in seconds, as it must only ever grow."""
    last, sent_at = "", run.elapsed_s
    try:
        while True:
            await anyio.sleep(MIN_INTERVAL_S)
            now, said = run.elapsed_s, describe(run.progress)
            if said != last or now - sent_at >= HEARTBEAT_S:
                await ctx.report_progress(round(now, 3), None, f"{said} ({run.phase_s:.0f} s)")
                last, sent_at = said, now
    except (anyio.ClosedResourceError, anyio.BrokenResourceError):
        return  # the client is gone; whoever waits for the run will hear of it
