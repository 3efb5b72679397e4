"""Wheels into a real conda prefix, by the real worker and the real uv."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.conda.pypi import WheelInstaller
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import Environment, LockedPackage, Progress

from ...support.pypi_index import PypiIndex
from ...support.wheels import make_wheel
from .conftest import Resolve, code_of, site_packages


async def test_wheels_are_installed_with_their_commands(
    index: PypiIndex,
    wheels: Path,
    resolve: Resolve,
    make: Callable[..., WheelInstaller],
    base: Environment,
    prefix: Path,
):
    index.add(make_wheel(wheels, "mcr_pip", scripts={"mcr-pip": "mcr_pip:main"}))
    heard: list[Progress] = []
    await make().install(await resolve("mcr-pip"), prefix, base.python_version, heard.append)
    assert await asyncio.to_thread(subprocess.check_output, [prefix / "bin/mcr-pip"]) == b"1.0\n"
    assert "link" in {progress.phase for progress in heard}


async def test_nothing_but_the_wheels_own_files_is_added(
    index: PypiIndex,
    wheels: Path,
    resolve: Resolve,
    make: Callable[..., WheelInstaller],
    base: Environment,
    prefix: Path,
):
    index.add(make_wheel(wheels, "mcr_pip"))
    before = set(prefix.rglob("*"))
    await make().install(await resolve("mcr-pip"), prefix, base.python_version)
    added = {str(path.relative_to(site_packages(prefix))) for path in set(prefix.rglob("*")) - before}
    assert {name for name in added if not name.startswith("mcr_pip-1.0.dist-info")} == {"mcr_pip.py"}


async def test_installing_runs_no_code_of_the_wheel(
    index: PypiIndex,
    wheels: Path,
    resolve: Resolve,
    make: Callable[..., WheelInstaller],
    base: Environment,
    prefix: Path,
):
    evil = f"import pathlib; pathlib.Path({str(prefix / 'ran')!r}).touch()\n"
    index.add(make_wheel(wheels, "mcr_pip", files={"mcr_pip.py": evil, "sitecustomize.py": evil, "evil.pth": evil}))
    await make().install(await resolve("mcr-pip"), prefix, base.python_version)
    assert (site_packages(prefix) / "evil.pth").exists()
    assert not (prefix / "ran").exists()


async def test_a_wheel_that_was_exchanged_between_resolving_and_installing_is_refused(
    index: PypiIndex, wheels: Path, resolve: Resolve, make: Callable[..., WheelInstaller], base: Environment,
    prefix: Path, tmp_path: Path,
):  # fmt: skip
    index.add(make_wheel(wheels, "mcr_pip"))
    found = await resolve("mcr-pip")
    shutil.rmtree(tmp_path / "pypi")
    index.files["mcr_pip-1.0-py3-none-any.whl"] = make_wheel(
        wheels, "mcr_pip", files={"mcr_pip.py": "evil"}
    ).read_bytes()
    assert await code_of(make().install(found, prefix, base.python_version)) == "checksum-mismatch"
    assert not (site_packages(prefix) / "mcr_pip.py").exists()


async def test_a_wheel_that_was_damaged_in_the_store_is_fetched_again(
    index: PypiIndex, wheels: Path, resolve: Resolve, make: Callable[..., WheelInstaller], base: Environment,
    prefix: Path, tmp_path: Path,
):  # fmt: skip
    index.add(make_wheel(wheels, "mcr_pip"))
    found = await resolve("mcr-pip")
    (stored,) = tmp_path.glob("pypi/wheels/*/*.whl")
    make_wheel(stored.parent, "mcr_pip", files={"mcr_pip.py": "evil"})
    await make().install(found, prefix, base.python_version)
    assert "evil" not in (site_packages(prefix) / "mcr_pip.py").read_text()


async def test_a_wheel_is_installed_offline_from_the_store(
    index: PypiIndex,
    wheels: Path,
    resolve: Resolve,
    make: Callable[..., WheelInstaller],
    base: Environment,
    prefix: Path,
):
    index.add(make_wheel(wheels, "mcr_pip"))
    found = await resolve("mcr-pip")
    index.stop()
    await make(offline=True).install(found, prefix, base.python_version)
    assert (site_packages(prefix) / "mcr_pip.py").exists()


async def test_a_wheel_without_a_digest_is_never_installed(
    make: Callable[..., WheelInstaller], base: Environment, prefix: Path
):
    url = "http://127.0.0.1:9/mcr_pip-1.0-py3-none-any.whl"
    wheel = LockedPackage(name="mcr-pip", version="1.0", url=url, manager="pypi")
    with pytest.raises(InstallError) as caught:
        await make().install([wheel], prefix, base.python_version)
    assert caught.value.code == "bad-package"


def descendants() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if process.is_running()]


async def test_a_cancelled_resolution_leaves_no_process(index: PypiIndex, resolve: Resolve):
    before = set(descendants())
    index.hold()
    task = asyncio.ensure_future(resolve("mcr-pip"))
    assert await asyncio.to_thread(index.reached.wait, 30)
    assert set(descendants()) > before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(descendants()) == before


async def test_a_cancelled_uv_dies(index: PypiIndex, wheels: Path, resolve: Resolve):
    index.add(make_wheel(wheels, "mcr_pip", requires=("mcr-dep",)))
    before = set(descendants())
    index.hold("/simple/mcr-dep/")  # which only uv asks for before all is solved
    task = asyncio.ensure_future(resolve("mcr-pip"))
    assert await asyncio.to_thread(index.reached.wait, 30)
    assert "uv" in {process.name() for process in descendants()}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(descendants()) == before
