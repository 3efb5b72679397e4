"""The measured figures as a table, as JSON, and as a plot."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcp_conda_run.models import RunRequest
from mcp_conda_run.runtime import Runtime

from .timing import Series

PLOT = """
import matplotlib.pyplot as plt
plt.rcParams.update({"font.size": 10, "text.color": "#222222", "axes.labelcolor": "#222222"})
left_out = ("prefix", "sustained", "server start")  # other things than a run
rows = [row for row in ROWS if row["median_ms"] and not row["name"].startswith(left_out)]
figure, axes = plt.subplots(figsize=(9, 0.27 * len(rows) + 1.1), facecolor="white")  # white: legible in dark mode too
places = range(len(rows))
middle = [row["median_ms"] for row in rows]
low = [row["median_ms"] - row["p10_ms"] for row in rows]
high = [row["p90_ms"] - row["median_ms"] for row in rows]
colors = {"pool": "#2a9d55", "fork": "#8fb82e", "exec": "#3b78c3"}
axes.barh(places, middle, xerr=[low, high], ecolor="#555555", error_kw={"elinewidth": 1},
          color=[colors.get(row["name"].rpartition(": ")[2], "#d08a3c" if "MCP" in row["name"] else "#9a9a9a")
                 for row in rows])
for place, row in zip(places, rows):
    text = f"{row['median_ms']:.1f} ms" if row["median_ms"] < 1000 else f"{row['median_ms'] / 1000:.1f} s"
    axes.text(row["p90_ms"] * 1.15, place, text, va="center", fontsize=8, color="#222222")
axes.set_xscale("log")
axes.set_xlim(right=max(row["p90_ms"] for row in rows) * 4)
axes.set_yticks(places, [row["name"] for row in rows])
axes.margins(y=0.01)
axes.invert_yaxis()
axes.spines[["top", "right"]].set_visible(False)
axes.set_xlabel("milliseconds from call to answer, logarithmic; bars: medians, lines: 10th to 90th percentile")
figure.tight_layout()
figure.savefig("/working/plot.png", dpi=110)
"""


def rows_of(found: Sequence[Series]) -> list[dict[str, Any]]:
    """Return a row for each series, with its ratio and whether its bound holds."""
    by_name = {series.name: series for series in found if series.times}
    rows = []
    for series in found:
        row: dict[str, Any] = {"name": series.name, "n": len(series.times), "skipped": series.skipped, "median_ms": 0}
        if series.times:
            low, high = series.spread()
            row |= {"median_ms": series.median * 1000, "p10_ms": low * 1000, "p90_ms": high * 1000}
            row |= against(series, by_name.get(series.baseline))
        rows.append(row)
    return rows


def against(series: Series, baseline: Series | None) -> dict[str, Any]:
    """Return the ratio to the baseline, the bound in words, and whether it holds."""
    row: dict[str, Any] = {"ratio": series.median / baseline.median if baseline else None, "bound": "", "holds": None}
    if series.extra_ms and baseline:
        extra = (series.median - baseline.median) * 1000
        row |= {"extra_ms": extra, "bound": f"+ {series.bound:g} ms", "holds": extra <= series.bound}
    elif series.bound < 0 and baseline:
        row |= {"bound": f">= {-series.bound:g} x", "holds": row["ratio"] >= -series.bound}
    elif series.bound and baseline:
        row |= {"bound": f"<= {series.bound:g} x", "holds": row["ratio"] <= series.bound}
    elif series.bound > 0 and not series.baseline:
        row |= {"bound": f"<= {series.bound:g} s", "holds": series.median <= series.bound}
    return row


def show(rows: Sequence[Mapping[str, Any]], load: Mapping[str, Any]) -> None:
    """Print the table."""
    print(f"{'':42}{'median':>10}{'p10 .. p90 (ms)':>22}{'n':>5}{'ratio':>9}  bound")
    for row in rows:
        if row["skipped"]:
            print(f"{row['name']:42}{'-':>10}  {row['skipped']}")
        elif row["n"]:
            spread = f"{row['p10_ms']:.2f} .. {row['p90_ms']:.2f}"
            ratio = f"{row['ratio']:.3f}" if row.get("ratio") else ""
            verdict = {True: "holds", False: "MISSED", None: ""}[row["holds"]]
            extra = f" ({row['extra_ms']:+.1f})" if "extra_ms" in row else ""
            shown = f"{row['name']:42}{row['median_ms']:10.2f}{spread:>22}{row['n']:5}{ratio:>9}"
            print(f"{shown}  {row['bound']}{extra} {verdict}".rstrip())
    if load:
        verdict = "holds" if load["runs_per_s"] >= load["bound"] else "MISSED"
        print(f"sustained: {load['runs_per_s']:.0f} runs/s, bound {load['bound']:g} {verdict}; starts {load['starts']}")


def write_json(path: Path, rows: Sequence[Mapping[str, Any]], load: Mapping[str, Any]) -> None:
    """Write everything for machines."""
    load_file = Path("/proc/loadavg")
    machine = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": load_file.read_text().strip() if load_file.exists() else "",
    }
    path.write_text(json.dumps({"machine": machine, "rows": list(rows), "sustained": dict(load)}, indent=1) + "\n")


async def plot(rows: Sequence[Mapping[str, Any]], runtime: Runtime) -> bytes:
    """Draw the table, by a run of our own; return the PNG."""
    result = await runtime.run(RunRequest(code=PLOT, global_variables={"ROWS": list(rows)}))
    if result.error is not None:
        raise SystemExit(f"error: the plot could not be drawn: {result.error}")
    return (runtime.mounts[0].source / "plot.png").read_bytes()
