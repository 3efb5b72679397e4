"""Locks that micromamba solves: what it is told of machines that are not there, and what follows from its faults.

That a real one makes the same locks is tested in `test_locking.py`, whose locks each engine makes in turn.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.conda.engine import current_platform
from mcp_conda_run.conda.locking import Locker, read_lock
from mcp_conda_run.conda.micromamba_targets import machine, pretend_installed
from mcp_conda_run.errors import CondaRunError, InstallError
from mcp_conda_run.models import LockedPackage

from .conftest import FOUND, NO_MICROMAMBA, Program, stand_in
from .test_ending import GONE_S, workers

HERE = current_platform()
URL = "https://host/c/noarch/six-1.17.0-pyh0_0.conda"
SIX = LockedPackage(name="six", version="1.17.0", build="pyh0_0", url=URL, md5="b" * 32, depends=("python >=3.9",))

NOTE = """
{{ echo "arg $*"; /usr/bin/env; }} >> {seen}
exit 1
"""

Make = Callable[[str], Locker]


@pytest.fixture
def locker_with(program: Program, cache: Path) -> Make:
    """Return what locks with a program that does what is given."""
    return lambda body: Locker(cache / "repodata", timeout_s=120, solver=stand_in(program(body), cache).for_locks())


@pytest.fixture
def environment(tmp_path: Path, channel: str) -> Path:
    path = tmp_path / "environment.yml"
    path.write_text(json.dumps({"channels": [channel], "dependencies": ["mcr-two"]}))
    return path


async def told(make: Make, environment: Path, tmp_path: Path, platform: str) -> tuple[str, dict[str, str]]:
    """Return the arguments and the variables that a program gets which is to solve for a platform, and fails."""
    seen = tmp_path / "seen"
    with pytest.raises(CondaRunError):
        await make(NOTE.format(seen=seen)).lock(environment, (), (platform,), tmp_path / "lock.yml")
    first = seen.read_text().partition("\narg ")[0].splitlines()
    return first[0], dict(line.split("=", 1) for line in first[1:] if "=" in line)


# --- what it is told --------------------------------------------------------------------------------------------------


async def test_it_solves_for_a_linux_that_is_not_this_one(locker_with: Make, environment: Path, tmp_path: Path) -> None:
    _, variables = await told(locker_with, environment, tmp_path, "linux-64")
    assert variables["CONDA_OVERRIDE_GLIBC"] == "2.28"
    assert variables["CONDA_OVERRIDE_LINUX"] == "5.10"
    assert variables["CONDA_OVERRIDE_ARCHSPEC"] == "x86_64"


async def test_it_solves_for_a_mac(locker_with: Make, environment: Path, tmp_path: Path) -> None:
    _, variables = await told(locker_with, environment, tmp_path, "osx-arm64")
    assert variables["CONDA_SUBDIR"] == "osx-arm64"
    assert variables["CONDA_OVERRIDE_OSX"] == "11.0"
    assert variables["CONDA_OVERRIDE_ARCHSPEC"] == "arm64"


def test_a_cuda_of_this_machine_does_not_count_for_another() -> None:
    assert machine({"platform": "win-64"})["CONDA_OVERRIDE_CUDA"] == ""


def test_a_cuda_that_is_assumed_counts() -> None:
    assumed = {"__cuda": ("12.8", "0"), "__win": ("0", "0")}
    assert machine({"platform": "win-64", "virtual_packages": assumed})["CONDA_OVERRIDE_CUDA"] == "12.8"


async def test_it_gets_the_channels_without_the_one_that_conda_lock_makes(
    locker_with: Make, environment: Path, tmp_path: Path, channel: str
) -> None:
    arguments, _ = await told(locker_with, environment, tmp_path, "linux-64")
    words = arguments.split()
    assert [words[i + 1] for i, word in enumerate(words) if word == "-c"] == [channel]


def test_a_cuda_of_this_machine_counts_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine({"platform": HERE})["CONDA_OVERRIDE_CUDA"] == ""
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.4")
    assert machine({"platform": HERE})["CONDA_OVERRIDE_CUDA"] == "12.4"
    assert "CONDA_SUBDIR" not in machine({"platform": HERE})


def test_a_prefix_of_records_says_what_is_installed(tmp_path: Path) -> None:
    pretend_installed(tmp_path / "prefix", [SIX])
    record = json.loads((tmp_path / "prefix/conda-meta/six-1.17.0-pyh0_0.json").read_text())
    assert (record["name"], record["version"], record["subdir"]) == ("six", "1.17.0", "noarch")
    assert (tmp_path / "prefix/conda-meta/history").exists()


@pytest.mark.parametrize("name", ["..%2F..%2Fevil-1-0.conda", "%2Ftmp%2Fevil-1-0.conda"])
def test_a_record_cannot_leave_that_prefix(tmp_path: Path, name: str) -> None:
    package = LockedPackage(name="evil", version="1", url=f"https://host/c/noarch/{name}", sha256="a" * 64)
    pretend_installed(tmp_path / "a/b/prefix", [package])
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


# --- its faults -------------------------------------------------------------------------------------------------------


TREE = (
    'echo \'{"solver_problems": ["x"], "success": false}\'; printf \'error    libmamba Could not solve for environment'
    " specs\\n    mcr-two 3.* does not exist\\ncritical libmamba Could not solve for environment specs\\n' >&2; exit 1"
)


async def test_its_reasons_reach_the_error_with_the_platform(
    locker_with: Make, environment: Path, tmp_path: Path
) -> None:
    with pytest.raises(InstallError) as caught:
        await locker_with(TREE).lock(environment, (), ("linux-64", "osx-arm64"), tmp_path / "lock.yml")
    assert caught.value.code == "unsatisfiable"
    assert "mcr-two 3.* does not exist" in caught.value.details
    assert "linux-64" in caught.value.message or "osx-arm64" in caught.value.message
    assert not (tmp_path / "lock.yml").exists()


@pytest.mark.parametrize("body", ["exit 0", "echo '{\"success\": true}'", "kill -SEGV $$", "echo '{\"succ'"])
async def test_an_answer_that_is_none_makes_no_lock(
    locker_with: Make, environment: Path, tmp_path: Path, body: str
) -> None:
    with pytest.raises(CondaRunError):
        await locker_with(body).lock(environment, (), (HERE,), tmp_path / "lock.yml")
    assert not (tmp_path / "lock.yml").exists()


@pytest.mark.parametrize(
    "body",
    [
        "exit 1",
        'echo \'{"success": true, "actions": {"UNLINK": [{"name": "mcr-two"}]}}\'',  # and nothing in its place
    ],
)
async def test_where_it_cannot_keep_versions_the_embedded_solver_does(
    locker_with: Make, environment: Path, tmp_path: Path, cache: Path, body: str
) -> None:
    lock = tmp_path / "lock.yml"
    older = tmp_path / "older.yml"
    older.write_text(environment.read_text().replace("mcr-two", "mcr-two 1.0"))
    await Locker(cache / "repodata").lock(older, (), (HERE,), lock)
    await locker_with(body).lock(environment, (), (HERE,), lock, keep={HERE: read_lock(lock, HERE)})
    assert {package.name: package.version for package in read_lock(lock, HERE)}["mcr-two"] == "1.0"


async def test_one_that_hangs_ends_with_the_lock(locker_with: Make, environment: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    body = f"echo $$ > {pid_file}.new; /bin/mv {pid_file}.new {pid_file}; exec /bin/sleep 600"
    task = asyncio.create_task(locker_with(body).lock(environment, (), (HERE,), tmp_path / "locks/lock.yml"))
    while not pid_file.exists():  # noqa: ASYNC110 - a file is all that a shell can leave
        await asyncio.sleep(0.01)
    micromamba = psutil.Process(int(pid_file.read_text()))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(psutil.wait_procs, [micromamba], GONE_S)
    assert not micromamba.is_running()
    assert workers() == []


# --- a real one -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(NO_MICROMAMBA), reason=NO_MICROMAMBA)
@pytest.mark.parametrize("platform", ["linux-64", "osx-arm64", "win-64"])
async def test_both_engines_lock_the_same_packages(
    environment: Path, cache: Path, tmp_path: Path, channel: str, platform: str
) -> None:
    assert FOUND is not None
    environment.write_text(json.dumps({"channels": [channel], "dependencies": ["numpy 2.1.*", "requests", "mcr-two"]}))
    solver = stand_in(FOUND.path, cache).for_locks()
    await Locker(cache / "repodata", solver=solver).lock(environment, (), (platform,), tmp_path / "micromamba.yml")
    await Locker(cache / "repodata").lock(environment, (), (platform,), tmp_path / "rattler.yml")
    locks = [read_lock(tmp_path / name, platform) for name in ("micromamba.yml", "rattler.yml")]
    assert {package.url for package in locks[0]} == {package.url for package in locks[1]}
