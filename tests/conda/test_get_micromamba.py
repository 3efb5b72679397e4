"""`get-micromamba` against a server on loopback; the program is a small script, for only its way here is tested."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest

from mcp_conda_run.conda import get_micromamba as module
from mcp_conda_run.conda.choose import choose_engine, own_micromamba
from mcp_conda_run.conda.engine import current_platform
from mcp_conda_run.conda.get_micromamba import asset_url, get_micromamba
from mcp_conda_run.errors import HostError, InstallError, RequestError
from mcp_conda_run.models import Progress
from mcp_conda_run.settings import Settings

from ..support.http_channel import ChannelServer
from ..support.redirecting import Redirecting

PROGRAM = b"#!/bin/sh\necho 2.8.1\n" + b"# and so on\n" * 50_000
NAME = f"micromamba-{current_platform()}"

Serve = Callable[[Path], ChannelServer]


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """A directory laid out as the releases are."""
    place = tmp_path / "releases/latest/download"
    place.mkdir(parents=True)
    (place / NAME).write_bytes(PROGRAM)
    (place / f"{NAME}.sha256").write_text(f"{hashlib.sha256(PROGRAM).hexdigest().upper()}  {NAME}\n")
    return tmp_path / "releases"


@pytest.fixture
def server(releases: Path, http_channel: Serve) -> ChannelServer:
    return http_channel(releases)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "bin/micromamba"


def address(server: ChannelServer) -> str:
    return asset_url(current_platform(), mirror=server.url)


def refusal(server: ChannelServer, target: Path) -> InstallError:
    with pytest.raises(InstallError) as caught:
        get_micromamba(address(server), target)
    assert not list(target.parent.glob("*"))
    assert not list(target.parent.glob(".*"))
    return caught.value


def test_the_official_address_is_that_of_the_releases() -> None:
    assert asset_url("linux-64") == (
        "https://github.com/mamba-org/micromamba-releases/releases/latest/download/micromamba-linux-64"
    )
    assert asset_url("osx-arm64", "2.8.1-0").endswith("/releases/download/2.8.1-0/micromamba-osx-arm64")


@pytest.mark.parametrize("version", ["", "../x", "2.8/..", "latest/../x"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(RequestError):
        asset_url("linux-64", version)


def test_a_platform_without_a_build_is_refused() -> None:
    with pytest.raises(RequestError, match="linux-s390x"):
        asset_url("linux-s390x")


def test_the_program_is_there_whole_and_can_be_run(server: ChannelServer, target: Path) -> None:
    got = get_micromamba(address(server), target)
    assert target.read_bytes() == PROGRAM
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert (got.version, got.size_bytes) == ("2.8.1", len(PROGRAM))


def test_the_bytes_are_told(server: ChannelServer, target: Path) -> None:
    seen: list[Progress] = []
    get_micromamba(address(server), target, progress=seen.append)
    assert max(progress.done for progress in seen if progress.unit == "bytes") == len(PROGRAM)


def test_a_wrong_checksum_is_refused(server: ChannelServer, releases: Path, target: Path) -> None:
    (releases / "latest/download" / f"{NAME}.sha256").write_text("0" * 64)
    error = refusal(server, target)
    assert error.code == "checksum-mismatch"
    assert "0" * 64 in error.details


def test_a_damaged_program_is_refused(server: ChannelServer, target: Path) -> None:
    server.corrupt(f"*/{NAME}")
    assert refusal(server, target).code == "checksum-mismatch"


def test_a_truncated_program_is_refused(server: ChannelServer, target: Path) -> None:
    server.truncate(f"*/{NAME}")
    assert refusal(server, target).code == "download-failed"


@pytest.mark.parametrize("path", [f"*/{NAME}", "*.sha256"])
@pytest.mark.parametrize("status", [404, 500, 401])
def test_a_status_is_named(server: ChannelServer, target: Path, path: str, status: int) -> None:
    server.fail(path, status)
    assert f"HTTP {status}" in refusal(server, target).message


def test_a_checksum_that_is_none_is_refused(server: ChannelServer, releases: Path, target: Path) -> None:
    (releases / "latest/download" / f"{NAME}.sha256").write_text("<html>sign in</html>")
    assert "no sha256" in refusal(server, target).message


def test_a_huge_checksum_is_refused(server: ChannelServer, releases: Path, target: Path) -> None:
    (releases / "latest/download" / f"{NAME}.sha256").write_bytes(b"0" * 10_000)
    assert "larger than" in refusal(server, target).message


def test_a_huge_program_is_refused(server: ChannelServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROGRAM_BYTES", 100_000)
    assert "larger than" in refusal(server, target).message


def test_nobody_there_is_one_clear_error(target: Path) -> None:
    with pytest.raises(InstallError) as caught:
        get_micromamba("http://127.0.0.1:9/micromamba", target)
    assert caught.value.code == "download-failed"


def test_a_redirect_to_another_host_is_followed(server: ChannelServer, target: Path) -> None:
    with Redirecting(lambda path: server.url + path, HTTPStatus.FOUND) as front:
        url = asset_url(current_platform(), mirror=front.url)
        assert get_micromamba(url, target).version == "2.8.1"


def test_redirects_without_end_are_refused(target: Path) -> None:
    with Redirecting(lambda path: path, HTTPStatus.FOUND) as front, pytest.raises(InstallError, match="too often"):
        get_micromamba(f"{front.url}/micromamba", target)


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://host/x", "http://[x"])
def test_a_redirect_to_what_is_no_web_address_is_refused(target: Path, place: str) -> None:
    with Redirecting(lambda _: place, HTTPStatus.FOUND) as front, pytest.raises(InstallError) as caught:
        get_micromamba(f"{front.url}/micromamba", target)
    assert caught.value.code == "download-failed"


def test_a_program_that_does_not_run_here_does_not_replace_the_one_that_does(
    server: ChannelServer, releases: Path, target: Path
) -> None:
    get_micromamba(address(server), target)
    place = releases / "latest/download"
    (place / NAME).write_bytes(b"\x7fELF of another machine")
    (place / f"{NAME}.sha256").write_text(hashlib.sha256((place / NAME).read_bytes()).hexdigest())
    with pytest.raises(InstallError) as caught:
        get_micromamba(address(server), target)
    assert caught.value.code == "no-micromamba"
    assert target.read_bytes() == PROGRAM


def test_a_directory_that_cannot_be_made_is_one_clear_error(server: ChannelServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError):
        get_micromamba(address(server), tmp_path / "file/bin/micromamba")


def test_credentials_of_a_mirror_are_not_in_the_error(server: ChannelServer, target: Path) -> None:
    server.fail("*", 404)
    with pytest.raises(InstallError) as caught:
        get_micromamba(address(server).replace("://", "://me:s3cret@"), target)
    assert "s3cret" not in str(caught.value)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mcp_conda_run", "--set", "engine=auto", "get-micromamba", *arguments]
    environment = {**os.environ, "PATH": os.defpath}
    environment.pop("MAMBA_EXE", None)
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment)


def test_the_command_says_what_it_did_and_auto_finds_it(
    server: ChannelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command("--mirror", server.url)
    assert done.returncode == 0, done.stderr
    assert "Installed micromamba 2.8.1" in done.stdout
    assert "The engine is now micromamba 2.8.1" in done.stdout
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MAMBA_EXE", raising=False)
    choice = choose_engine(Settings(cache_dir=tmp_path, engine="auto"))
    assert choice.reason == f"{own_micromamba()} was downloaded by get-micromamba"


def test_offline_the_command_fetches_nothing(server: ChannelServer) -> None:
    done = command("--offline", "--mirror", server.url)
    assert done.returncode == 2
    assert "Offline" in done.stderr
    assert server.requests == []
