"""Environments of the clients: one of its own for each, made with uv or npm, and kept between test runs.

A registry that cannot be reached skips the tests that need it; anything else that goes wrong fails them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from tests.support.channels import OUTER_ENVIRONMENT, cache_directory

CACHE = cache_directory()
"""Found now: tests have homes of their own."""

TIMEOUT_S = 600
UNREACHABLE = (
    "dns error",
    "failed to lookup address",
    "tcp connect error",
    "error sending request",
    "connection refused",
    "network is unreachable",
    "operation timed out",
    "network connectivity is disabled",
    "enotfound",
    "eai_again",
    "econnrefused",
    "econnreset",
    "etimedout",
)


def python_with(*requirements: str) -> Path:
    """Return the interpreter of an environment that has these packages, and nothing of the project."""

    def make(place: Path) -> None:
        uv = shutil.which("uv") or _beside_python("uv")
        _install([uv, "venv", "--quiet", "--python", sys.executable, "--relocatable", str(place)])
        python = str(place / "bin" / "python")
        _install([uv, "pip", "install", "--quiet", "--python", python, "--compile-bytecode", *requirements])

    return _made(f"python-{sys.version}", requirements, make) / "bin" / "python"


def node_with(*packages: str) -> Path:
    """Return a directory whose `node_modules` has these packages; skip where there is no npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here")

    def make(place: Path) -> None:
        place.mkdir()
        (place / "package.json").write_text("{}")
        _install([npm, "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(place), *packages])

    return _made("node", packages, make)


def run(command: list[str | Path], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a client to its end, bounded; its environment is the outer one without Python's own variables."""
    environment = {name: value for name, value in OUTER_ENVIRONMENT.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=environment | variables
    )


def last_line(done: subprocess.CompletedProcess[str]) -> dict:
    """Return what a client script reported."""
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def _made(kind: str, wanted: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    key = hashlib.sha256(f"{kind} {wanted}".encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    place = CACHE / f"client-{key}"
    with filelock.FileLock(CACHE / f"client-{key}.lock", timeout=TIMEOUT_S):
        if not place.is_dir():
            with tempfile.TemporaryDirectory(prefix=".client-", dir=CACHE) as folder:
                made = Path(folder, "it")
                make(made)
                made.rename(place)
        os.utime(place)
    return place


def _install(command: list[str]) -> None:
    done = run(list(command))
    if done.returncode == 0:
        return
    said = f"{done.stdout}\n{done.stderr}".strip()
    if any(sign in said.lower() for sign in UNREACHABLE):
        pytest.skip(f"the registry cannot be reached: {said[-300:]}")
    pytest.fail(f"{' '.join(command)}:\n{said[-3000:]}", pytrace=False)


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
