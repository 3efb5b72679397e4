"""Locks, made by the real conda-lock with each engine's solver, and read by conda-lock and by us."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from mcp_conda_run.conda.choose import make_engine, make_locker
from mcp_conda_run.conda.engine import current_platform
from mcp_conda_run.conda.locking import ALL_PLATFORMS, Locker, is_stale, read_lock
from mcp_conda_run.errors import CondaRunError, HostError, InstallError
from mcp_conda_run.models import Progress
from mcp_conda_run.settings import load_settings

from ..support.http_channel import ChannelServer
from .conftest import FOUND, NO_MICROMAMBA, Derive, Engine
from .test_ending import GONE_S, workers

Serve = Callable[[Path], ChannelServer]
HERE = (current_platform(),)


@pytest.fixture
def locker(cache: Path, engine: Engine) -> Locker:
    """What locks with each engine in turn."""
    return Locker(cache / "repodata", timeout_s=120, solver=engine.for_locks())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "mine.conda-lock.yml"


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Path]:
    def write(*dependencies: str) -> Path:
        path = tmp_path / "environment.yml"
        path.write_text(
            yaml.safe_dump({"name": "mine", "channels": ["conda-forge"], "dependencies": list(dependencies)})
        )
        return path

    return write


Write = Callable[..., Path]


async def refusal(
    locker: Locker, environment_yml: Path, channels: tuple[str, ...], output: Path, platforms: tuple[str, ...] = HERE
) -> CondaRunError:
    with pytest.raises(CondaRunError) as caught:
        await locker.lock(environment_yml, channels, platforms, output)
    assert "Traceback" not in str(caught.value)
    return caught.value


def conda_lock(*arguments: str | Path) -> str:
    """Run conda-lock as a user would."""
    command = [sys.executable, "-m", "conda_lock", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def test_a_lock_pins_what_a_solve_finds(
    locker: Locker, engine: Engine, environment: Write, channel: str, output: Path
) -> None:
    await locker.lock(environment("numpy 2.1.*", "requests"), (channel,), HERE, output)
    pinned = {package.name: package.version for package in read_lock(output, current_platform())}
    assert pinned["numpy"] == "2.1.3"
    assert {"python", "requests", "urllib3", "tzdata"} <= set(pinned)


async def test_a_lock_for_three_platforms_has_each_and_installs_here(
    locker: Locker, engine: Engine, environment: Write, channel: str, output: Path, tmp_path: Path
) -> None:
    await locker.lock(environment("numpy", "six"), (channel,), ALL_PLATFORMS, output)
    for platform in ALL_PLATFORMS:
        subdirs = {package.subdir for package in read_lock(output, platform)}
        assert subdirs == {platform, "noarch"}
    await engine.install(read_lock(output, current_platform()), tmp_path / "prefix")
    assert (tmp_path / "prefix/bin/python").exists()


async def test_conda_lock_reads_the_lock_back(
    locker: Locker, environment: Write, channel: str, output: Path, tmp_path: Path
) -> None:
    await locker.lock(environment("six"), (channel,), HERE, output)
    template = tmp_path / "{platform}.txt"
    await asyncio.to_thread(
        conda_lock, "render", "-k", "explicit", "-p", HERE[0], "--filename-template", template, output
    )
    rendered = (tmp_path / f"{HERE[0]}.txt").read_text()
    assert all(package.url in rendered for package in read_lock(output, HERE[0]))


@pytest.mark.skipif(bool(NO_MICROMAMBA), reason=NO_MICROMAMBA)
async def test_micromamba_installs_from_the_lock(
    locker: Locker, environment: Write, channel: str, output: Path, tmp_path: Path
) -> None:
    await locker.lock(environment("mcr-clib", "mcr-prefix"), (channel,), ALL_PLATFORMS, output)
    assert FOUND is not None
    prefix = tmp_path / "prefix"
    await asyncio.to_thread(
        subprocess.run,
        [FOUND.path, "create", "-y", "--no-rc", "-p", prefix, "-f", output],
        check=True,
        capture_output=True,
        env={"HOME": str(tmp_path), "MAMBA_ROOT_PREFIX": str(tmp_path / "root"), "PATH": "/usr/bin:/bin"},
    )
    installed = {path.name.rsplit("-", 2)[0] for path in prefix.glob("conda-meta/*.json")}
    assert installed == {package.name for package in read_lock(output, HERE[0])}


async def test_a_new_lock_is_fresh(locker: Locker, environment: Write, channel: str, output: Path) -> None:
    path = environment("mcr-clib")
    await locker.lock(path, (channel,), HERE, output)
    assert not is_stale(output, path, (channel,), HERE[0])
    assert is_stale(output, environment("mcr-clib", "mcr-prefix"), (channel,), HERE[0])


async def test_the_lock_says_where_it_comes_from_without_paths_of_this_machine(
    locker: Locker, environment: Write, channel: str, output: Path
) -> None:
    await locker.lock(environment("mcr-clib"), (channel,), HERE, output)
    assert yaml.safe_load(output.read_text())["metadata"]["sources"] == ["environment.yml"]


async def test_selectors_in_comments_count(locker: Locker, channel: str, output: Path, tmp_path: Path) -> None:
    path = tmp_path / "environment.yml"
    path.write_text("dependencies:\n  - mcr-clib\n  - mcrclib  # [osx]\n")
    await locker.lock(path, (channel,), ("linux-64", "osx-arm64"), output)
    assert [package.name for package in read_lock(output, "linux-64")] == ["mcr-clib"]
    assert [package.name for package in read_lock(output, "osx-arm64")] == ["mcr-clib", "mcrclib"]


async def test_the_files_own_channels_serve_if_none_are_given(
    locker: Locker, channel: str, output: Path, tmp_path: Path
) -> None:
    path = tmp_path / "environment.yml"
    path.write_text(json.dumps({"channels": [channel], "dependencies": ["mcr-clib"]}))
    await locker.lock(path, (), HERE, output)
    assert [package.channel for package in read_lock(output, HERE[0])] == [channel]


async def test_locking_leaves_nothing_but_the_lock(
    locker: Locker, environment: Write, channel: str, output: Path
) -> None:
    await locker.lock(environment("mcr-clib"), (channel,), HERE, output)
    assert list(output.parent.iterdir()) == [output]
    assert list(Path(os.environ["HOME"]).iterdir()) == []


async def test_locking_reports_its_progress(locker: Locker, environment: Write, channel: str, output: Path) -> None:
    seen: list[Progress] = []
    await locker.lock(environment("mcr-clib"), (channel,), HERE, output, seen.append)
    assert [progress.phase for progress in seen] == ["lock", "lock"]
    assert seen[-1].done == seen[-1].total == 1


async def test_a_lock_can_exclude_newer_packages(cache: Path, environment: Write, derive: Derive, output: Path) -> None:
    dated = derive(lambda name, row: {key: value for key, value in row.items() if key != "indexed_timestamp"})
    locker = Locker(cache / "repodata", exclude_newer="2025-01-01")
    await locker.lock(environment("mcr-two"), (dated.as_uri(),), HERE, output)
    assert {p.name: p.version for p in read_lock(output, HERE[0])}["mcr-two"] == "1.0"


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_the_solvers_tree_reaches_the_error(
    locker: Locker, environment: Write, channel: str, output: Path
) -> None:
    error = await refusal(locker, environment("mcr-conflict"), (channel,), output)
    assert isinstance(error, InstallError)
    assert error.code == "unsatisfiable"
    assert "mcr-two 2.0, which conflicts" in error.details
    assert not output.exists()


async def test_the_platform_that_cannot_be_solved_is_named(
    locker: Locker, environment: Write, channel: str, output: Path
) -> None:
    error = await refusal(locker, environment("mcr-unsat"), (channel,), output, ("win-64", "osx-arm64"))
    assert "osx-arm64" in error.message or "win-64" in error.message


async def test_an_unknown_package_is_named(locker: Locker, environment: Write, channel: str, output: Path) -> None:
    error = await refusal(locker, environment("nunpy"), (channel,), output)
    assert error.code == "package-not-found"
    assert "numpy" in error.hint


async def test_a_bad_spec_is_quoted(locker: Locker, environment: Write, channel: str, output: Path) -> None:
    error = await refusal(locker, environment("numpy===>>>3"), (channel,), output)
    assert error.code == "bad-spec"
    assert "numpy===>>>3" in error.message


async def test_an_unreachable_channel_is_one_clear_error(locker: Locker, environment: Write, output: Path) -> None:
    error = await refusal(locker, environment("numpy"), ("http://127.0.0.1:9/channel",), output)
    assert error.code == "channel-unreachable"


async def test_offline_without_a_cache_is_one_clear_error(cache: Path, environment: Write, output: Path) -> None:
    locker = Locker(cache / "repodata", offline=True)
    error = await refusal(locker, environment("numpy"), ("http://127.0.0.1:9/channel",), output)
    assert error.code == "offline-missing"


async def test_of_a_pip_section_only_pip_itself_is_locked(
    locker: Locker, channel: str, output: Path, tmp_path: Path
) -> None:
    path = tmp_path / "environment.yml"
    path.write_text("dependencies:\n  - python\n  - pip:\n      - humanize\n  - six\n")
    await locker.lock(path, (channel,), HERE, output)
    assert {"pip", "six"} <= {package.name for package in read_lock(output, HERE[0])}
    assert not is_stale(output, path, (channel,), HERE[0])


async def test_a_kept_version_stays_unless_the_file_asks_for_another(
    locker: Locker, environment: Write, channel: str, output: Path
) -> None:
    await locker.lock(environment("mcr-two 1.0"), (channel,), HERE, output)
    old = read_lock(output, HERE[0])
    await locker.lock(environment("mcr-two"), (channel,), HERE, output, keep={HERE[0]: old})
    assert {package.name: package.version for package in read_lock(output, HERE[0])}["mcr-two"] == "1.0"
    await locker.lock(environment("mcr-two >=2"), (channel,), HERE, output, keep={HERE[0]: old})
    assert {package.name: package.version for package in read_lock(output, HERE[0])}["mcr-two"] == "2.0"


async def test_what_needs_cuda_can_be_locked_where_there_is_none(
    locker: Locker, channel: str, output: Path, tmp_path: Path
) -> None:
    path = tmp_path / "environment.yml"
    path.write_text("# needs: __cuda\ndependencies: [mcr-cuda]\n")
    await locker.lock(path, (channel,), HERE, output)
    assert [package.name for package in read_lock(output, HERE[0])] == ["mcr-cuda"]


async def test_no_channels_at_all_is_an_error(locker: Locker, output: Path, tmp_path: Path) -> None:
    path = tmp_path / "environment.yml"
    path.write_text("dependencies: [numpy]\n")
    assert (await refusal(locker, path, (), output)).code == "bad-channel"


async def test_a_failed_lock_keeps_the_old_one(locker: Locker, environment: Write, channel: str, output: Path) -> None:
    await locker.lock(environment("mcr-clib"), (channel,), HERE, output)
    before = output.read_bytes()
    await refusal(locker, environment("mcr-conflict"), (channel,), output)
    assert output.read_bytes() == before
    assert list(output.parent.iterdir()) == [output]


async def test_locking_that_takes_too_long_is_ended(
    cache: Path, environment: Write, small_channel: Path, http_channel: Serve, output: Path
) -> None:
    server = http_channel(small_channel)
    server.hold("*")
    error = await refusal(Locker(cache / "repodata", timeout_s=3), environment("numpy"), (server.url,), output)
    assert error.code == "install-timeout"
    assert workers() == []
    assert list(output.parent.iterdir()) == []


async def test_a_cancelled_lock_leaves_no_process(
    locker: Locker, environment: Write, small_channel: Path, http_channel: Serve, output: Path
) -> None:
    server = http_channel(small_channel)
    server.hold("*")
    task = asyncio.create_task(locker.lock(environment("numpy"), (server.url,), HERE, output))
    await asyncio.to_thread(server.wait_for, "*")
    helpers = workers()
    assert len(helpers) >= 2  # conda-lock and the conda that it called
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    _, alive = await asyncio.to_thread(psutil.wait_procs, helpers, GONE_S)
    assert alive == []
    assert list(output.parent.iterdir()) == []


SERVER = """
import asyncio, sys
from pathlib import Path
from mcp_conda_run.conda.locking import Locker

