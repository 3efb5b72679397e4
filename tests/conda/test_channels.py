"""What the index remembers, asked of a real channel; the clock is the only thing replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.conda.channels import EngineIndex, StaticIndex, is_package_name
from mcp_conda_run.conda.engine import current_platform
from mcp_conda_run.conda.rattler import RattlerEngine
from mcp_conda_run.errors import InstallError, SettingsError
from mcp_conda_run.models import PackageFacts

from ..support.http_channel import ChannelServer
from .conftest import Derive

Serve = Callable[[Path], ChannelServer]
HOUR = 3600.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(small_channel: Path, http_channel: Serve) -> ChannelServer:
    return http_channel(small_channel)


@pytest.fixture
def open_index(engine: RattlerEngine, cache: Path, clock: Clock) -> Callable[..., EngineIndex]:
    """Open the index as a new process would: nothing in memory, the same files."""

    def make(*channels: str, offline: bool = False) -> EngineIndex:
        return EngineIndex(
            engine, channels, current_platform(), cache / "index", max_age_s=HOUR, offline=offline, clock=clock
        )

    return make


async def test_a_compiled_python_package_is_one(open_index: Callable[..., EngineIndex], channel: str) -> None:
    facts = (await open_index(channel).describe(["numpy"]))["numpy"]
    assert facts.is_python
    assert facts.channel == channel
    assert facts.latest > "2.1.3"


async def test_a_noarch_python_package_is_one(open_index: Callable[..., EngineIndex], channel: str) -> None:
    assert (await open_index(channel).describe(["six"]))["six"].is_python


@pytest.mark.parametrize("name", ["mcr-clib", "mcrclib", "tzdata", "mcr-activate"])
async def test_a_package_without_python_is_none(
    open_index: Callable[..., EngineIndex], channel: str, name: str
) -> None:
    assert not (await open_index(channel).describe([name]))[name].is_python


async def test_only_the_highest_version_counts_as_evidence(
    open_index: Callable[..., EngineIndex], derive: Derive
) -> None:
    def turned_into_a_library(name: str, row: dict[str, object]) -> dict[str, object]:
        return {**row, "depends": [], "noarch": "generic"} if name.startswith("mcr-two-2.0-") else row

    facts = await open_index(derive(turned_into_a_library).as_uri()).describe(["mcr-two"])
    assert facts["mcr-two"].latest == "2.0"
    assert not facts["mcr-two"].is_python


async def test_a_name_that_no_channel_has_is_absent(open_index: Callable[..., EngineIndex], channel: str) -> None:
    assert await open_index(channel).describe(["nosuchpackage"]) == {}


@pytest.mark.parametrize("name", ["", "Not A Name", "../../etc", "ünïcode", "*", "a/b", "numpy>=2", "\x00"])
async def test_a_name_that_no_package_can_have_is_absent(
    open_index: Callable[..., EngineIndex], channel: str, name: str
) -> None:
    assert not is_package_name(name)
    assert await open_index(channel).describe([name]) == {}


async def test_the_first_channel_that_has_a_name_describes_it(
    open_index: Callable[..., EngineIndex], channel: str, derive: Derive
) -> None:
    old = derive(lambda name, row: row if name.startswith("numpy-2.1.3-") else None).as_uri()
    facts = await open_index(old, channel).describe(["numpy", "six"])
    assert facts["numpy"].channel == old
    assert facts["numpy"].latest == "2.1.3"
    assert facts["six"].channel == channel


async def test_all_names_of_the_platform_and_noarch_are_known(
    open_index: Callable[..., EngineIndex], channel: str
) -> None:
    assert {"numpy", "six", "mcr-clib", "python"} <= await open_index(channel).names()


async def test_the_same_names_are_asked_for_once(open_index: Callable[..., EngineIndex], server: ChannelServer) -> None:
    first = await open_index(server.url).describe(["numpy", "nosuchpackage"])
    server.fail("*", 500)
    assert await open_index(server.url).describe(["numpy", "nosuchpackage"]) == first


async def test_a_remembered_answer_starts_no_worker(
    open_index: Callable[..., EngineIndex], channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_index(channel).describe(["numpy"])
    await open_index(channel).names()
    monkeypatch.setattr("sys.executable", "/does/not/exist")
    assert "numpy" in await open_index(channel).describe(["numpy"])
    assert "numpy" in await open_index(channel).names()


async def test_an_old_answer_is_asked_again(
    open_index: Callable[..., EngineIndex], derive: Derive, clock: Clock
) -> None:
    channel = derive(lambda name, row: None if name.startswith("mcr-two-2.0-") else row)
    assert (await open_index(channel.as_uri()).describe(["mcr-two"]))["mcr-two"].latest == "1.0"
    repodata = channel / "noarch/repodata.json"
    repodata.write_text(repodata.read_text().replace('"version": "1.0"', '"version": "1.5"'))
    clock.now += HOUR + 1
    assert (await open_index(channel.as_uri()).describe(["mcr-two"]))["mcr-two"].latest == "1.5"


async def test_an_old_answer_serves_when_the_channel_is_away(
    open_index: Callable[..., EngineIndex], derive: Derive, clock: Clock
) -> None:
    channel = derive(lambda name, row: row)
    first = await open_index(channel.as_uri()).describe(["numpy"])
    names = await open_index(channel.as_uri()).names()
    (channel / "noarch/repodata.json").unlink()
    clock.now += HOUR + 1
    assert await open_index(channel.as_uri()).describe(["numpy"]) == first
    assert await open_index(channel.as_uri()).names() == names


async def test_offline_an_answer_never_gets_old(
    open_index: Callable[..., EngineIndex], server: ChannelServer, clock: Clock
) -> None:
    await open_index(server.url).describe(["numpy"])
    clock.now += 1000 * HOUR
    server.forget()
    assert "numpy" in await open_index(server.url, offline=True).describe(["numpy"])
    assert server.requests == []


async def test_a_channel_that_is_away_is_an_error_for_what_was_never_asked(
    open_index: Callable[..., EngineIndex], server: ChannelServer
) -> None:
    server.fail("*", 500)
    with pytest.raises(InstallError) as caught:
        await open_index(server.url).describe(["numpy"])
    assert caught.value.code == "channel-unreachable"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"numpy": 5}', b'{"numpy": [1, {"x": 2}]}', b"\xff\xfe"])
async def test_a_damaged_memory_is_forgotten(
    open_index: Callable[..., EngineIndex], channel: str, cache: Path, damage: bytes
) -> None:
    await open_index(channel).describe(["numpy"])
    await open_index(channel).names()
    for file in (cache / "index").glob("*.json"):
        file.write_bytes(damage)
    assert (await open_index(channel).describe(["numpy"]))["numpy"].is_python
    assert "numpy" in await open_index(channel).names()


async def test_two_processes_do_not_forget_each_others_answers(
    open_index: Callable[..., EngineIndex], server: ChannelServer
) -> None:
    first, second = open_index(server.url), open_index(server.url)
    await first.describe(["numpy"])
    await second.describe(["six"])
    await first.describe(["requests"])
    server.fail("*", 500)
    assert set(await open_index(server.url).describe(["numpy", "six", "requests"])) == {"numpy", "six", "requests"}


async def test_what_is_remembered_is_bounded(
    open_index: Callable[..., EngineIndex], channel: str, monkeypatch: pytest.MonkeyPatch, cache: Path, clock: Clock
) -> None:
    monkeypatch.setattr("mcp_conda_run.conda.channels.MAX_REMEMBERED", 3)
    for name in ("numpy", "six", "requests", "pip", "python"):
        clock.now += 1
        assert name in await open_index(channel).describe([name])
    (file,) = (cache / "index").glob("facts-*.json")
    assert set(json.loads(file.read_text())) == {"requests", "pip", "python"}


async def test_credentials_of_a_channel_are_not_written_down(
    open_index: Callable[..., EngineIndex], server: ChannelServer, cache: Path
) -> None:
    index = open_index(server.url.replace("://", "://user:secret@"))
    facts = await index.describe(["numpy"])
    assert facts["numpy"].channel == server.url
    assert all("secret" not in file.read_text() for file in (cache / "index").iterdir())


# --- the static index -------------------------------------------------------------------------------------------------


async def test_a_static_index_answers_from_its_file(tmp_path: Path) -> None:
    document = {"platform": "linux-64", "channels": {"one": {"yaml": False}, "two": {"yaml": True, "numpy": True}}}
    (tmp_path / "names.json").write_text(json.dumps(document))
    index = StaticIndex.load(tmp_path / "names.json")
    assert index.platform == "linux-64"
    assert await index.names() == {"yaml", "numpy"}
    assert await index.describe(["yaml", "numpy", "other"]) == {
        "yaml": PackageFacts("yaml", "one", "", is_python=False),
        "numpy": PackageFacts("numpy", "two", "", is_python=True),
    }


@pytest.mark.parametrize("text", ["", "[]", '{"channels": []}', '{"channels": {"one": 1}}', '{"channels": {}}'])
def test_a_static_index_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(SettingsError):
        StaticIndex.load(tmp_path / "names.json")
