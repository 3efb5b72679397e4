"""How long the phases of a run take; the answer shows it, and so do traces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .tracing import record_span


@dataclass(slots=True)
class Phases:
    """How long each phase took, in milliseconds."""

    timings_ms: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside; a phase that comes twice adds up."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float, *, ended_s_ago: float = 0) -> None:
        """Add to a phase what ended now, or so long ago."""
        record_span(name, seconds, ended_s_ago=ended_s_ago)
        self.timings_ms[name] = round(self.timings_ms.get(name, 0) + seconds * 1000, 3)

    def finish(self) -> dict[str, float]:
        """Return all phases and their total."""
        return self.timings_ms | {"total": round((time.perf_counter() - self._began) * 1000, 3)}
