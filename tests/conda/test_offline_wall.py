"""Offline means that nothing is fetched: the helpers have no network, and what is missing is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.conda.channels import EngineIndex
from mcp_conda_run.conda.choose import make_engine
from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.netwall import leave_network
from mcp_conda_run.environments.download import download
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import RunRequest, no_progress
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.settings import Settings

from ..support.http_channel import ChannelServer

Served = Callable[[Path], ChannelServer]
TRIES = """
import socket, sys
from mcp_conda_run.conda import lifeline
request = lifeline.take_request()
try:
    socket.create_connection(("127.0.0.1", request["port"]), timeout=5).close()
    print("reached")
except OSError as error:
    print("no network" if error.errno in (101, 99) else error)
"""


def asked(server: ChannelServer, *, offline: bool) -> str:
    """Let a helper process try to reach a server of this machine; return what it says."""
    port = int(server.url.rpartition(":")[2])
    request = json.dumps({"offline": offline, "port": port}) + "\n"
    process = subprocess.Popen([sys.executable, "-c", TRIES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(request)
        process.stdin.flush()
        return process.stdout.readline().strip()


def can_wall() -> bool:
    """Say whether this machine lets a process leave its network."""
    command = [sys.executable, "-c", "from mcp_conda_run.conda.netwall import leave_network as f; print(f())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "True"


def test_a_helper_that_is_offline_has_no_network_at_all(http_channel: Served, small_channel: Path):
    if not can_wall():
        pytest.skip("no network namespaces here")
    server = http_channel(small_channel)
    assert asked(server, offline=True) == "no network"
    assert asked(server, offline=False) == "reached"


def test_where_there_are_no_namespaces_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not leave_network()


@pytest.fixture
def settings(http_channel: Served, small_channel: Path, tmp_path: Path) -> tuple[Settings, ChannelServer]:
    """Return settings for a small template on a channel over HTTP, and the channel's server."""
    server = http_channel(small_channel)
    (tmp_path / "own.yml").write_text("channels: [conda-forge]\ndependencies: [python]\n")
    template = str(tmp_path / "own.yml")
    return Settings(cache_dir=tmp_path / "cache", channels=(server.url,), template=template, pool_mb=0), server


async def test_offline_with_an_empty_cache_nobody_is_asked(settings: tuple[Settings, ChannelServer]):
    online, server = settings
    async with Runtime(online.model_copy(update={"offline": True})) as runtime:
        result = await runtime.run(RunRequest(code="1"))
        engine = runtime.engine
        with pytest.raises(InstallError) as caught:
            await engine.solve(SolveRequest(specs=["six"], channels=[server.url], platform=current_platform()))
    assert result.status == "install-error"
    assert (caught.value.code, server.requests) == ("offline-missing", [])
    assert "bundle" in caught.value.hint


async def fetched(settings: Settings, *specs: str) -> None:
    """Do what `warmup --download-only` does."""
    async with Runtime(settings) as runtime:
        await download(
            runtime.provisioner,
            runtime.provisioner.template(None),
            specs,
            settings=settings,
            store=runtime.store,
            engine=runtime.engine,
            progress=no_progress,
        )


async def test_what_was_only_fetched_is_enough_for_a_run_offline(settings: tuple[Settings, ChannelServer]):
    online, server = settings
    await fetched(online, "mcr-two")
    assert not list((online.cache_dir / "envs").glob("*.json"))
    server.forget()
    async with Runtime(online.model_copy(update={"offline": True})) as runtime:
        result = await runtime.run(RunRequest(code="import mcr_two\nmcr_two.version", packages=("mcr-two",)))
    assert result.value is not None, result.error
    assert (result.value.json, server.requests) == ("2.0", [])


async def test_only_fetching_leaves_no_prefix_behind(settings: tuple[Settings, ChannelServer]):
    online, _ = settings
    await fetched(online)
    assert list((online.cache_dir / "scratch").iterdir()) == []


async def test_what_was_learned_offline_is_not_believed_online(tmp_path: Path, small_channel: Path):
    channel = tmp_path / "channel"
    for subdir in (current_platform(), "noarch"):
        (channel / subdir).mkdir(parents=True)
        (channel / subdir / "repodata.json").write_text('{"packages": {}, "packages.conda": {}}')
    settings = Settings(cache_dir=tmp_path / "cache", engine="rattler")

    def index(*, offline: bool) -> EngineIndex:
        place = (make_engine(settings), [channel.as_uri()], current_platform(), tmp_path / "index")
        return EngineIndex(*place, max_age_s=1000, offline=offline)

    assert await index(offline=True).describe({"six"}) == {}
    channel.rename(tmp_path / "empty")
    channel.symlink_to(small_channel)
    assert set(await index(offline=False).describe({"six"})) == {"six"}
