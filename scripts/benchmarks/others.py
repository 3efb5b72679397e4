"""What people do instead: a fresh environment a run, made by uv, by venv and pip, or by micromamba."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .starts import PROGRAMS, spawn
from .timing import Series, interleaved

POOL = "numpy: pool"
UV_TIMES, MAMBA_TIMES = 50.0, 200.0
TRY_S = 120


def commands(directory: Path) -> dict[str, tuple[list[str] | str, float]]:
    """Return, for each alternative, its command or why there is none, and how many times slower it shall be."""
    code = PROGRAMS["numpy"]
    found: dict[str, tuple[list[str] | str, float]] = {}
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    uv_run = [uv, "run", "--quiet", "--no-project", "--python", version, "--with", "numpy", "python", "-c", code]
    found["uv run --with numpy"] = (uv_run if os.access(uv, os.X_OK) else "there is no uv", UV_TIMES)
    venv = f'{sys.executable} -m venv "$0" && "$0/bin/pip" install -q numpy && "$0/bin/python" -c "$1"; rm -r "$0"'
    found["venv + pip install numpy + rm"] = (["sh", "-c", venv, str(directory / "venv"), code], 0)
    mamba = os.environ.get("MAMBA_EXE") or shutil.which("micromamba")
    channels = os.environ.get("MCP_CONDA_RUN_CHANNELS", "conda-forge").split(",")
    if mamba:
        options = " ".join(f"-c {channel}" for channel in channels)
        script = (
            f'"{mamba}" create -yq -p "$0" --override-channels {options} python numpy >&2 && "$0/bin/python" -c "$1"'
        )
        found["micromamba create + run + rm"] = (
            ["sh", "-c", f'{script}; rm -r "$0"', str(directory / "mamba"), code],
            MAMBA_TIMES,
        )
    else:
        found["micromamba create + run + rm"] = ("there is no micromamba", MAMBA_TIMES)
    return found


async def measure_others(rounds: int) -> list[Series]:
    """Measure them warm: the first time of each is not kept."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for name, (command, times) in commands(Path(directory)).items():
            series = Series(name, POOL, -times)
            found.append(series)
            if isinstance(command, str):
                series.skipped = command
                continue
            try:
                await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=TRY_S)
            except (subprocess.SubprocessError, OSError) as error:
                series.skipped = str(getattr(error, "stderr", b"") or error)[-200:]
                continue
            series.times = (await interleaved({name: spawn(command)}, rounds))[name]
    return found
