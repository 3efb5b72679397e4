"""The user's condarc: where it is looked for, what of it counts, and what both engines get of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.conda.condarc import Condarc, read_condarc, search_path
from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.world import known_world
from mcp_conda_run.errors import SettingsError
from mcp_conda_run.settings import Settings

from ..support.http_channel import ChannelServer
from .conftest import MakeEngine

Serve = Callable[[Path], ChannelServer]
Write = Callable[..., Condarc]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files below a home, and read them all: `write(**{".condarc": "..."})`."""

    def make(files: dict[str, str], **variables: str) -> Condarc:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read_condarc({name: value.format(home=tmp_path) for name, value in variables.items()}, tmp_path)

    return make


@pytest.fixture
def condarc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Be a user with this condarc."""

    def be(text: str) -> None:
        (tmp_path / "condarc.yml").write_text(text)
        monkeypatch.setenv("CONDARC", str(tmp_path / "condarc.yml"))

    return be


def world(tmp_path: Path, **settings: object) -> Settings:
    return known_world(Settings(cache_dir=tmp_path, use_condarc=True, **settings))[0]  # type: ignore[arg-type]


# --- where it is ------------------------------------------------------------------------------------------------------


def test_the_documented_places_are_searched_the_strongest_last(tmp_path: Path) -> None:
    variables = {"CONDA_EXE": "/opt/conda/bin/conda", "MAMBA_ROOT_PREFIX": "/opt/mamba", "CONDA_PREFIX": "/envs/x"}
    places = list(search_path({**variables, "CONDARC": "/etc/own", "MAMBARC": "/etc/ownm"}, tmp_path))
    expected = [
        *("/etc/conda/.condarc", "/var/lib/conda/condarc", "/opt/conda/.condarc", "/opt/mamba/.mambarc"),
        *(f"{tmp_path}/.config/conda/.condarc", f"{tmp_path}/.conda/condarc", f"{tmp_path}/.condarc"),
        *(f"{tmp_path}/.mambarc", "/envs/x/.condarc", "/etc/own", "/etc/ownm"),
    ]
    indexes = [places.index(Path(path)) for path in expected]
    assert indexes == sorted(indexes)


def test_files_of_a_directory_are_read_in_order(write: Write) -> None:
    found = write({".conda/condarc.d/b.yml": "channels: [b]", ".conda/condarc.d/a.yaml": "channels: [a]"})
    assert found.channels == ("b", "a")


def test_without_files_there_is_nothing(write: Write) -> None:
    assert write({}) == Condarc()


def test_a_stronger_files_channels_come_first(write: Write) -> None:
    found = write({".condarc": "channels: [home, both]", "own.yml": "channels: [both, own]"}, CONDARC="{home}/own.yml")
    assert found.channels == ("both", "own", "home")


def test_a_stronger_files_values_win(write: Write) -> None:
    found = write(
        {
            ".condarc": "channel_alias: https://weak\ncustom_channels: {a: https://weak, b: https://b}",
            ".mambarc": "channel_alias: https://strong/\ncustom_channels: {a: https://strong}",
        }
    )
    assert found.channel_alias == "https://strong"
    assert found.custom_channels == {"a": "https://strong", "b": "https://b"}


def test_variables_are_put_in(write: Write) -> None:
    found = write({".condarc": "channels: ['https://host/t/${TOKEN}/c', 'https://host/$OTHER']"}, TOKEN="tk")
    assert found.channels == ("https://host/t/tk/c", "https://host/$OTHER")


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "channels: {a: b}",
        "channels: [1]",
        'channels: ["a\\nb"]',
        "custom_channels: [a]",
        "custom_channels: {a: [b]}",
        "mirrored_channels: {a: {b: c}}",
        "channel_alias: [x]",
        "channel_priority: sometimes",
        "ssl_verify: [x]",
        "a: [",
        "[" * 100,
        "!!python/object:os.system x",
    ],
)
def test_a_file_that_makes_no_sense_is_named(write: Write, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        write({".condarc": text})
    assert caught.value.code == "bad-condarc"
    assert ".condarc" in caught.value.message


def test_an_empty_file_and_foreign_keys_do_no_harm(write: Write) -> None:
    found = write({".condarc": "", ".mambarc": "auto_activate_base: false\nchannels:\nshow_channel_urls: true"})
    assert found.channels == ()


@pytest.mark.parametrize(
    ("value", "has"), [("strict", True), ("flexible", True), ("disabled", False), ("false", False)]
)
def test_the_priority_of_channels_is_kept_unless_it_is_disabled(write: Write, value: str, *, has: bool) -> None:
    assert write({".condarc": f"channel_priority: {value}"}).has_priority is has


def test_certificates_are_checked_whatever_the_file_says(write: Write) -> None:
    found = write({".condarc": "ssl_verify: false"})
    assert found.ca_bundle == ""
    assert "ssl_verify" in found.notes[0]


def test_a_file_of_certificates_is_taken(write: Write) -> None:
    assert write({".condarc": "ssl_verify: /etc/ca.pem"}).ca_bundle == "/etc/ca.pem"


# --- what is made of it -----------------------------------------------------------------------------------------------


def test_it_is_not_read_unasked(condarc: Callable[[str], None], tmp_path: Path) -> None:
    condarc("channels: [mine]")
    settings, _ = known_world(Settings(cache_dir=tmp_path))
    assert settings.channels == ()


def test_its_channels_count_less_than_those_of_the_settings(condarc: Callable[[str], None], tmp_path: Path) -> None:
    condarc("channels: [mine]")
    assert world(tmp_path).channels == ("mine",)
    assert world(tmp_path, channels=("ours",)).channels == ("ours",)


def test_names_get_their_addresses(condarc: Callable[[str], None], tmp_path: Path) -> None:
    condarc(
        "channel_alias: https://repo\n"
        "custom_channels: {internal: https://in/house/}\n"
        "custom_multichannels: {all: [internal, conda-forge]}\n"
        "default_channels: [main, 'https://x/r']\n"
    )
    _, access = known_world(Settings(cache_dir=tmp_path, use_condarc=True, channels=("conda-forge",)))
    assert access.as_request()["channel_urls"] == {
        "internal": ["https://in/house/internal"],
        "all": ["https://in/house/internal", "https://repo/conda-forge"],
        "defaults": ["https://repo/main", "https://x/r"],
        "conda-forge": ["https://repo/conda-forge"],
    }


def test_the_first_mirror_serves(condarc: Callable[[str], None], tmp_path: Path) -> None:
    condarc("mirrored_channels: {conda-forge: ['https://one/conda-forge', 'https://two/conda-forge']}")
    assert world(tmp_path).mirrors == ("conda-forge=https://one/conda-forge",)


def test_proxies_reach_the_engines(condarc: Callable[[str], None], tmp_path: Path) -> None:
    condarc("proxy_servers: {http: 'http://me:pw@proxy:1', https: 'http://proxy:2', 'https://one.host': 'http://x'}")
    _, access = known_world(Settings(cache_dir=tmp_path, use_condarc=True))
    assert access.environment == {"http_proxy": "http://me:pw@proxy:1", "https_proxy": "http://proxy:2"}


def test_package_caches_become_layers_if_they_are_there(condarc: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "pkgs").mkdir()
    condarc(f"pkgs_dirs: ['{tmp_path}/pkgs', '/does/not/exist']")
    assert world(tmp_path, package_layers=("/own",)).package_layers == ("/own", str(tmp_path / "pkgs"))


def test_the_settings_own_certificates_count_more(condarc: Callable[[str], None], tmp_path: Path) -> None:
    for name in ("a.pem", "b.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----")
    condarc(f"ssl_verify: {tmp_path}/a.pem")
    assert world(tmp_path).ca_bundle == tmp_path / "a.pem"
    assert world(tmp_path, ca_bundle=tmp_path / "b.pem").ca_bundle == tmp_path / "b.pem"


def test_credentials_are_not_in_the_settings(condarc: Callable[[str], None], tmp_path: Path) -> None:
    condarc(
        "channels: ['https://me:s3cret@host/c']\nmirrored_channels: {x: ['https://me:s3cret@host/x']}\n"
        "channel_alias: https://me:s3cret@host/\n"
    )
    assert "s3cret" not in world(tmp_path).model_dump_json()


def test_tokens_in_the_environment_are_put_into_the_settings_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_TOKEN", "tk-1")
    settings, access = known_world(Settings(cache_dir=tmp_path, channels=("https://host/t/$CONDA_TOKEN/c",)))
    assert settings.channels == ("https://host/c",)
    assert access.as_request()["credentials"] == {"host": {"token": "tk-1"}}


async def test_a_channel_known_only_to_the_condarc_is_solved_by_its_name(
    condarc: Callable[[str], None], small_channel: Path, tmp_path: Path, make_engine: MakeEngine
) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up/internal").symlink_to(small_channel)
    condarc(f"channels: [internal]\ncustom_channels: {{internal: {(tmp_path / 'up').as_uri()}}}")
    settings, access = known_world(Settings(cache_dir=tmp_path, use_condarc=True))
    request = SolveRequest(specs=["internal::mcr-clib"], channels=settings.channels, platform=current_platform())
    (package,) = await make_engine(access=access).solve(request)
    assert package.channel == "internal"
    assert package.url.startswith((tmp_path / "up/internal").as_uri())


async def test_without_priority_a_later_channel_may_have_the_newer_version(
    condarc: Callable[[str], None], channel: str, derive: Callable[..., Path], tmp_path: Path, make_engine: MakeEngine
) -> None:
    old = derive(lambda name, row: row if name.startswith("mcr-two-1.0") else None).as_uri()
    condarc(f"channels: ['{old}', '{channel}']\nchannel_priority: disabled")
    settings, access = known_world(Settings(cache_dir=tmp_path, use_condarc=True))
    request = SolveRequest(specs=["mcr-two"], channels=settings.channels, platform=current_platform())
    packages = await make_engine(access=access).solve(request)
    assert {p.version for p in packages if p.name == "mcr-two"} == {"2.0"}


async def test_a_proxy_of_the_condarc_is_asked(
    condarc: Callable[[str], None], small_channel: Path, http_channel: Serve, tmp_path: Path, make_engine: MakeEngine
) -> None:
    proxy = http_channel(small_channel)  # it looks at the path alone, as a proxy for one host would
    condarc(f"channels: ['http://nowhere.invalid']\nproxy_servers: {{http: '{proxy.url}'}}")
    settings, access = known_world(Settings(cache_dir=tmp_path, use_condarc=True))
    request = SolveRequest(specs=["mcr-clib"], channels=settings.channels, platform=current_platform())
    (package,) = await make_engine(access=access).solve(request)
    assert package.url.startswith("http://nowhere.invalid/")
    assert proxy.paths("*repodata*")


async def test_a_package_cache_of_the_user_is_used_and_not_written(
    channel: str, tmp_path: Path, make_engine: MakeEngine
) -> None:
    first, second = make_engine(), make_engine(tmp_path / "second/pkgs", layers=[layer_of(make_engine, tmp_path)])
    request = SolveRequest(specs=["mcr-prefix"], channels=[channel], platform=current_platform())
    packages = await first.solve(request)
    await first.install(packages, tmp_path / "one")
    before = everything(layer_of(make_engine, tmp_path))
    await second.install(packages, tmp_path / "two")
    assert everything(layer_of(make_engine, tmp_path)) == before
    assert not list((tmp_path / "second").rglob("share/mcr"))
    assert list((tmp_path / "two/share/mcr").iterdir())


def layer_of(make_engine: MakeEngine, tmp_path: Path) -> Path:
    own = tmp_path / "cache/pkgs"
    return own if make_engine().name == "rattler" else own / "micromamba/pkgs"


def everything(root: Path) -> dict[str, int]:
    return {
        os.path.join(directory, name): os.stat(os.path.join(directory, name)).st_mtime_ns
        for directory, _, names in os.walk(root)
        for name in names
        if not name.endswith(".lock")
    }
