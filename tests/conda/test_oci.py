"""Channels in registries of the OCI kind, by `oci://` addresses; only the embedded engine can read them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from mcp_conda_run.conda.access import Access
from mcp_conda_run.conda.choose import choose_engine, make_locker
from mcp_conda_run.conda.engine import Engine, SolveRequest, current_platform
from mcp_conda_run.conda.lockfile import read_lock
from mcp_conda_run.conda.trust import trust_variables
from mcp_conda_run.errors import InstallError
from mcp_conda_run.settings import Settings

from ..support.oci_registry import OciRegistry
from .conftest import Program

CHANNEL = "oci://registry.invalid/mirrors/small"


@pytest.fixture
def registry(small_channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OciRegistry]:
    """Serve the channel as `CHANNEL`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("registry.invalid").configure_cert(context)
    with OciRegistry(small_channel, "mirrors/small", context) as registry:
        monkeypatch.setenv("HTTPS_PROXY", registry.proxy)
        monkeypatch.setenv("https_proxy", registry.proxy)
        yield registry


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", ca_bundle=tmp_path / "ca.pem", engine="rattler")


def engine_of(settings: Settings) -> Engine:
    return choose_engine(settings, Access(environment=trust_variables(settings))).engine


def wanted(channel: str = CHANNEL) -> SolveRequest:
    return SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform())


async def test_a_channel_in_a_registry_is_solved_and_installed_from(
    registry: OciRegistry, settings: Settings, tmp_path: Path
) -> None:
    engine = engine_of(settings)
    packages = await engine.solve(wanted())
    await engine.install(packages, tmp_path / "prefix")
    assert packages[0].url == f"{CHANNEL}/{current_platform()}/mcr-clib-1.0-0.conda"
    assert list((tmp_path / "prefix/conda-meta").glob("mcr-clib-*.json"))
    assert [path for path in registry.asked if "/mcr-clib/blobs/sha256:" in path]


@pytest.mark.usefixtures("registry")
async def test_a_channel_in_a_registry_can_be_locked(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "environment.yml").write_text("channels: [x]\ndependencies: [mcr-clib]\n")
    lock = tmp_path / "conda-lock.yml"
    await make_locker(settings).lock(tmp_path / "environment.yml", [CHANNEL], [current_platform()], lock)
    assert [package.url.rsplit("/", 2)[0] for package in read_lock(lock, current_platform())] == [CHANNEL]


async def test_credentials_of_a_registry_reach_it_and_nothing_else(registry: OciRegistry, settings: Settings) -> None:
    registry.demand_password("me", "s3cret")
    packages = await engine_of(settings).solve(wanted("oci://me:s3cret@registry.invalid/mirrors/small"))
    assert "s3cret" not in str(packages)
    assert packages[0].channel == CHANNEL


async def test_refused_credentials_of_a_registry_have_a_hint_of_their_own(
    registry: OciRegistry, settings: Settings
) -> None:
    registry.demand_password("me", "s3cret")
    with pytest.raises(InstallError) as caught:
        await engine_of(settings).solve(wanted("oci://me:wr0ng@registry.invalid/mirrors/small"))
    assert "credentials" in caught.value.hint
    assert "wr0ng" not in str(caught.value)


async def test_with_micromamba_a_channel_in_a_registry_is_left_to_the_embedded_engine(
    registry: OciRegistry, settings: Settings, program: Program, tmp_path: Path
) -> None:
    with_micromamba = settings.model_copy(update={"engine": "micromamba", "micromamba": program("exit 1")})
    engine = engine_of(with_micromamba)
    await engine.install(await engine.solve(wanted()), tmp_path / "prefix")
    assert engine.name == "micromamba"
    assert list((tmp_path / "prefix/conda-meta").glob("mcr-clib-*.json"))


async def test_a_port_of_a_registry_is_refused_because_it_would_not_be_asked(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    with pytest.raises(InstallError, match="port 443") as caught:
        await engine_of(settings).solve(wanted("oci://registry.invalid:5000/mirrors/small"))
    assert caught.value.code == "bad-channel"
