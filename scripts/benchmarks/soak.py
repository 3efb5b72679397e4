"""Many runs, and what grows: printed at every tenth of the way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psutil

from mcp_conda_run.models import RunRequest

from .starts import IN_FLIGHT, PROGRAMS, Ways, check


def usage() -> dict[str, float]:
    """Return what this process and those below it use together."""
    descriptors = processes = memory = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            descriptors += process.num_fds()
            memory += process.memory_full_info().uss
            processes += 1
        except psutil.NoSuchProcess:
            continue
    return {"descriptors": descriptors, "processes": processes, "memory_mib": round(memory / 2**20, 1)}


async def soak(ways: Ways, runs: int) -> list[dict[str, Any]]:
    """Do so many runs; return a row for each tenth."""
    rows: list[dict[str, Any]] = []
    for part in range(11):
        began = time.perf_counter()
        numbers = iter(range(runs // 10 if part else 100))  # the first part warms up

        async def work(numbers: Any = numbers) -> None:
            for _ in numbers:
                check(await ways.warm.run(RunRequest(code=PROGRAMS["numpy"])))

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        done = runs // 10 if part else 100
        rate = done / (time.perf_counter() - began)
        await asyncio.sleep(1)  # let the pool fill up
        rows.append({"runs": part * (runs // 10), "runs_per_s": round(rate, 1), **usage()})
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return rows
