"""The ways to a channel: certificates of one's own authority, proxies, S3, and what there is no way to."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from mcp_conda_run.conda.choose import make_engine, make_locker
from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.lockfile import read_lock
from mcp_conda_run.conda.process import child_environment, s3_variables
from mcp_conda_run.conda.trust import trust_variables
from mcp_conda_run.errors import HostError, InstallError, SettingsError
from mcp_conda_run.settings import Settings

from ..support.http_channel import ChannelServer


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA, small_channel: Path) -> Iterator[ChannelServer]:
    """Serve the channel over HTTPS, with a certificate that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ChannelServer(small_channel, tls=context) as server:
        yield server


@pytest.fixture
def settings(authority: trustme.CA, tmp_path: Path) -> Settings:
    """Return settings that name the authority."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return Settings(cache_dir=tmp_path / "cache", ca_bundle=tmp_path / "ca.pem", engine="rattler")


def wanted(channel: str, spec: str = "mcr-clib") -> SolveRequest:
    return SolveRequest(specs=[spec], channels=[channel], platform=current_platform())


async def test_a_channel_with_an_own_authority_is_solved_and_installed_from(
    settings: Settings, server: ChannelServer, tmp_path: Path
):
    engine = make_engine(settings)
    await engine.install(await engine.solve(wanted(server.url)), tmp_path / "prefix")
    assert list((tmp_path / "prefix/conda-meta").glob("mcr-clib-*.json"))


async def test_without_the_authority_nothing_is_believed(settings: Settings, server: ChannelServer):
    engine = make_engine(settings.model_copy(update={"ca_bundle": None}))
    with pytest.raises(InstallError) as caught:
        await engine.solve(wanted(server.url))
    assert caught.value.code == "channel-unreachable"
    assert "SSL_CERT_FILE" in caught.value.hint


async def test_a_machine_without_any_authority_says_so(
    settings: Settings, server: ChannelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "none").mkdir()
    (tmp_path / "none.pem").write_text("")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    engine = make_engine(settings.model_copy(update={"ca_bundle": None}))
    with pytest.raises(HostError) as caught:
        await engine.solve(wanted(server.url))
    assert caught.value.code == "no-certificates"
    assert "ca-certificates" in caught.value.hint


async def test_locks_are_made_from_such_a_channel_too(settings: Settings, server: ChannelServer, tmp_path: Path):
    (tmp_path / "environment.yml").write_text("channels: [x]\ndependencies: [mcr-clib]\n")
    lock = tmp_path / "conda-lock.yml"
    await make_locker(settings).lock(tmp_path / "environment.yml", [server.url], [current_platform()], lock)
    assert [package.name for package in read_lock(lock, current_platform())] == ["mcr-clib"]


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates_is_refused(tmp_path: Path, content: bytes | None):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        trust_variables(Settings(ca_bundle=path))
    assert caught.value.code == "bad-ca-bundle"


async def test_a_proxy_is_asked_for_the_channel(small_channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with ChannelServer(small_channel) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        engine = make_engine(Settings(cache_dir=tmp_path / "cache", engine="rattler"))
        packages = await engine.solve(wanted("http://channels.invalid"))
        await engine.install(packages, tmp_path / "prefix")
        assert proxy.paths("*/mcr-clib-*.conda")
    assert packages[0].url.startswith("http://channels.invalid/")


@pytest.fixture
def bucket(small_channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChannelServer]:
    """Serve what answers to s3://bucket/channel, and name it as the tools of S3 do."""
    shutil.copytree(small_channel, tmp_path / "server/bucket/channel", copy_function=os.link)
    with ChannelServer(tmp_path / "server") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield server


async def test_a_channel_in_s3_is_solved_and_installed_from(bucket: ChannelServer, tmp_path: Path):
    engine = make_engine(Settings(cache_dir=tmp_path / "cache", engine="rattler"))
    packages = await engine.solve(wanted("s3://bucket/channel"))
    await engine.install(packages, tmp_path / "prefix")
    assert bucket.paths("/bucket/channel/*/mcr-clib-*.conda")
    assert packages[0].url.startswith("s3://bucket/channel/")


@pytest.mark.usefixtures("bucket")
async def test_a_channel_in_s3_can_be_locked(tmp_path: Path):
    (tmp_path / "environment.yml").write_text("channels: [x]\ndependencies: [mcr-clib]\n")
    lock, channel = tmp_path / "conda-lock.yml", "s3://bucket/channel"
    locker = make_locker(Settings(cache_dir=tmp_path / "cache"))
    await locker.lock(tmp_path / "environment.yml", [channel], [current_platform()], lock)
    assert [package.url.rsplit("/", 2)[0] for package in read_lock(lock, current_platform())] == [channel]


def test_keys_of_s3_go_only_to_who_reads_from_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert s3_variables(["https://channels.invalid/c"]) == {}
    assert "AWS_SECRET_ACCESS_KEY" in s3_variables(["https://channels.invalid/c", "s3://bucket/c"])
    assert "AWS_SECRET_ACCESS_KEY" not in child_environment()


@pytest.mark.parametrize("channel", ["gs://bucket/channel", "ftp://host.invalid/channel"])
async def test_a_kind_of_address_that_cannot_be_read_is_said(tmp_path: Path, channel: str):
    engine = make_engine(Settings(cache_dir=tmp_path, engine="rattler"))
    with pytest.raises(InstallError, match="cannot be used"):
        await engine.solve(wanted(channel))


async def test_what_s3_needs_is_said(tmp_path: Path):
    engine = make_engine(Settings(cache_dir=tmp_path, engine="rattler"))
    with pytest.raises(InstallError) as caught:
        await engine.solve(wanted("s3://bucket/channel"))
    assert "AWS_REGION" in caught.value.hint
