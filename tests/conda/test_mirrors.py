"""Channels from elsewhere: fetched from the mirror, known by their own address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.conda.choose import make_engine, make_locker
from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.lockfile import read_lock
from mcp_conda_run.conda.mirrors import Mirrors, channel_address, configured_mirrors, mirrored
from mcp_conda_run.errors import SettingsError
from mcp_conda_run.settings import Settings

from ..support.http_channel import ChannelServer

Served = Callable[[Path], ChannelServer]
OWN = "https://channels.invalid/own"


@pytest.fixture
def mirror(http_channel: Served, small_channel: Path) -> ChannelServer:
    return http_channel(small_channel)


@pytest.fixture
def settings(mirror: ChannelServer, tmp_path: Path) -> Settings:
    """Return settings under which a channel that does not exist is fetched from the mirror."""
    return Settings(cache_dir=tmp_path / "cache", channels=(OWN,), mirrors=(f"{OWN}={mirror.url}",), engine="rattler")


def request() -> SolveRequest:
    """Return what to solve: a small package with all that it needs."""
    return SolveRequest(specs=["mcr-two"], channels=[OWN], platform=current_platform())


async def test_what_comes_from_a_mirror_is_known_by_its_channel(settings: Settings):
    packages = await mirrored(make_engine(settings), settings).solve(request())
    assert {package.url.rsplit("/", 2)[0] for package in packages} == {OWN}
    assert {package.channel for package in packages} == {OWN}


async def test_archives_come_from_the_mirror_and_the_prefix_names_the_channel(
    settings: Settings, mirror: ChannelServer, tmp_path: Path
):
    engine = mirrored(make_engine(settings), settings)
    packages = await engine.solve(request())
    await engine.install(packages, tmp_path / "prefix")
    assert mirror.paths("*/mcr-two-*.conda")
    records = [path.read_text() for path in (tmp_path / "prefix/conda-meta").glob("*.json")]
    assert len(records) == len(packages)
    assert all(OWN in record and mirror.url not in record for record in records)


async def test_installing_again_finds_everything_there(settings: Settings, mirror: ChannelServer, tmp_path: Path):
    engine = mirrored(make_engine(settings), settings)
    packages = await engine.solve(request())
    await engine.install(packages, tmp_path / "prefix")
    mirror.forget()
    await engine.install(packages, tmp_path / "prefix")
    assert mirror.requests == []


async def test_what_a_mirror_says_of_names_is_said_of_the_channel(settings: Settings):
    engine = mirrored(make_engine(settings), settings)
    facts = await engine.describe([OWN], current_platform(), {"mcr-two", "no-such-name"})
    assert {name: fact.channel for name, fact in facts.items()} == {"mcr-two": OWN}
    assert "mcr-two" in await engine.names([OWN], current_platform())


async def test_a_lock_made_from_a_mirror_names_the_channel(settings: Settings, mirror: ChannelServer, tmp_path: Path):
    (tmp_path / "environment.yml").write_text("channels: [x]\ndependencies: [mcr-two]\n")
    lock = tmp_path / "conda-lock.yml"
    await make_locker(settings).lock(tmp_path / "environment.yml", [OWN], [current_platform()], lock)
    assert {package.url.rsplit("/", 2)[0] for package in read_lock(lock, current_platform())} == {OWN}
    assert mirror.url not in lock.read_text()


def test_without_mirrors_the_engine_stays_as_it_is(tmp_path: Path):
    settings = Settings(cache_dir=tmp_path)
    engine = make_engine(settings)
    assert mirrored(engine, settings) is engine


def test_the_longest_address_that_fits_wins():
    mirrors = Mirrors({"https://a.example": "https://m.example/all", "https://a.example/c": "file:///c"})
    assert mirrors.url("https://a.example/c/noarch/x.conda") == "file:///c/noarch/x.conda"
    assert mirrors.url("https://a.example/d/noarch/x.conda") == "https://m.example/all/d/noarch/x.conda"
    assert mirrors.url("https://a.example.org/x") == "https://a.example.org/x"


def test_a_channel_may_be_meant_by_its_name():
    mirrors = Mirrors(configured_mirrors(["conda-forge=https://m.example/cf"]))
    assert (mirrors.channel("conda-forge"), mirrors.channel("bioconda")) == ("https://m.example/cf", "bioconda")


def test_credentials_of_a_mirror_stay_out_of_what_came_from_it():
    mirrors = Mirrors({"https://a.example/c": "https://me:secret@m.example/t/tk-1/c"})
    assert mirrors.original("https://m.example/t/***/c/noarch/x.conda") == "https://a.example/c/noarch/x.conda"
    assert mirrors.original(mirrors.url("https://a.example/c/x")) == "https://a.example/c/x"


@pytest.mark.parametrize(
    "text", ["conda-forge", "=https://m", "conda-forge=", "conda-forge=oci://ghcr.io/x", "x=s3://bucket", "x=m.example"]
)
def test_what_cannot_be_fetched_from_is_refused(text: str):
    with pytest.raises(SettingsError) as caught:
        configured_mirrors([text])
    assert caught.value.code == "bad-mirror"


def test_a_channel_that_has_a_name_only_is_where_the_engine_has_it() -> None:
    first, second = channel_address("conda-forge"), channel_address("other/label/dev")
    assert first.startswith("https://")
    assert second == f"{first.removesuffix('conda-forge')}other/label/dev"
    assert len(first.removeprefix("https://").split("/")) == 2
