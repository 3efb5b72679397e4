"""A local index, wheels for it, and a real conda prefix to which they can be added."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from mcp_conda_run.conda.pypi import WheelInstaller
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import Environment, LockedPackage, PlannedPackage
from mcp_conda_run.settings import Settings

from ...support.pypi_index import PypiIndex

Resolve = Callable[..., Awaitable[tuple[LockedPackage, ...]]]


@pytest.fixture
def index() -> Iterator[PypiIndex]:
    with PypiIndex() as index:
        yield index


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Where the test makes its wheels."""
    return tmp_path / "dist"


@pytest.fixture
def base(small_prefix: Path) -> Environment:
    """The environment with python and numpy. Not to be written to."""
    library = next(small_prefix.glob("lib/python3.*/site-packages")).parent.name
    return Environment(
        key="0" * 16,
        prefix=small_prefix,
        python_version=f"{library.removeprefix('python')}.0",
        python=f"bin/{library}",
        modules={},
        stdlib=frozenset(),
        packages=(),
        variables={},
    )


@pytest.fixture
def prefix(small_prefix: Path, tmp_path: Path) -> Path:
    """A prefix with python and numpy that may be added to."""
    return shutil.copytree(small_prefix, tmp_path / "prefix", symlinks=True, copy_function=os.link)


@pytest.fixture
def make(index: PypiIndex, tmp_path: Path) -> Callable[..., WheelInstaller]:
    def installer(**others: object) -> WheelInstaller:
        settings = Settings(**{"cache_dir": tmp_path, "pypi_index": index.url, "install_timeout_s": 60, **others})
        return WheelInstaller(settings, tmp_path / "pypi")

    return installer


@pytest.fixture
def resolve(make: Callable[..., WheelInstaller], base: Environment) -> Resolve:
    """`await resolve("humanize", pip_cooldown_days=0)`; `import_name=` is that of the first one."""

    async def ask(*specs: str, import_name: str = "", **settings: object) -> tuple[LockedPackage, ...]:
        wanted = [PlannedPackage(spec, spec, "pypi") for spec in specs]
        wanted[0] = PlannedPackage(specs[0], specs[0], "pypi", import_name)
        return await make(**settings).resolve(wanted, base)

    return ask


async def code_of(answer: Awaitable[object]) -> str:
    """Return the code of the error that comes; it must say what to do."""
    with pytest.raises(InstallError) as caught:
        await answer
    assert caught.value.hint
    return caught.value.code


def site_packages(prefix: Path) -> Path:
    return next(prefix.glob("lib/python3.*/site-packages"))


def numpy_version(prefix: Path) -> str:
    return next(site_packages(prefix).glob("numpy-*.dist-info")).name.split("-")[1].removesuffix(".dist")
