"""The generated channel: as large as asked for, the same for the same seed, and good for real solutions only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.conda.engine import SolveRequest
from mcp_conda_run.conda.rattler import RattlerEngine

from ..support.http_channel import ChannelServer

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build_big_channel.py"
RECORDS = 20_000


def generate(small: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, small, out, "--records", str(RECORDS), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def big(small_channel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("big") / "channel"
    done = generate(small_channel, out)
    assert done.returncode == 0, done.stderr
    assert f"{RECORDS} records" in done.stdout
    return out


async def test_a_solution_holds_real_packages_only(
    big: Path, http_channel: Callable[[Path], ChannelServer], tmp_path: Path
):
    engine = RattlerEngine(tmp_path / "pkgs", tmp_path / "repodata", timeout_s=120)
    request = SolveRequest(
        specs=("python", "numpy", "requests"), channels=(http_channel(big).url,), platform="linux-64"
    )
    packages = await engine.solve(request)
    assert {"python", "numpy", "requests"} <= {package.name for package in packages}
    assert all((big / package.subdir / Path(package.url).name).is_file() for package in packages)


def test_the_same_seed_makes_the_same_channel(big: Path, small_channel: Path, tmp_path: Path):
    assert generate(small_channel, tmp_path / "again").returncode == 0
    assert generate(small_channel, tmp_path / "other", "--seed", "2").returncode == 0
    index = "noarch/repodata_shards.msgpack.zst"
    assert (tmp_path / "again" / index).read_bytes() == (big / index).read_bytes()
    assert (tmp_path / "other" / index).read_bytes() != (big / index).read_bytes()


def test_what_is_no_channel_is_refused(tmp_path: Path):
    done = generate(tmp_path, tmp_path / "out")
    assert (done.returncode, "is no channel" in done.stderr) == (2, True)
