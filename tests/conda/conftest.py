"""An engine with caches of its own for each test, and a short way to ask it."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_conda_run.conda.choose import own_micromamba
from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.micromamba import MicromambaEngine, find_micromamba, tried
from mcp_conda_run.conda.rattler import RattlerEngine
from mcp_conda_run.models import LockedPackage

Row = dict[str, Any]
Edit = Callable[[str, Row], Row | None]
Derive = Callable[[Edit], Path]
Solve = Callable[..., Awaitable[tuple[LockedPackage, ...]]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


FOUND = find_micromamba(None, own_micromamba())
NO_MICROMAMBA = "" if FOUND is not None and not FOUND.problem else "no micromamba in MAMBA_EXE or on PATH"
"""Asked before any test changes the environment."""

ENGINES = (
    "rattler",
    pytest.param("micromamba", marks=pytest.mark.skipif(bool(NO_MICROMAMBA), reason=NO_MICROMAMBA)),
)

Engine = RattlerEngine | MicromambaEngine
MakeEngine = Callable[..., Engine]


@pytest.fixture(params=ENGINES)
def make_engine(request: pytest.FixtureRequest, cache: Path) -> MakeEngine:
    """`make_engine(timeout_s=1)`: each engine in turn, on this test's caches."""

    def make(pkgs: Path = cache / "pkgs", repodata: Path = cache / "repodata", **options: Any) -> Engine:
        options = {"timeout_s": 120, **options}
        if request.param == "rattler":
            return RattlerEngine(pkgs, repodata, **options)
        assert FOUND is not None
        return MicromambaEngine(FOUND, pkgs, repodata, **options)

    return make


Program = Callable[..., Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Write a shell script that stands in for a micromamba that fails, in a way in which no real one can be made to.

    It says a version, and then does what is given. None succeeds at anything: that micromamba solves and installs is
    for the tests that have an `engine`, which call a real one.
    """

    def write(body: str = "exit 1", version: str = "2.8.1", name: str = "micromamba") -> Path:
        path = tmp_path / f"bin-{len(list(tmp_path.glob('bin-*')))}" / name
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo {version} && exit 0\n{body}\n')
        path.chmod(0o755)
        return path

    return write


def stand_in(path: Path, cache: Path, **options: Any) -> MicromambaEngine:
    """Return the engine on a stand-in."""
    return MicromambaEngine(tried(path, "given"), cache / "pkgs", cache / "repodata", **{"timeout_s": 60, **options})


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine()


@pytest.fixture
def offline_engine(make_engine: MakeEngine) -> Engine:
    """An engine on the same caches that never uses the network."""
    return make_engine(offline=True)


@pytest.fixture
def unpacked(engine: Engine, cache: Path) -> Path:
    """Where the engine keeps its unpacked packages."""
    return cache / "pkgs" if engine.name == "rattler" else cache / "pkgs/micromamba/pkgs"


@pytest.fixture
def channel(small_channel: Path) -> str:
    return small_channel.as_uri()


@pytest.fixture
def solve(engine: Engine, channel: str) -> Solve:
    """`await solve("numpy <2", pinned=...)` on the small channel, for this machine."""

    async def ask(*specs: str, channels: tuple[str, ...] = (channel,), **more: object) -> tuple[LockedPackage, ...]:
        request = SolveRequest(specs=specs, channels=channels, platform=current_platform(), **more)  # type: ignore[arg-type]
        return await engine.solve(request)

    return ask


@pytest.fixture
def derive(small_channel: Path, tmp_path: Path) -> Derive:
    """Make a channel like the small one, with each row of its repodata edited, or left out where the edit is None.

    The archives are hard links: replace one, never write into it.
    """

    def make(edit: Edit) -> Path:
        root = tmp_path / f"derived-{len(list(tmp_path.glob('derived-*')))}"
        for subdir in (current_platform(), "noarch"):
            (root / subdir).mkdir(parents=True)
            whole = json.loads((small_channel / subdir / "repodata.json").read_text())
            for kind in ("packages", "packages.conda"):
                edited = {name: edit(name, dict(row)) for name, row in whole.get(kind, {}).items()}
                whole[kind] = {name: row for name, row in edited.items() if row is not None}
                for name in whole[kind]:
                    os.link(small_channel / subdir / name, root / subdir / name)
            (root / subdir / "repodata.json").write_text(json.dumps(whole))
        return root

    return make
