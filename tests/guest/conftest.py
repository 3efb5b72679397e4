"""Fixtures for programs in a real guest: `run` under the tests' own Python, `run_any` under every one that is there."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mcp_conda_run.sandbox.conversation import Conversation

from .harness import run_guest

Run = Callable[..., Awaitable[Conversation]]
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


@functools.cache
def find_python(version: str) -> str | None:
    """Return a working interpreter of this version, or None."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        return None
    told = subprocess.run(
        [found, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or None


@pytest.fixture(scope="session")
def guest_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory that all guests share, so that matplotlib makes its font cache once."""
    return tmp_path_factory.mktemp("guest-home")


@pytest.fixture
def run(tmp_path: Path, guest_home: Path) -> Run:
    """Run code in a fresh guest under the tests' own Python."""
    return functools.partial(run_guest, tmp_path, variables={"HOME": str(guest_home)})


@pytest.fixture(params=VERSIONS)
def run_any(request: pytest.FixtureRequest, tmp_path: Path, guest_home: Path) -> Run:
    """Run code in a fresh guest, once under each version of Python."""
    python = find_python(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} here")
    return functools.partial(run_guest, tmp_path, python=python, variables={"HOME": str(guest_home)})
