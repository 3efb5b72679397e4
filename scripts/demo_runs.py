"""The second half of `scripts/demo`: warm up, then run four programs through the real MCP stdio server.

usage: demo_runs.py DIRECTORY     (called by scripts/demo with the environment's own Python)
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import rattler
from mcp import Client, StdioServerParameters, stdio_client
from mcp.types import CallToolResult

SCRIPTS = Path(__file__).resolve().parent
PROBE_TIMEOUT_S = 10
CALL_TIMEOUT_S = 900

SINE = """
import numpy as np
import matplotlib.pyplot as plt

x = np.linspace(0, 2 * np.pi, 400)
plt.plot(x, np.sin(x))
plt.title("sine wave")
plt.savefig("/working/sine_wave.png")
print("saved /working/sine_wave.png")
"""
GDAL = """
import numpy as np
from osgeo import gdal, osr

gdal.UseExceptions()
here = osr.SpatialReference()
here.ImportFromEPSG(4326)
raster = gdal.GetDriverByName("MEM").Create("", 90, 60, 1, gdal.GDT_Float32)
raster.SetGeoTransform((5.0, 0.1, 0, 52.0, 0, -0.1))
raster.SetProjection(here.ExportToWkt())
y, x = np.mgrid[0:60, 0:90]
raster.GetRasterBand(1).WriteArray((np.hypot(x - 45, y - 30)).astype("float32"))

utm = gdal.Warp("", raster, format="MEM", dstSRS="EPSG:32632", dstNodata=-1)
low, high, mean, deviation = utm.GetRasterBand(1).ComputeStatistics(False)
print(f"{utm.RasterXSize} x {utm.RasterYSize} cells in UTM zone 32N")
print(f"min {low:.2f}  max {high:.2f}  mean {mean:.2f}  std {deviation:.2f}")
"""
PANDAS = """
import pandas as pd

frame = pd.DataFrame({"species": ["oak", "elm", "oak", "fir", "elm"], "height_m": [21.0, 17.5, 24.0, 31.0, 18.5]})
frame.groupby("species").height_m.mean()
"""
NETWORKX = """
import networkx as nx
from tabulate import tabulate

graph = nx.karate_club_graph()
central = sorted(nx.betweenness_centrality(graph).items(), key=lambda item: -item[1])[:3]
print(tabulate(central, headers=["member", "betweenness"], floatfmt=".3f"))
"""
PROGRAMS = {
    "a) a sine wave, plotted into the mounted directory": SINE,
    "b) GDAL: a raster made, projected, and its statistics": GDAL,
    "c) a pandas group-by; the last expression's value comes back": PANDAS,
    "d) packages that the template does not have": NETWORKX,
    "c) the group-by again, now from a warm interpreter": PANDAS,
}


def main() -> int:
    """Warm up and run; return the exit code."""
    home = Path(sys.argv[1])
    variables = {**os.environ, "MCP_CONDA_RUN_CACHE_DIR": str(home / "cache")}
    channel = choose_channel(home)
    if channel:
        variables["MCP_CONDA_RUN_CHANNELS"] = channel
    say("Warming up the template `base`")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mcp_conda_run", "warmup"], env=variables, check=True)
    print(f"    {time.perf_counter() - began:.1f} s")
    working = home / "working"
    working.mkdir(exist_ok=True)
    failures = asyncio.run(run_programs(variables, working))
    failures += check_plot(working / "sine_wave.png")
    failures += check_nothing_left(home / "cache")
    say("All of it worked." if not failures else f"{failures} thing(s) failed.")
    return 1 if failures else 0


def say(text: str) -> None:
    """Print a headline."""
    print(f"\n==> {text}", flush=True)


def choose_channel(home: Path) -> str:
    """Return the channel to use instead of conda-forge, or nothing where conda-forge can be reached."""
    index = f"{rattler.Channel('conda-forge').base_url}noarch/repodata_shards.msgpack.zst"
    try:
        request = urllib.request.Request(index, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S).close()
    except (urllib.error.URLError, OSError) as error:
        say(f"conda-forge cannot be reached from here ({error}): building a local channel from PyPI wheels instead")
        channel = home / "channel"
        if not (channel / "noarch/repodata.json").exists():
            builder = [sys.executable, SCRIPTS / "build_local_channel.py", channel, "--set", "scientific"]
            subprocess.run(builder, check=True)
        return channel.as_uri()
    say("Packages come from conda-forge")
    return ""


async def run_programs(variables: Mapping[str, str], working: Path) -> int:
    """Run the programs through the MCP server, as an agent would; return how many failed."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_conda_run", "stdio", "--path", str(working)],
        env=dict(variables),
    )
    failures = 0
    async with Client(stdio_client(server)) as client:
        for title, code in PROGRAMS.items():
            say(title)
            arguments = {"python_code": code, "timeout_s": 120}
            result = await client.call_tool("run_python_code", arguments, read_timeout_seconds=CALL_TIMEOUT_S)
            while result.structured_content and result.structured_content["status"] == "running":
                run_id = result.structured_content["run_id"]
                result = await client.call_tool("get_run", {"run_id": run_id}, read_timeout_seconds=CALL_TIMEOUT_S)
            failures += show(result)
    return failures


def show(result: CallToolResult) -> int:
    """Print what came back; return 1 if it was no success."""
    document: dict[str, Any] = result.structured_content or {}
    for block in result.content:
        if block.type == "text" and "<status>" in block.text:
            print(textwrap.indent(block.text, "    "))
        elif block.type == "image":
            print(f"    [image: {block.mime_type}, {len(block.data)} characters]")
    for package in document.get("packages", ()):
        print(f"    added {package['name']} {package['version']} because: {package['reason']}")
    timings = document.get("timings_ms", {})
    print(f"    started by: {document.get('start') or 'nothing'}")
    print("    time: " + ", ".join(f"{phase} {ms:.1f} ms" for phase, ms in timings.items()))
    return int(document.get("status") != "success")


def check_plot(path: Path) -> int:
    """Check that the plot is really there."""
    good = path.exists() and path.read_bytes().startswith(b"\x89PNG")
    say(f"{path}: {path.stat().st_size} bytes" if good else f"{path} is missing")
    return int(not good)


def check_nothing_left(cache: Path) -> int:
    """Check that no prefix, no scratch directory and no process of the runs is left."""
    left = [entry for name in ("runs", "scratch") for entry in (cache / name).iterdir()]
    processes = psutil.Process().children(recursive=True)
    say(
        f"Left behind: {len(left)} prefixes and scratch directories, {len(processes)} processes; "
        f"{len(list((cache / 'envs').glob('*.json')))} environments stay for the next runs"
    )
    return int(bool(left or processes))


if __name__ == "__main__":
    sys.exit(main())
