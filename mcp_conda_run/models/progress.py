"""What is going on now, as every phase reports it. Built by all rooms, shown by terminals and the MCP server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """What is going on now, for a bar in a terminal or a progress notification.

    Attributes:
        phase: `plan`, `lock`, `solve`, `download`, `link`, `compile`, `check`, `run`, ...
        message: a few words for a person.
        done: how much of `total` is done, in `unit`.
        total: how much there is, in `unit`; 0 if not known.
        unit: `packages`, `bytes`, `seconds` or empty.
    """

    phase: str
    message: str
    done: float = 0
    total: float = 0
    unit: str = ""


ProgressCallback = Callable[[Progress], None]
"""Called from the event loop's thread; must return at once and never raise."""


def no_progress(_: Progress) -> None:
    """Ignore progress."""
