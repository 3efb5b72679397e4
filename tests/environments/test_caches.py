"""Caches of packages: when they are built with an environment, and how a run finds them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mcp_conda_run.environments import build
from mcp_conda_run.guest import caches
from mcp_conda_run.models import Environment, LockedPackage, Progress

MATPLOTLIB = LockedPackage(name="matplotlib-base", version="3", url="https://example.org/matplotlib-base-3.conda")
NEWER = LockedPackage(name="matplotlib-base", version="4", url="https://example.org/matplotlib-base-4.conda")
OTHER = LockedPackage(name="six", version="1", url="https://example.org/six-1.conda")
WHEEL = LockedPackage(name="thing", version="1", channel="pypi", manager="pypi")


def environment(*packages: LockedPackage) -> Environment:
    return Environment(
        key="0" * 16,
        prefix=Path("/nowhere"),
        python_version="3",
        python="bin/python",
        modules={},
        stdlib=frozenset(),
        packages=packages,
        variables={},
    )


@pytest.mark.parametrize(
    ("packages", "base", "built"),
    [
        ((MATPLOTLIB,), None, True),
        ((OTHER,), None, False),
        ((MATPLOTLIB, OTHER), environment(MATPLOTLIB), False),  # the clone has them
        ((NEWER,), environment(MATPLOTLIB), True),
        ((MATPLOTLIB, WHEEL), None, False),  # wheels may run code at any start of the interpreter
    ],
)
async def test_caches_are_built_where_packages_that_have_some_are_new(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    packages: tuple[LockedPackage, ...],
    base: Environment | None,
    built: bool,
):
    asked = []

    async def run_guest(_: Path, __: Path, script: str, home: str, **___: object) -> str:
        asked.append((script, home))
        return ""

    monkeypatch.setattr(build, "run_guest", run_guest)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    await build._fill_caches(tmp_path, packages, base, lambda _: None)
    assert asked == ([("caches.py", str(tmp_path / build.CACHES))] if built else [])


async def test_packages_that_cannot_be_imported_do_not_break_the_environment(small_prefix: Path, tmp_path: Path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(small_prefix / "bin/python")  # it has no matplotlib
    seen: list[Progress] = []
    await build._fill_caches(tmp_path, (MATPLOTLIB,), None, seen.append)
    assert len(seen) == 1


def test_a_run_finds_the_environments_caches_in_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "prefix" / caches.PLACE / ".cache/thing"
    source.mkdir(parents=True)
    (source / "list.json").write_text("{}")
    home = tmp_path / "home"
    (home / ".cache").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("HOME", str(home))
    caches.show()
    assert (home / ".cache/thing/list.json").read_text() == "{}"
    caches.show()  # it may be there already


def test_both_sides_mean_the_same_place():
    assert Path(caches.PLACE) == build.CACHES
