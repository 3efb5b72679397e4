"""A full disk and a read-only cache, on real small file systems; skipped where these cannot be mounted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.errors import HostError
from mcp_conda_run.models import LockedPackage

from ..support.http_channel import ChannelServer
from .conftest import Engine, MakeEngine, Solve

Serve = Callable[[Path], ChannelServer]


def mount(*arguments: str | Path) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", disk):
        pytest.skip("cannot mount a file system here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def make_read_only(disk: Path) -> None:
    assert mount("-o", "remount,ro", disk)


async def fault(engine: Engine, packages: tuple[LockedPackage, ...], prefix: Path) -> HostError:
    with pytest.raises(HostError) as caught:
        await engine.install(packages, prefix)
    return caught.value


async def test_a_disk_that_fills_while_fetching_is_one_clear_error(
    make_engine: MakeEngine, solve: Solve, small_disk: Path, tmp_path: Path, small_channel: Path, http_channel: Serve
) -> None:
    packages = await solve("python", channels=(http_channel(small_channel).url,))
    engine = make_engine(small_disk / "pkgs", tmp_path / "repodata", timeout_s=60)
    error = await fault(engine, packages, tmp_path / "prefix")
    assert error.code == "disk-full"
    assert str(small_disk) in error.message
    assert error.hint


async def test_a_disk_that_fills_while_linking_is_one_clear_error(
    engine: Engine, solve: Solve, small_disk: Path
) -> None:
    error = await fault(engine, await solve("python"), small_disk / "prefix")
    assert error.code == "disk-full"
    assert str(small_disk) in error.message


async def test_after_a_full_disk_a_smaller_install_works(
    make_engine: MakeEngine, solve: Solve, small_disk: Path, tmp_path: Path
) -> None:
    engine = make_engine(small_disk / "pkgs", tmp_path / "repodata", timeout_s=60)
    await fault(engine, await solve("python"), tmp_path / "first")
    await engine.install(await solve("mcr-prefix"), tmp_path / "second")
    assert (tmp_path / "second/share/mcr").is_dir()


async def test_a_read_only_package_cache_is_one_clear_error(
    make_engine: MakeEngine, solve: Solve, small_disk: Path, tmp_path: Path
) -> None:
    packages = await solve("mcr-prefix")
    make_read_only(small_disk)
    engine = make_engine(small_disk / "pkgs", tmp_path / "repodata", timeout_s=60)
    error = await fault(engine, packages, tmp_path / "prefix")
    assert error.code == "cache-read-only"
    assert str(small_disk) in error.message
    assert "MCP_CONDA_RUN_CACHE_DIR" in error.hint


async def test_a_package_cache_that_became_read_only_is_one_clear_error(
    make_engine: MakeEngine, solve: Solve, small_disk: Path, tmp_path: Path
) -> None:
    engine = make_engine(small_disk / "pkgs", tmp_path / "repodata", timeout_s=60)
    await engine.install(await solve("mcr-activate"), tmp_path / "first")
    make_read_only(small_disk)
    error = await fault(engine, await solve("mcr-prefix"), tmp_path / "second")
    assert error.code == "cache-read-only"


async def test_a_prefix_on_a_read_only_disk_is_one_clear_error(engine: Engine, solve: Solve, small_disk: Path) -> None:
    make_read_only(small_disk)
    error = await fault(engine, await solve("mcr-prefix"), small_disk / "prefix")
    assert error.code == "cache-read-only"
    assert str(small_disk) in error.message


async def test_a_read_only_repodata_cache_is_one_clear_error(
    make_engine: MakeEngine, small_disk: Path, tmp_path: Path, small_channel: Path
) -> None:
    make_read_only(small_disk)
    engine = make_engine(tmp_path / "pkgs", small_disk / "repodata", timeout_s=60)
    request = SolveRequest(specs=["mcr-prefix"], channels=[small_channel.as_uri()], platform=current_platform())
    with pytest.raises(HostError) as caught:
        await engine.solve(request)
    assert caught.value.code == "cache-read-only"


async def test_a_cache_directory_that_is_a_file_is_one_clear_error(
    make_engine: MakeEngine, solve: Solve, tmp_path: Path
) -> None:
    packages = await solve("mcr-prefix")
    (tmp_path / "pkgs").write_text("not a directory")
    error = await fault(make_engine(tmp_path / "pkgs", tmp_path / "repodata"), packages, tmp_path / "prefix")
    assert str(tmp_path / "pkgs") in error.message
