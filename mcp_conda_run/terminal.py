"""How the command line shows long work: a bar in a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from .models import Progress, UnknownImport

SECONDS_BETWEEN_LINES = 5


class Display(Protocol):
    """Shows progress while it is entered as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def __call__(self, progress: Progress) -> None:
        """Show what is going on now."""


def progress_display() -> Display:
    """Return the display that fits where standard error goes."""
    return Bar() if sys.stderr.isatty() else Lines()


class Lines:
    """A line when a phase begins, and every few seconds while it goes on: for logs, pipes and CI."""

    def __init__(self) -> None:
        self._phase = ""
        self._written = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __call__(self, progress: Progress) -> None:
        """Write a line if it is time for one."""
        now = time.monotonic()
        if progress.phase != self._phase or now - self._written > SECONDS_BETWEEN_LINES:
            self._phase, self._written = progress.phase, now
            line = f"{progress.phase}: {progress.message} {amount(progress)}".rstrip()
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is the command line's own output


class Bar:
    """A live bar with the step's name; gone when the work is done."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - 0.1 s that only a terminal should pay
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, amount="")
        self._phase = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Move the bar."""
        if progress.phase != self._phase:
            self._phase = progress.phase
            self._bar.reset(self._task, total=None, amount="")
        self._bar.update(
            self._task,
            description=progress.message,
            completed=progress.done,
            total=progress.total or None,
            amount=amount(progress),
        )


def amount(progress: Progress) -> str:
    """Return `12 of 40 packages` or `3.1 of 20.0 MB`, or nothing where the size is not known."""
    if not progress.total:
        return ""
    if progress.unit == "bytes":
        return f"{progress.done / 1e6:.1f} of {progress.total / 1e6:.1f} MB"
    return f"{progress.done:.0f} of {progress.total:.0f} {progress.unit}".rstrip()


def size(size_bytes: float) -> str:
    """Return a size for a person, such as `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:  # noqa: PLR2004 - the SI step
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def about_unknown(unknown: UnknownImport) -> str:
    """Return a line about an import that no package is known for, with what may have been meant, if anything."""
    names = ", ".join(candidate.name for candidate in unknown.candidates)
    line = f"{unknown.import_name}: {unknown.reason.rstrip('.')}."
    return f"{line} Candidates: {names}" if names else line
