"""Local conda channels, built once per content and kept between test runs.

Used by the fixtures in `tests/conftest.py`. A channel is found by the hash of all that goes into it; it appears in one
step, under a lock, so that parallel and aborted builds do no harm. Whoever gets a channel must not write to it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
OUTER_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment as it was before any test changed it: building uses the real home's pip cache."""

NOT_RELOCATABLE = 3
BUILD_TIMEOUT_S = 600
UNUSED_AFTER_S = 3 * 86400


@dataclass(frozen=True, slots=True)
class Wanted:
    """A channel that tests want: a set of the builder, and the Python (empty: what the builder chooses)."""

    package_set: str
    python: str = ""

    @property
    def command(self) -> list[str]:
        """The builder's arguments after the directory."""
        python = ["--python", self.python] if self.python else []
        return ["--quiet", "--set", self.package_set, *python]

    def key(self) -> str:
        """Return 16 hexadecimal digits for all that goes into the channel and is known before it is built."""
        digest = hashlib.sha256(repr(self).encode())
        digest.update(f"{sys.version} {sysconfig.get_platform()} {sys.base_prefix}".encode())
        for source in sorted([SCRIPTS / "build_local_channel.py", *(SCRIPTS / "local_channel").glob("*.py")]):
            digest.update(source.read_bytes())
        return digest.hexdigest()[:16]


def cache_directory() -> Path:
    """Return where channels are kept: MCP_CONDA_RUN_TEST_CACHE, or the user's cache directory."""
    named = OUTER_ENVIRONMENT.get("MCP_CONDA_RUN_TEST_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("mcp-conda-run-tests")


def channel(wanted: Wanted, cache: Path) -> Path:
    """Return the channel, which is built if it is not in the cache.

    Skips the test where no CPython can be repackaged; fails it, with the builder's words, for any other reason.
    """
    place = cache / f"{wanted.package_set}-{wanted.key()}"
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / "lock", timeout=2 * BUILD_TIMEOUT_S):
        _remove_unused(cache, keep=place)
        if not place.is_dir():
            _build(wanted, place)
        os.utime(place)
    return place


def _build(wanted: Wanted, place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".building-", dir=place.parent) as folder:
        out = Path(folder, "channel")
        done = subprocess.run(
            [sys.executable, SCRIPTS / "build_local_channel.py", out, *wanted.command],
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_TIMEOUT_S,
            env=OUTER_ENVIRONMENT,
        )
        if done.returncode == NOT_RELOCATABLE:
            pytest.skip(f"no local channel: {done.stderr.strip()}")
        if done.returncode:
            pytest.fail(f"the local channel could not be built:\n{done.stderr.strip()}", pytrace=False)
        out.rename(place)


def _remove_unused(cache: Path, keep: Path) -> None:
    """Remove channels of other contents that no test run has used for long, and what aborted builds left.

    Called under the lock: what another build has begun cannot be there.
    """
    for place in cache.iterdir():
        old = place.stat().st_mtime < time.time() - UNUSED_AFTER_S
        if place != keep and place.is_dir() and (old or place.name.startswith(".building-")):
            shutil.rmtree(place, ignore_errors=True)