environment, url, cache, platform = sys.argv[1:]
locker = Locker(Path(cache))
asyncio.run(locker.lock(Path(environment), (url,), (platform,), Path(cache, "out.yml")))
"""


def test_conda_lock_and_its_conda_die_with_a_killed_server(
    environment: Write, small_channel: Path, http_channel: Serve, cache: Path
) -> None:
    server = http_channel(small_channel)
    server.hold("*")
    command = [sys.executable, "-c", SERVER, str(environment("numpy")), server.url, str(cache), HERE[0]]
    with subprocess.Popen(command) as host:
        server.wait_for("*")
        helpers = workers(psutil.Process(host.pid))
        host.kill()
        _, alive = psutil.wait_procs(helpers, GONE_S)
    assert len(helpers) >= 2
    assert alive == []


async def test_a_lock_in_a_place_that_is_no_directory_is_a_host_error(
    locker: Locker, environment: Write, channel: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    error = await refusal(locker, environment("mcr-clib"), (channel,), tmp_path / "file" / "lock.yml")
    assert isinstance(error, HostError)


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_embedded_engine_is_chosen_with_its_caches_under_the_cache_directory(tmp_path: Path) -> None:
    engine = make_engine(load_settings(cache_dir=tmp_path))
    assert engine.name == "rattler"
    assert engine.version().startswith("0.")


async def test_the_settings_locker_locks(tmp_path: Path, environment: Write, channel: str, output: Path) -> None:
    await make_locker(load_settings(cache_dir=tmp_path)).lock(environment("mcr-clib"), (channel,), HERE, output)
    assert output.exists()
