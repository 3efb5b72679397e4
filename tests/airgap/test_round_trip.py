"""From a machine with channels to one without: bundle, unbundle, then run, plan and warm up with no server to ask."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_conda_run.airgap.bundle import Bundled, make_bundle
from mcp_conda_run.airgap.unbundle import unpack_bundle
from mcp_conda_run.errors import InstallError, RequestError
from mcp_conda_run.models import RunRequest, no_progress
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.settings import Settings

from ..support.http_channel import ChannelServer
from ..support.pypi_index import PypiIndex
from ..support.wheels import make_wheel

SPECS = ("mcr-two <2", "six", "pypi:mcr-wheel")
TEMPLATE = "channels: [conda-forge]\ndependencies: [python]\n"


@pytest.fixture(scope="module")
def server(small_channel: Path) -> Iterator[ChannelServer]:
    with ChannelServer(small_channel) as server:
        yield server


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PypiIndex]:
    with PypiIndex() as index:
        folder = tmp_path_factory.mktemp("wheels")
        index.add(make_wheel(folder, "mcr_wheel", "1.5", files={"mcr_wheel.py": "version = '1.5'\n"}))
        yield index


def online(home: Path, server: ChannelServer, index: PypiIndex | None = None) -> Settings:
    """Return the settings of a machine that has channels, and a template of its own."""
    (home / "own.yml").write_text(TEMPLATE)
    return Settings(
        cache_dir=home / "cache",
        channels=(server.url,),
        pool_mb=0,
        template=str(home / "own.yml"),
        templates_dir=home / "templates",
        pypi_index=index.url if index is not None else "",
    )


async def bundled(output: Path, settings: Settings, *specs: str, platform: str | None = None) -> Bundled:
    """Make a bundle of the template of `online`."""
    return await make_bundle(output, settings, templates=[], specs=specs, platform=platform, progress=no_progress)


@pytest.fixture(scope="module")
def bundle(server: ChannelServer, index: PypiIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a template, two packages and a wheel, made from a channel and an index over HTTP."""
    home = tmp_path_factory.mktemp("online")
    asyncio.run(bundled(home / "runs.tar", online(home, server, index), *SPECS))
    return home / "runs.tar"


@pytest.fixture(scope="module")
def offline(
    bundle: Path, server: ChannelServer, index: PypiIndex, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Return the settings of a machine that got the bundle and asks nobody."""
    home = tmp_path_factory.mktemp("offline")
    settings = online(home, server, index).model_copy(update={"template": "own", "offline": True})
    unpack_bundle(bundle, settings)
    server.forget()
    index.asked.clear()
    return settings


async def test_a_run_with_a_carried_package_asks_nobody(offline: Settings, server: ChannelServer):
    async with Runtime(offline) as runtime:
        result = await runtime.run(RunRequest(code="import mcr_two\nmcr_two.version", packages=("mcr-two <2",)))
    assert result.value is not None
    assert (result.value.json, server.requests) == ("1.0", [])


async def test_an_import_is_planned_from_what_was_carried(offline: Settings, server: ChannelServer):
    async with Runtime(offline) as runtime:
        plan = await runtime.plan(RunRequest(code="import six"))
    assert [(package.name, package.channel) for package in plan.solution] == [("six", server.url)]
    assert server.requests == []


async def test_what_is_installed_says_where_it_is_from(offline: Settings, server: ChannelServer):
    async with Runtime(offline) as runtime:
        provided = await runtime.warmup()
    record = next((provided.environment.prefix / "conda-meta").glob("python-3*.json"))
    assert f'"url": "{server.url}/' in record.read_text()


async def test_what_was_not_carried_is_named_with_the_way_to_get_it(offline: Settings, server: ChannelServer):
    async with Runtime(offline) as runtime:
        result = await runtime.run(RunRequest(code="1", packages=("numpy",)))
    assert result.error is not None
    assert "numpy" in result.error.message
    assert server.requests == []


async def test_online_the_channels_are_asked_again(offline: Settings, server: ChannelServer):
    try:
        async with Runtime(offline.model_copy(update={"offline": False})) as runtime:
            plan = await runtime.plan(RunRequest(code="1", packages=("numpy",)))
        assert "numpy" in [package.name for package in plan.solution]
        assert server.requests != []
    finally:
        server.forget()


async def test_wheels_are_carried_and_installed_without_an_index(offline: Settings, index: PypiIndex):
    request = RunRequest(code="import mcr_wheel\nmcr_wheel.version", packages=("pypi:mcr-wheel>=1",))
    async with Runtime(offline) as runtime:
        result = await runtime.run(request)
    assert result.value is not None, result.error
    assert (result.value.json, index.asked) == ("1.5", [])


async def test_a_bundle_is_the_same_when_it_is_made_again(
    bundle: Path, server: ChannelServer, index: PypiIndex, tmp_path: Path
):
    again = online(bundle.parent, server, index)
    await bundled(tmp_path / "again.tar", again, *SPECS)
    server.forget()
    index.asked.clear()
    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()


async def test_a_bundle_can_be_made_for_another_platform(server: ChannelServer, tmp_path: Path):
    made = await bundled(tmp_path / "win.tar", online(tmp_path, server), platform="win-64")
    server.forget()
    paths = [member.path for member in made.manifest.members]
    assert any("/win-64/python-" in path for path in paths)
    assert not any("/linux-64/" in path for path in paths)


async def test_wheels_for_another_platform_are_refused(server: ChannelServer, tmp_path: Path):
    with pytest.raises(RequestError, match="can be bundled for"):
        await bundled(tmp_path / "win.tar", online(tmp_path, server), "pypi:humanize", platform="win-64")
    server.forget()


async def test_a_damaged_archive_is_not_carried(small_channel: Path, tmp_path: Path):
    with ChannelServer(small_channel) as server:
        server.corrupt("*/tzdata-*")
        with pytest.raises(InstallError, match="tzdata"):
            await bundled(tmp_path / "b.tar", online(tmp_path, server))
    assert not (tmp_path / "b.tar").exists()


async def test_a_private_channel_is_carried_without_its_token(small_channel: Path, tmp_path: Path):
    with ChannelServer(small_channel) as server:
        server.demand_token("s3cr3t")
        settings = online(tmp_path, server)
        private = f"{server.url}/t/s3cr3t"
        made = await bundled(tmp_path / "b.tar", settings.model_copy(update={"channels": (private,)}))
    assert [channel.url for channel in made.manifest.channels] == [server.url]
    assert b"s3cr3t" not in (tmp_path / "b.tar").read_bytes()


async def test_what_was_carried_can_be_carried_on_without_a_network(
    offline: Settings, server: ChannelServer, tmp_path: Path
):
    made = await bundled(tmp_path / "on.tar", offline, "six")
    assert any("/six-" in member.path for member in made.manifest.members)
    assert server.requests == []


async def test_offline_a_bundle_asks_nobody_for_what_is_missing(server: ChannelServer, tmp_path: Path):
    settings = online(tmp_path, server)
    await bundled(tmp_path / "b.tar", settings)
    server.forget()
    with pytest.raises(InstallError) as caught:
        await bundled(tmp_path / "b.tar", settings.model_copy(update={"offline": True}))
    assert (caught.value.code, server.requests) == ("offline-missing", [])
