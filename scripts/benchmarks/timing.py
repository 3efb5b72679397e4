"""Times of the same thing, taken often, and what they are compared with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

Action = Callable[[], Awaitable[float]]
"""Does something once and returns the seconds that count."""


@dataclass
class Series:
    """The times of one thing, in seconds.

    Attributes:
        name: what it is.
        baseline: the name of what it is divided by; empty for a baseline itself.
        bound: what its ratio, or its `extra`, shall not exceed; 0 for none. Below zero: shall be at least that often.
        extra_ms: whether `bound` is for the milliseconds on top of the baseline.
        skipped: why there are no times.
    """

    name: str
    baseline: str = ""
    bound: float = 0
    extra_ms: bool = False
    skipped: str = ""
    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Return the median."""
        return statistics.median(self.times)

    def spread(self) -> tuple[float, float]:
        """Return the 10th and the 90th percentile."""
        if len(self.times) == 1:
            return self.times[0], self.times[0]
        cuts = statistics.quantiles(self.times, n=10, method="inclusive")
        return cuts[0], cuts[-1]


async def interleaved(actions: Mapping[str, Action], rounds: int) -> dict[str, list[float]]:
    """Do all of them once a round, so that what else the machine does meets them alike; the first round is not kept."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            seconds = await action()
            if number:
                times[name].append(seconds)
    return times


def timed(action: Callable[[], Awaitable[object]]) -> Action:
    """Return the action with the time it took."""

    async def run() -> float:
        began = time.perf_counter()
        await action()
        return time.perf_counter() - began

    return run
