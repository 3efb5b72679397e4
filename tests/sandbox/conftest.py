"""An environment for each kind of server: of the user who runs the tests and, if that is root, of somebody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcp_conda_run.sandbox.spawner_client import PACKAGE

from ..support import prefixes
from . import KEY

UNPRIVILEGED = 12345
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Place:
    """Directories that a server has: its cache with one environment, and a workspace; on a path that all may pass."""

    cache: Path
    workspace: Path

    @property
    def prefix(self) -> Path:
        return self.cache / "envs" / KEY


class Host:
    """A server of `host.py`, as one user; `within` is a command that runs it somewhere else."""

    def __init__(self, user: str, place: Place, within: Sequence[str] = ()) -> None:
        self.user = user
        self.place = place
        uid = UNPRIVILEGED if user == "unprivileged" else os.geteuid()
        python = place.cache.with_name("python")
        self._process = subprocess.Popen(
            [*within, sys.executable, "-m", "tests.sandbox.host", str(uid), str(python)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        if user == "unprivileged":
            self._send(code="pass", tier="A")

    def run(self, tier: str, code: str, **more: Any) -> dict[str, Any]:
        """Run code in a tier; see `host.run`."""
        self._send(tier=tier, code=code, **more)
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        if answer.get("error"):
            pytest.fail(f"the run could not be made: {answer['error']}")
        return answer

    def _send(self, **request: Any) -> None:
        assert self._process.stdin is not None
        print(json.dumps({"cache": str(self.place.cache), **request}), file=self._process.stdin, flush=True)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture(scope="session")
def installed(small_channel: Path) -> Iterator[Path]:
    """A cache directory with one environment, of the user who runs the tests."""
    directory = Path(tempfile.mkdtemp(prefix="sandbox-tests-"))
    directory.chmod(0o755)
    shutil.copytree(Path(__file__).with_name("guest"), directory / "guest")
    prefixes.install(
        small_channel, directory / "own/cache/envs" / KEY, "python", "numpy", "pip", cache=directory / "packages"
    )
    python = directory / "own/cache/envs" / KEY / "bin/python"
    imports = (
        "import numpy, pip._internal.commands.install, asyncio, sqlite3, multiprocessing.managers, zipfile, zoneinfo"
    )
    subprocess.run([python, "-c", imports], check=True)  # leaves bytecode behind, as the making of an environment does
    yield directory
    shutil.rmtree(directory)


USERS = ("own", "unprivileged")


def make_place(installed: Path, user: str) -> Place:
    """Return the places of a user; whose environment is owned by that user (overlays cannot do without)."""
    place = Place(installed / user / "cache", installed / user / "workspace")
    if user == "unprivileged":
        if os.geteuid() != 0:
            pytest.skip("only root can become somebody else")
        if subprocess.run(["test", "-r", PACKAGE / "errors.py"], user=UNPRIVILEGED, check=False).returncode:
            pytest.skip("others may not read this checkout")
        if not place.cache.exists():
            shutil.copytree(installed / "own/cache/envs", place.cache / "envs", symlinks=True)
        place.workspace.mkdir(exist_ok=True)
        python = place.cache.with_name("python")
        python.write_text(f'#!/bin/sh\nexec {place.prefix}/bin/python -B "$@"\n')  # leaves no bytecode behind
        python.chmod(0o755)
        subprocess.run(["chown", "-R", f"{UNPRIVILEGED}:{UNPRIVILEGED}", installed / user], check=True)
    place.workspace.mkdir(exist_ok=True)
    return place


@pytest.fixture(scope="session")
def hosts(installed: Path) -> Iterator[Callable[[str], Host]]:
    """Return the server of a user, which lives as long as the tests."""
    running: dict[str, Host] = {}

    def host(user: str) -> Host:
        if user not in running:
            running[user] = Host(user, make_place(installed, user))
        return running[user]

    yield host
    for one in running.values():
        one.close()


@pytest.fixture(params=USERS)
def host(request: pytest.FixtureRequest, hosts: Callable[[str], Host]) -> Host:
    return hosts(request.param)
