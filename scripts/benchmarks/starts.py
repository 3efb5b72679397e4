"""Runs from the library, host to host: each way of starting, against the environment's own Python alone."""

from __future__ import annotations

import asyncio
import subprocess
import time
from contextlib import AsyncExitStack
from typing import Any, Self

from mcp_conda_run.models import RunRequest, RunResult, Status
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.sandbox.pool import PooledTier
from mcp_conda_run.settings import load_settings

from .timing import Action, Series, interleaved

PROGRAMS = {
    "pass": "pass",
    "numpy": "import numpy as np; print(np.arange(10).sum())",
    "pandas": (
        "import pandas as pd\n"
        "frame = pd.DataFrame({'g': list('aab'), 'x': [1, 2, 3]}); print(frame.groupby('g').x.sum())"
    ),
    "matplotlib": (
        "import io, matplotlib; matplotlib.use('Agg'); import matplotlib.pyplot as plt; import pandas, numpy\n"
        "plt.plot([1, 2]); plt.savefig(io.BytesIO(), format='png'); plt.close()"
    ),
}
BOUNDS = {("numpy", "pool"): 0.05, ("pandas", "pool"): 0.05, ("numpy", "fork"): 0.25}
EXEC_EXTRA_MS = 15.0
PAUSE_S = 0.05
NEW_PACKAGE = "tabulate"
NEW_SET_S = 0.8
IN_FLIGHT = 8
SUSTAINED_S = 5.0
SUSTAINED_PER_S = 120.0


class Ways:
    """A runtime with warm interpreters and one without."""

    def __init__(self) -> None:
        settings = load_settings()
        self.warm = Runtime(settings.model_copy(update={"slots": IN_FLIGHT}))
        self.cold = Runtime(settings.model_copy(update={"pool_mb": 0}))
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for runtime in (self.warm, self.cold):
            await self._stack.enter_async_context(runtime)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def pool(self) -> PooledTier:
        """Return the pool.

        Raises:
            SystemExit: this machine has none.
        """
        if not isinstance(self.warm.tier, PooledTier):
            raise SystemExit(f"error: this machine allows only tier {self.warm.tier.name}, which has no pool.")
        return self.warm.tier

    def waiting(self, *, empty: bool = False) -> bool:
        """Say whether every kind of process that is wanted waits; or let none wait."""
        for shelf in self.pool._shelves.values():
            for slot in shelf._slots.values():
                while empty and slot.waiting:
                    shelf.discard(slot.waiting.popleft())
                if not empty and sum(child.is_ready for child in slot.waiting) < max(1, slot.wanted):
                    shelf.fill(slot)
                    return False
        return bool(self.pool._shelves)

    async def run(self, runtime: Runtime, code: str, expected: str) -> float:
        """Run code and return how long that took, its start being of the expected way."""
        for _ in range(100):
            began = time.perf_counter()
            result = await runtime.run(RunRequest(code=code))
            seconds = time.perf_counter() - began
            check(result)
            if result.start == expected:
                return seconds
            await asyncio.sleep(PAUSE_S)
            if expected == "fork":
                self.waiting(empty=True)
        raise SystemExit(f"error: no run was started by {expected}.")

    def action(self, way: str, code: str) -> Action:
        """Return what runs the code in a way, and takes its time."""

        async def pool() -> float:
            async with asyncio.timeout(60):
                while not self.waiting():
                    if not self.pool._shelves:
                        await self.run(self.warm, code, "exec")
                    await asyncio.sleep(0.005)
            await asyncio.sleep(PAUSE_S)
            return await self.run(self.warm, code, "pool")

        async def fork() -> float:
            self.waiting(empty=True)
            await asyncio.sleep(PAUSE_S)
            self.waiting(empty=True)
            return await self.run(self.warm, code, "fork")

        async def execute() -> float:
            return await self.run(self.cold, code, "exec")

        return {"pool": pool, "fork": fork, "exec": execute}[way]

    async def bare(self, code: str) -> list[str]:
        """Return the command that runs the code in the same environment without any of this."""
        provided = await self.cold.warmup()
        environment = provided.environment
        return [str(environment.prefix / environment.python), "-B", "-c", code]


def check(result: RunResult) -> None:
    """Stop if a run failed: its time would mean nothing."""
    if result.status is not Status.SUCCESS:
        raise SystemExit(f"error: a run failed: {result.error}")


def spawn(command: list[str]) -> Action:
    """Return what runs a command, and takes its time."""

    async def run() -> float:
        began = time.perf_counter()
        await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    return run


async def measure_starts(ways: Ways, rounds: int) -> list[Series]:
    """Measure every program in every way."""
    found: list[Series] = []
    for program, code in PROGRAMS.items():
        actions = {"bare python": spawn(await ways.bare(code))}
        actions |= {way: ways.action(way, code) for way in ("exec", "fork", "pool")}
        baseline = f"{program}: bare python"
        for way, times in (await interleaved(actions, rounds)).items():
            series = Series(f"{program}: {way}", times=times)
            if way != "bare python":
                series.baseline = baseline
                series.bound = EXEC_EXTRA_MS if way == "exec" else BOUNDS.get((program, way), 0)
                series.extra_ms = way == "exec"
            found.append(series)
    return found


async def measure_new_set(ways: Ways, rounds: int) -> list[Series]:
    """Measure a run that needs a package the template does not have, its archive and its solution being cached."""
    request = RunRequest(code=f"import {NEW_PACKAGE}")
    times = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        result = await ways.cold.run(request)
        seconds = time.perf_counter() - began
        if result.status is not Status.SUCCESS or not result.packages:
            return [Series("new package set", skipped=f"{NEW_PACKAGE} cannot be had from the channels")]
        if number:
            times.append(seconds)
        ways.cold.store.forget(result.environment)
    return [Series("new package set", bound=NEW_SET_S, times=times)]


async def measure_sustained(ways: Ways, seconds: float = SUSTAINED_S) -> tuple[Series, dict[str, Any]]:
    """Measure how many numpy runs a second there are with several in flight."""
    ends = time.perf_counter() + seconds
    times: list[float] = []
    ways_seen: dict[str, int] = {}

    async def work() -> None:
        while time.perf_counter() < ends:
            began = time.perf_counter()
            result = await ways.warm.run(RunRequest(code=PROGRAMS["numpy"]))
            check(result)
            ways_seen[result.start] = ways_seen.get(result.start, 0) + 1
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    rate = len(times) / (time.perf_counter() - began)
    series = Series(f"sustained, {IN_FLIGHT} in flight (each)", times=times)
    return series, {"runs_per_s": rate, "bound": SUSTAINED_PER_S, "starts": ways_seen}
