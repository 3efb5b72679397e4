"""Installing for real: what ends up in the prefix, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import LockedPackage, Progress

from ..support.http_channel import ChannelServer
from .conftest import Derive, Engine, Row, Solve

Serve = Callable[[Path], ChannelServer]
WRONG_DIGEST = "0" * 64


@pytest.fixture
def server(small_channel: Path, http_channel: Serve) -> ChannelServer:
    return http_channel(small_channel)


def installed(prefix: Path) -> set[str]:
    return {path.stem for path in (prefix / "conda-meta").glob("*.json")}


async def refusal(engine: Engine, packages: object, prefix: Path) -> InstallError:
    with pytest.raises(InstallError) as caught:
        await engine.install(packages, prefix)  # type: ignore[arg-type]
    return caught.value


def run_python(prefix: Path, code: str) -> str:
    return subprocess.check_output([prefix / "bin/python", "-I", "-c", code], text=True)


def file_of(prefix: Path, pattern: str) -> Path:
    return next(path for path in prefix.rglob(pattern) if path.is_file())


# --- good installs ----------------------------------------------------------------------------------------------------


async def test_an_installed_python_runs_and_imports(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    await engine.install(await solve("python", "numpy"), tmp_path / "prefix")
    said = run_python(tmp_path / "prefix", "import numpy, sys; print(numpy.arange(4).sum(), sys.prefix)")
    assert said.split() == ["6", str(tmp_path / "prefix")]


async def test_installing_again_changes_nothing(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    packages = await solve("mcr-prefix", "mcr-activate")
    await engine.install(packages, tmp_path / "prefix")
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "prefix").rglob("*") if path.is_file()}
    await engine.install(packages, tmp_path / "prefix")
    after = {path: path.lstat().st_mtime_ns for path in (tmp_path / "prefix").rglob("*") if path.is_file()}
    assert {path: before[path] for path in before if "share" in path.parts} == {
        path: after[path] for path in after if "share" in path.parts
    }
    assert before.keys() == after.keys()


async def test_an_existing_prefix_gets_the_difference(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    await engine.install(await solve("mcr-prefix", "mcr-activate"), tmp_path / "prefix")
    await engine.install(await solve("mcr-prefix", "mcr-clib"), tmp_path / "prefix")
    assert installed(tmp_path / "prefix") == {"mcr-prefix-1.0-0", "mcr-clib-1.0-0"}


async def test_an_environment_with_a_pip_gets_more_and_keeps_its_pip(
    engine: Engine, solve: Solve, tmp_path: Path
) -> None:
    await engine.install(await solve("python", "pip"), tmp_path / "prefix")
    await engine.install(await solve("python", "pip", "six"), tmp_path / "prefix")
    assert {"pip", "six"} <= {path.name.rsplit("-", 2)[0] for path in tmp_path.glob("prefix/conda-meta/*.json")}
    assert list(tmp_path.glob("prefix/lib/python3.*/site-packages/pip/__init__.py"))


async def test_another_version_replaces_the_one_that_is_there(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    old = await solve("python", "mcr-two <2")
    await engine.install(old, tmp_path / "prefix")
    await engine.install(await solve("python", "mcr-two >=2"), tmp_path / "prefix")
    assert "2.0" in file_of(tmp_path / "prefix", "mcr_two.py").read_text()


async def test_post_link_scripts_do_not_run(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    await engine.install(await solve("mcr-postlink"), tmp_path / "prefix")
    assert installed(tmp_path / "prefix") == {"mcr-postlink-1.0-0"}
    assert not (tmp_path / "prefix/post-link-ran").exists()


async def test_an_archive_in_the_older_format_is_installed(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    await engine.install(await solve("python", "mcr-old-format"), tmp_path / "prefix")
    assert "mcr-old-format-1.0-pyh0_0" in installed(tmp_path / "prefix")


async def test_files_are_shared_with_the_cache(engine: Engine, solve: Solve, tmp_path: Path, cache: Path) -> None:
    await engine.install(await solve("mcr-activate"), tmp_path / "prefix")
    linked = file_of(tmp_path / "prefix", "activate.d/*.sh")
    assert linked.stat().st_nlink == 2
    assert linked.samefile(file_of(cache / "pkgs", "activate.d/*.sh"))


async def test_progress_counts_packages_and_bytes(
    engine: Engine, solve: Solve, tmp_path: Path, server: ChannelServer
) -> None:
    packages = await solve("python", channels=(server.url,))
    seen: list[Progress] = []
    await engine.install(packages, tmp_path / "prefix", seen.append)
    fetched = [progress for progress in seen if progress.phase == "download"]
    linked = [progress for progress in seen if progress.phase == "link"]
    assert fetched[-1].unit == "bytes"
    assert max(progress.done for progress in fetched) == sum(package.size_bytes for package in packages)
    assert linked[-1].done == linked[-1].total == 3
    assert [progress.done for progress in linked] == sorted(progress.done for progress in linked)


async def test_the_prefix_may_have_a_long_path_with_spaces(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    prefix = tmp_path / "with a space" / ("p" * 60)
    await engine.install(await solve("mcr-prefix"), prefix)
    assert str(prefix) in file_of(prefix, "share/mcr/*.txt").read_text()


# --- archives that are not what they should be ------------------------------------------------------------------------


@pytest.fixture(params=["file", "http"])
def address(request: pytest.FixtureRequest, small_channel: Path, server: ChannelServer) -> str:
    return small_channel.as_uri() if request.param == "file" else server.url


async def test_a_wrong_digest_is_refused_with_a_fresh_cache(
    engine: Engine, solve: Solve, tmp_path: Path, address: str
) -> None:
    (package,) = await solve("mcr-prefix", channels=(address,))
    error = await refusal(engine, [replace(package, sha256=WRONG_DIGEST)], tmp_path / "prefix")
    assert error.code == "checksum-mismatch"
    assert "mcr-prefix" in error.message
    assert error.hint


async def test_a_wrong_digest_is_refused_with_the_right_package_in_the_cache(
    engine: Engine, solve: Solve, tmp_path: Path, address: str
) -> None:
    (package,) = await solve("mcr-prefix", channels=(address,))
    await engine.install([package], tmp_path / "good")
    error = await refusal(engine, [replace(package, sha256=WRONG_DIGEST)], tmp_path / "prefix")
    assert error.code == "checksum-mismatch"


async def test_after_a_wrong_digest_the_right_one_installs(
    engine: Engine, solve: Solve, tmp_path: Path, address: str
) -> None:
    (package,) = await solve("mcr-prefix", channels=(address,))
    await refusal(engine, [replace(package, sha256=WRONG_DIGEST)], tmp_path / "bad")
    await engine.install([package], tmp_path / "good")
    assert installed(tmp_path / "good") == {"mcr-prefix-1.0-0"}


async def test_a_package_without_a_digest_is_refused(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    (package,) = await solve("mcr-prefix")
    assert (await refusal(engine, [replace(package, sha256="")], tmp_path / "prefix")).code == "no-checksum"


async def test_a_damaged_archive_on_disk_is_refused(
    engine: Engine, solve: Solve, tmp_path: Path, derive: Derive
) -> None:
    channel = derive(lambda name, row: row if name.startswith("mcr-prefix-") else None)
    (package,) = await solve("mcr-prefix", channels=(channel.as_uri(),))
    archive = file_of(channel, "mcr-prefix-*.conda")
    whole = archive.read_bytes()
    archive.unlink()
    archive.write_bytes(whole[:-200] + bytes(200))
    assert (await refusal(engine, [package], tmp_path / "prefix")).code == "checksum-mismatch"


async def test_a_damaged_download_is_refused(
    engine: Engine, solve: Solve, tmp_path: Path, server: ChannelServer
) -> None:
    packages = await solve("mcr-prefix", channels=(server.url,))
    server.corrupt("*/mcr-prefix-*")
    assert (await refusal(engine, packages, tmp_path / "prefix")).code == "checksum-mismatch"


async def test_a_download_that_breaks_off_is_an_error_and_the_next_try_works(
    engine: Engine, solve: Solve, tmp_path: Path, server: ChannelServer
) -> None:
    packages = await solve("mcr-prefix", channels=(server.url,))
    server.truncate("*/mcr-prefix-*", keep_bytes=300)
    error = await refusal(engine, packages, tmp_path / "bad")
    assert error.code in {"download-failed", "checksum-mismatch"}  # micromamba sees the digest first
    server.mend()
    await engine.install(packages, tmp_path / "good")
    assert installed(tmp_path / "good") == {"mcr-prefix-1.0-0"}


async def test_a_download_that_breaks_off_once_is_tried_again(
    engine: Engine, solve: Solve, tmp_path: Path, server: ChannelServer
) -> None:
    packages = await solve("mcr-prefix", channels=(server.url,))
    server.truncate("*/mcr-prefix-*", keep_bytes=300, times=1)
    await engine.install(packages, tmp_path / "prefix")
    assert installed(tmp_path / "prefix") == {"mcr-prefix-1.0-0"}


@pytest.mark.parametrize("status", [404, 500, 401])
async def test_an_archive_that_the_server_refuses_is_named_with_the_status(
    engine: Engine, solve: Solve, tmp_path: Path, server: ChannelServer, status: int
) -> None:
    packages = await solve("mcr-prefix", channels=(server.url,))
    server.fail("*/mcr-prefix-*", status)
    error = await refusal(engine, packages, tmp_path / "prefix")
    assert error.code == "download-failed"
    assert "mcr-prefix" in error.message
    assert str(status) in error.message


async def test_an_archive_that_is_gone_from_disk_is_an_error(
    engine: Engine, solve: Solve, tmp_path: Path, derive: Derive
) -> None:
    channel = derive(lambda name, row: row if name.startswith("mcr-prefix-") else None)
    packages = await solve("mcr-prefix", channels=(channel.as_uri(),))
    shutil.rmtree(channel)
    error = await refusal(engine, packages, tmp_path / "prefix")
    assert error.code == "install-failed"
    assert "mcr-prefix" in error.message


async def test_a_cached_package_whose_archive_is_gone_still_installs(
    engine: Engine, solve: Solve, tmp_path: Path, derive: Derive
) -> None:
    channel = derive(lambda name, row: row if name.startswith("mcr-prefix-") else None)
    packages = await solve("mcr-prefix", channels=(channel.as_uri(),))
    await engine.install(packages, tmp_path / "first")
    shutil.rmtree(channel)
    await engine.install(packages, tmp_path / "second")
    assert installed(tmp_path / "second") == {"mcr-prefix-1.0-0"}


async def test_a_write_through_a_hard_link_does_not_reach_the_next_prefix(
    engine: Engine, solve: Solve, tmp_path: Path, address: str
) -> None:
    packages = await solve("mcr-activate", channels=(address,))
    await engine.install(packages, tmp_path / "first")
    with file_of(tmp_path / "first", "activate.d/*.sh").open("a") as file:
        file.write("echo poisoned\n")
    await engine.install(packages, tmp_path / "second")
    assert "poisoned" not in file_of(tmp_path / "second", "activate.d/*.sh").read_text()


@pytest.mark.parametrize(
    "hostile",
    [
        {"name": "../../escape"},
        {"version": "1.0/../../../escape"},
        {"build": "../../escape"},
        {"url": "ftp://host/noarch/mcr-prefix-1.0-0.conda"},
        {"url": "/etc/passwd"},
        {"manager": "pypi"},
    ],
)
async def test_a_hostile_row_is_refused(engine: Engine, solve: Solve, tmp_path: Path, hostile: dict[str, str]) -> None:
    (package,) = await solve("mcr-prefix")
    assert (await refusal(engine, [replace(package, **hostile)], tmp_path / "prefix")).code == "bad-package"


async def test_credentials_are_not_in_the_error_of_a_download(
    engine: Engine, solve: Solve, tmp_path: Path, server: ChannelServer
) -> None:
    packages = await solve("mcr-prefix", channels=(server.url.replace("://", "://user:secret@"),))
    server.corrupt("*/mcr-prefix-*")
    assert "secret" not in str(await refusal(engine, packages, tmp_path / "prefix"))


# --- offline ----------------------------------------------------------------------------------------------------------


async def test_offline_what_is_cached_installs_without_a_request(
    engine: Engine,
    offline_engine: Engine,
    solve: Solve,
    tmp_path: Path,
    server: ChannelServer,
) -> None:
    packages = await solve("mcr-prefix", channels=(server.url,))
    await engine.install(packages, tmp_path / "first")
    server.forget()
    await offline_engine.install(packages, tmp_path / "second")
    assert installed(tmp_path / "second") == {"mcr-prefix-1.0-0"}
    assert server.requests == []


async def test_offline_what_is_not_cached_is_named_without_a_request(
    engine: Engine,
    offline_engine: Engine,
    solve: Solve,
    tmp_path: Path,
    server: ChannelServer,
) -> None:
    packages = await solve("mcr-prefix", "mcr-activate", channels=(server.url,))
    await engine.install([package for package in packages if package.name == "mcr-activate"], tmp_path / "first")
    server.forget()
    error = await refusal(offline_engine, packages, tmp_path / "second")
    assert error.code == "offline-missing"
    assert "mcr-prefix" in error.message
    assert "mcr-activate" not in error.message
    assert server.requests == []


async def test_offline_a_damaged_cached_package_is_not_fetched_again(
    engine: Engine,
    offline_engine: Engine,
    solve: Solve,
    tmp_path: Path,
    server: ChannelServer,
) -> None:
    packages = await solve("mcr-activate", channels=(server.url,))
    await engine.install(packages, tmp_path / "first")
    file_of(tmp_path / "first", "activate.d/*.sh").write_text("echo poisoned\n")
    server.forget()
    if engine.name == "micromamba":  # it has kept the archive and unpacks it again
        await offline_engine.install(packages, tmp_path / "second")
        assert "poisoned" not in file_of(tmp_path / "second", "activate.d/*.sh").read_text()
    else:
        assert (await refusal(offline_engine, packages, tmp_path / "second")).code == "offline-missing"
    assert server.requests == []


async def test_offline_a_channel_on_disk_serves(offline_engine: Engine, channel: str, tmp_path: Path) -> None:
    request = SolveRequest(specs=["mcr-prefix"], channels=[channel], platform=current_platform(), offline=True)
    await offline_engine.install(await offline_engine.solve(request), tmp_path / "prefix")
    assert installed(tmp_path / "prefix") == {"mcr-prefix-1.0-0"}


async def test_rows_with_nothing_but_the_essentials_install(engine: Engine, solve: Solve, tmp_path: Path) -> None:
    rows = [
        LockedPackage(name=p.name, version=p.version, build=p.build, url=p.url, sha256=p.sha256)
        for p in await solve("python", "mcr-two")
    ]
    await engine.install(rows, tmp_path / "prefix")
    assert "2.0" in file_of(tmp_path / "prefix", "mcr_two.py").read_text()
    meta: Row = json.loads((tmp_path / "prefix/conda-meta/mcr-two-2.0-pyh0_0.json").read_text())
    assert meta["files"]
