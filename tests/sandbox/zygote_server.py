"""Fixtures for tests of warm interpreters: a server of `zygote_host.py` for each user. Import them by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, UNPRIVILEGED, USERS, Place, make_place

PACKAGE_GUEST = ROOT / "mcp_conda_run" / "guest"


class Server:
    """A server with warm interpreters, as one user."""

    def __init__(self, user: str, place: Place) -> None:
        self.user = user
        self.place = place
        uid = UNPRIVILEGED if user == "unprivileged" else os.geteuid()
        python = str(place.cache.with_name("python"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sandbox.zygote_host", str(uid), python, str(place.cache)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, how: str = "pool", code: str = "pass", **more: Any) -> dict[str, Any]:
        """Run code in one of the ways; see `zygote_host`."""
        self.send(how, code, **more)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the server ended"}
        if answer.get("error"):
            pytest.fail(f"the run could not be made: {answer['error']}")
        assert answer["how"] == how
        return answer

    def send(self, how: str, code: str, **more: Any) -> None:
        """Ask for a run without waiting for it."""
        assert self._process.stdin is not None
        print(json.dumps({"how": how, "code": code, **more}), file=self._process.stdin, flush=True)

    def kill(self) -> None:
        """Kill it as nothing can prevent."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def replace_file(path: Path, text: str) -> None:
    """Give a file of an environment another content, under its owner; clones that share the file keep the old one."""
    owner = path.stat()
    path.unlink()
    path.write_text(text)
    os.chown(path, owner.st_uid, owner.st_gid)


def zygote_place(installed: Path, user: str) -> Place:
    """Return a user's places, the guest's modules among them."""
    place = make_place(installed, user)
    guest = place.cache.with_name("guest")
    if not guest.exists():
        shutil.copytree(PACKAGE_GUEST, guest, ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.fixture(scope="session")
def servers(installed: Path) -> Iterator[Callable[[str], Server]]:
    """Return the server of a user, which lives as long as the tests."""
    running: dict[str, Server] = {}

    def server(user: str) -> Server:
        if user not in running:
            running[user] = Server(user, zygote_place(installed, user))
        return running[user]

    yield server
    for one in running.values():
        one.close()


@pytest.fixture(params=USERS)
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Server:
    return servers(request.param)
