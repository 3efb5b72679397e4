"""An environment and a channel index made of plain data: planning needs no more."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest

from mcp_conda_run.models import Environment, LockedPackage, PackageFacts
from mcp_conda_run.planning.planner import Planner
from mcp_conda_run.planning.policy import Policy

STDLIB = frozenset(sys.stdlib_module_names) - {"distutils", "imp", "asyncore", "asynchat"}


def make_environment(*modules: str, packages: Mapping[str, str] | None = None) -> Environment:
    """Make an environment of Python 3.12 that offers these modules."""
    return Environment(
        key="0123456789abcdef" + str(hash(modules)),
        prefix=Path("/nowhere"),
        python_version="3.12.4",
        python="bin/python3.12",
        modules={module: module.partition(".")[0] for module in modules},
        stdlib=STDLIB,
        packages=tuple(LockedPackage(name=name, version=version) for name, version in (packages or {}).items()),
        variables={},
    )


class CountingIndex:
    """An index of given names that counts how often it is asked."""

    def __init__(self, names: Mapping[str, bool], channels: Mapping[str, str], platform: str = "linux-64") -> None:
        self.platform = platform
        self.asked: list[frozenset[str]] = []
        self._facts = {
            name: PackageFacts(name, channels.get(name, "https://mirror.test/main"), "1", is_python)
            for name, is_python in names.items()
        }

    async def describe(self, names: Collection[str]) -> Mapping[str, PackageFacts]:
        self.asked.append(frozenset(names))
        return {name: self._facts[name] for name in names if name in self._facts}

    async def names(self) -> frozenset[str]:
        return frozenset(self._facts)


MakeIndex = Callable[..., CountingIndex]


@pytest.fixture
def environment() -> Environment:
    return make_environment("numpy", "pandas", "matplotlib", packages={"numpy": "2.1.0", "pandas": "2.2.2"})


@pytest.fixture
def make_index() -> MakeIndex:
    def make(
        *python: str,
        other: Collection[str] = (),
        channels: Mapping[str, str] | None = None,
        platform: str = "linux-64",
    ) -> CountingIndex:
        return CountingIndex(dict.fromkeys(python, True) | dict.fromkeys(other, False), channels or {}, platform)

    return make


@pytest.fixture
def planner() -> Planner:
    return Planner(Policy())
