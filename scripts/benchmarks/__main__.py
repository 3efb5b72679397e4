"""See `scripts/bench`."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from . import protocol
from .others import POOL, measure_others
from .prefix import measure_prefix
from .report import plot, rows_of, show, write_json
from .servers import measure_calls, measure_server_start
from .soak import soak
from .starts import Ways, measure_new_set, measure_starts, measure_sustained
from .timing import Series

PARTS = ("starts", "new-set", "calls", "server-start", "others", "sustained", "prefix")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("what", nargs="?", choices=("table", "soak", "protocol"), default="table")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


async def measure(ways: Ways, given: argparse.Namespace) -> tuple[list[Series], dict[str, Any]]:
    """Measure what is asked for."""
    found: list[Series] = []
    load: dict[str, Any] = {}
    few = max(3, given.rounds // 4)
    if "starts" in given.only:
        found += await measure_starts(ways, given.rounds)
    if "new-set" in given.only:
        found += await measure_new_set(ways, few)
    if "calls" in given.only:
        found += await measure_calls(given.rounds)
    if "server-start" in given.only:
        found += await measure_server_start(few)
    if "others" in given.only:
        found += await measure_others(few)
    if "prefix" in given.only:
        found += await measure_prefix(ways, few)
    if "sustained" in given.only:
        series, load = await measure_sustained(ways)
        found.append(series)
    return found, load


async def main() -> None:
    """Measure and show."""
    given = arguments()
    if given.what == "protocol":
        await protocol.main()
        return
    async with Ways() as ways:
        if given.what == "soak":
            rows = await soak(ways, given.runs)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")
            return
        found, load = await measure(ways, given)
        rows = rows_of(found)
        show(rows, load)
        if "others" in given.only and all(series.name != POOL for series in found):
            print(f"(ratios of the alternatives need {POOL}: measure starts too)")
        if given.json:
            write_json(given.json, rows, load)
        if given.plot:
            given.plot.write_bytes(await plot(rows, ways.warm))


if __name__ == "__main__":
    asyncio.run(main())
