"""Credentials of channels: taken out of every address, used for fetching, and found nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.conda.access import (
    REQUEST_VARIABLE,
    Access,
    request_from_environment,
    split_credentials,
    use_credentials,
)
from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.lockfile import read_lock
from mcp_conda_run.conda.locking import Locker
from mcp_conda_run.errors import InstallError

from ..support.http_channel import ChannelServer
from .conftest import Engine, MakeEngine

Serve = Callable[[Path], ChannelServer]
SECRET = "s3cr3t-t0ken"


@pytest.fixture(params=["password", "token"])
def private(request: pytest.FixtureRequest, small_channel: Path, http_channel: Serve) -> tuple[ChannelServer, str]:
    """A channel that demands a secret, and its address with it."""
    server = http_channel(small_channel)
    if request.param == "password":
        server.demand_password("me", SECRET)
        return server, server.url.replace("://", f"://me:{SECRET}@")
    server.demand_token(SECRET)
    return server, f"{server.url}/t/{SECRET}"


@pytest.mark.parametrize(
    ("url", "clean", "credential"),
    [
        ("https://me:pa%40ss@host/c", "https://host/c", {"user": "me", "password": "pa@ss"}),
        ("https://token@host:8080/c", "https://host:8080/c", {"user": "token", "password": ""}),
        ("https://host/t/tk-1/c/noarch/x.conda", "https://host/c/noarch/x.conda", {"token": "tk-1"}),
        ("https://host/t/tk-1", "https://host", {"token": "tk-1"}),
        ("https://host/c", "https://host/c", {}),
        ("https://host/c/t/x", "https://host/c/t/x", {}),
        ("conda-forge", "conda-forge", {}),
        ("file:///t/x/c", "file:///t/x/c", {}),
        ("https://[bad", "https://[bad", {}),
    ],
)
def test_credentials_are_taken_out_of_an_address(url: str, clean: str, credential: dict[str, str]) -> None:
    assert split_credentials(url) == (clean, credential)


def test_two_credentials_for_one_host_are_refused() -> None:
    access = Access()
    access.learn(["https://me:one@host/a", "https://host/b"])
    with pytest.raises(InstallError) as caught:
        access.learn([f"https://me:{SECRET}@host/c"])
    assert caught.value.code == "two-credentials"
    assert SECRET not in str(caught.value)


def test_a_spec_is_bound_to_its_channels_address() -> None:
    access = Access({"internal": ["https://me:x@host/internal"]})
    assert access.spec("internal::numpy >=2") == "https://host/internal::numpy >=2"
    assert access.spec("conda-forge::numpy") == "conda-forge::numpy"
    assert access.spec("numpy") == "numpy"


def test_an_alias_says_where_plain_names_are() -> None:
    access = Access(alias=f"https://me:{SECRET}@host/repo/")
    access.learn(["conda-forge", "https://other/c"])
    assert access.as_request()["channel_urls"] == {"conda-forge": ["https://host/repo/conda-forge"]}


def test_what_is_known_gets_through_a_program_between() -> None:
    access = Access({"a": ["https://host/a"]})
    access.learn([f"https://host/t/{SECRET}/a"])
    done = subprocess.run(
        [sys.executable, "-c", "from mcp_conda_run.conda import access; print(access.request_from_environment())"],
        env={**os.environ, **access.variables()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(access.as_request())


def test_the_users_own_credentials_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"other": {"BearerToken": "mine"}, "host": {"CondaToken": "mine"}}
    (tmp_path / "auth.json").write_text(json.dumps(own))
    monkeypatch.setenv("RATTLER_AUTH_FILE", str(tmp_path / "auth.json"))
    use_credentials({"credentials": {"host": {"token": "theirs"}, "third": {"user": "me", "password": "x"}}})
    entries = json.loads(Path(os.environ["RATTLER_AUTH_FILE"]).read_text())
    assert entries == {**own, "third": {"BasicHTTP": {"username": "me", "password": "x"}}}


def test_without_the_variable_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUEST_VARIABLE, raising=False)
    assert request_from_environment() == {}


# --- with a channel that demands them ---------------------------------------------------------------------------------


@contextmanager
def titles_watched() -> Iterator[set[str]]:
    """Note the command lines of all processes below this one, while the block runs."""
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            for child in psutil.Process().children(recursive=True):
                try:
                    seen.add(" ".join(child.cmdline()))
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def files_with(root: Path, secret: str) -> list[Path]:
    """Return every file below a directory that holds the secret in its name or content."""

    def holds(path: Path) -> bool:
        return path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()

    return [path for path in root.rglob("*") if secret in path.name or holds(path)]


async def test_a_private_channel_serves_and_its_secret_is_nowhere(
    engine: Engine, private: tuple[ChannelServer, str], tmp_path: Path
) -> None:
    _, address = private
    with titles_watched() as titles:
        request = SolveRequest(specs=["mcr-prefix"], channels=[address], platform=current_platform())
        packages = await engine.solve(request)
        facts = await engine.describe([address], current_platform(), ["mcr-prefix"])
        await engine.install(packages, tmp_path / "prefix")
    assert (tmp_path / "prefix/share/mcr").is_dir()
    assert SECRET not in str([asdict(package) for package in packages]) + str(facts)
    assert any("mcp_conda_run.conda" in title for title in titles)
    assert not [title for title in titles if SECRET in title]
    assert files_with(tmp_path, SECRET) == []


async def test_a_lock_of_a_private_channel_holds_no_secret_and_can_be_installed(
    make_engine: MakeEngine, private: tuple[ChannelServer, str], tmp_path: Path
) -> None:
    _, address = private
    (tmp_path / "small.yml").write_text("channels: [none]\ndependencies: [mcr-prefix]\n")
    access = Access()
    access.learn([address])
    locker = Locker(tmp_path / "repodata", access=access)
    with titles_watched() as titles:
        await locker.lock(tmp_path / "small.yml", [address], [current_platform()], tmp_path / "lock.yml")
    assert not [title for title in titles if SECRET in title]
    assert files_with(tmp_path, SECRET) == []
    packages = read_lock(tmp_path / "lock.yml", current_platform())
    await make_engine(access=access).install(packages, tmp_path / "prefix")
    assert (tmp_path / "prefix/share/mcr").is_dir()


async def test_without_the_secret_the_channel_refuses(engine: Engine, private: tuple[ChannelServer, str]) -> None:
    server, _ = private
    with pytest.raises(InstallError) as caught:
        await engine.solve(SolveRequest(specs=["mcr-prefix"], channels=[server.url], platform=current_platform()))
    assert "credentials" in caught.value.hint


async def test_a_wrong_secret_is_not_in_the_error(engine: Engine, private: tuple[ChannelServer, str]) -> None:
    _, address = private
    wrong = address.replace(SECRET, "wr0ng-one")
    with pytest.raises(InstallError) as caught:
        await engine.solve(SolveRequest(specs=["mcr-prefix"], channels=[wrong], platform=current_platform()))
    assert "wr0ng-one" not in str(caught.value) + repr(vars(caught.value))
