"""Micromambas that hang, are killed, talk nonsense, or say that they are done when they are not.

Faults that no real micromamba can be made to have; stand-ins have them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.rattler import RattlerEngine
from mcp_conda_run.errors import HostError, InstallError

from ..support.http_channel import ChannelServer
from .conftest import MakeEngine, Program, Solve, stand_in

Serve = Callable[[Path], ChannelServer]
GONE_S = 30


@pytest.fixture
def make_engine(cache: Path) -> MakeEngine:
    """Here only the packages come from an engine."""
    return lambda **options: RattlerEngine(cache / "pkgs", cache / "repodata", timeout_s=120, **options)


def asking(channel: str) -> SolveRequest:
    return SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform())


async def test_a_micromamba_that_hangs_is_ended_with_all_that_it_started(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    pid_file = tmp_path / "pid"
    engine = stand_in(
        program(f"/bin/sleep 600 & echo $! > {pid_file}.new; /bin/mv {pid_file}.new {pid_file}; wait"), cache
    )
    asked = asyncio.create_task(engine.solve(asking(channel)))
    while not pid_file.exists():  # noqa: ASYNC110 - a file is all that a shell can leave
        await asyncio.sleep(0.01)
    grandchild = psutil.Process(int(pid_file.read_text()))
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await asyncio.to_thread(grandchild.wait, GONE_S)
    assert not grandchild.is_running()


async def test_a_killed_worker_does_not_leave_its_micromamba_behind(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    pid_file = tmp_path / "pid"
    engine = stand_in(
        program(f"echo $$ > {pid_file}.new; /bin/mv {pid_file}.new {pid_file}; exec /bin/sleep 600"), cache
    )
    asked = asyncio.create_task(engine.solve(asking(channel)))
    while not pid_file.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    micromamba = psutil.Process(int(pid_file.read_text()))
    worker = micromamba.parent()
    assert worker is not None
    worker.kill()
    with pytest.raises(HostError, match="signal 9"):
        await asked
    await asyncio.to_thread(micromamba.wait, GONE_S)
    assert not micromamba.is_running()


@pytest.mark.parametrize(
    "body",
    [
        "exit 0",
        "echo '{\"success\": true}'",
        "echo '[]'",
        "echo 'Confirm changes: [Y/n] '",
        "kill -SEGV $$",
        'echo \'{"success": true, "actions": {"LINK": [{"name": 1}]}}\'',
    ],
)
async def test_an_answer_that_is_none_is_an_error(program: Program, cache: Path, channel: str, body: str) -> None:
    engine = stand_in(program(body), cache)
    with pytest.raises(InstallError):
        await engine.solve(asking(channel))


async def test_success_without_the_packages_in_the_prefix_is_an_error(
    program: Program, cache: Path, tmp_path: Path, solve: Solve
) -> None:
    packages = await solve("mcr-clib")
    engine = stand_in(program("""echo '{"success": true, "actions": {}}'"""), cache)
    with pytest.raises(InstallError, match="not what was asked for: mcr-clib"):
        await engine.install(packages, tmp_path / "prefix")


async def test_success_with_another_archive_in_the_prefix_is_an_error(
    program: Program, cache: Path, tmp_path: Path, solve: Solve
) -> None:
    packages = await solve("mcr-clib")
    meta = tmp_path / "prefix/conda-meta"
    body = (
        f'/bin/mkdir -p {meta}; echo \'{{"sha256": "00"}}\' > {meta}/mcr-clib-1.0-0.json; echo \'{{"success": true}}\''
    )
    with pytest.raises(InstallError) as caught:
        await stand_in(program(body), cache).install(packages, tmp_path / "prefix")
    assert caught.value.code == "checksum-mismatch"


async def test_the_pip_of_an_environment_is_not_shown_and_is_back_afterwards(
    program: Program, cache: Path, tmp_path: Path, solve: Solve
) -> None:
    packages = await solve("mcr-clib")
    meta, seen = tmp_path / "prefix/conda-meta", tmp_path / "seen"
    meta.mkdir(parents=True)
    clib = next(package for package in packages if package.name == "mcr-clib")
    pip = replace(clib, name="pip", url=clib.url.replace("mcr-clib", "pip"), sha256="ab" * 32)
    (meta / "pip-1.0-0.json").write_text(json.dumps({"name": "pip", "sha256": pip.sha256}))
    engine = stand_in(program(f"[ $2 = --help ] || /bin/ls {meta} > {seen}; exit 1"), cache)
    with pytest.raises(InstallError):
        await engine.install([*packages, pip], tmp_path / "prefix")
    assert "pip" not in seen.read_text()
    assert (meta / "pip-1.0-0.json").exists()


async def test_a_failed_create_leaves_no_half_of_a_prefix(
    program: Program, cache: Path, tmp_path: Path, solve: Solve
) -> None:
    packages = await solve("mcr-clib")
    body = f"/bin/mkdir -p {tmp_path}/prefix/conda-meta; echo 'critical libmamba Write failed' >&2; exit 1"
    with pytest.raises(HostError) as caught:
        await stand_in(program(body), cache).install(packages, tmp_path / "prefix")
    assert caught.value.code == "disk-full"
    assert not (tmp_path / "prefix").exists()


async def test_a_channel_that_micromamba_says_nothing_of_is_asked_by_py_rattler(
    program: Program, cache: Path, small_channel: Path, http_channel: Serve
) -> None:
    server = http_channel(small_channel)
    server.fail("*", 401)
    engine = stand_in(program("echo 'critical libmamba Subdir not loaded!' >&2; exit 1"), cache)
    with pytest.raises(InstallError) as caught:
        await engine.solve(asking(server.url))
    assert "credentials" in caught.value.hint


async def test_a_spec_that_only_micromamba_refuses_is_a_bad_spec(program: Program, cache: Path, channel: str) -> None:
    engine = stand_in(
        program("echo 'critical libmamba Error parsing MatchSpec x: Parentheses mismatch' >&2; exit 1"), cache
    )
    with pytest.raises(InstallError) as caught:
        await engine.solve(asking(channel))
    assert caught.value.code == "bad-spec"
