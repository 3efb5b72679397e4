"""Locks of other tools: pixi.lock files of every version, and explicit lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.conda.engine import current_platform
from mcp_conda_run.conda.foreign_locks import (
    complete_explicit,
    read_explicit,
    read_pixi_lock,
    virtual_packages,
)
from mcp_conda_run.conda.rattler import RattlerEngine
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import LockedPackage

from .conftest import Solve

HERE = current_platform()
SHA256 = "ab" * 32
MD5 = "cd" * 16
URL = "https://channels.example/conda-forge/linux-64/numpy-2.1.3-py312h58c1407_0.conda"
WHEEL = "https://files.example/humanize-4.12.0-py3-none-any.whl"

CONDA = f"version: 2.1.3\n  build: py312h58c1407_0\n  subdir: linux-64\n  sha256: {SHA256}\n  md5: {MD5}\n"
OLD_WHEEL = f"- kind: pypi\n  name: humanize\n  version: 4.12.0\n  url: {WHEEL}\n  sha256: {SHA256}\n"
OLD = f"- kind: conda\n  name: numpy\n  {CONDA}  url: {URL}\n  depends:\n  - python >=3.12,<3.13.0a0\n{OLD_WHEEL}"
NEW_WHEEL = f"- pypi: {WHEEL}\n  name: humanize\n  version: 4.12.0\n  sha256: {SHA256}\n"
NEW = f"- conda: {URL}\n  sha256: {SHA256}\n  md5: {MD5}\n  depends:\n  - python >=3.12,<3.13.0a0\n{NEW_WHEEL}"


def pixi_lock(version: int, environment: str = "default", platform: str = "linux-64") -> str:
    """Return a pixi.lock of numpy and a wheel, in the words of each version."""
    head = (
        f"version: {version}\nenvironments:\n  {environment}:\n"
        "    channels:\n    - url: https://channels.example/conda-forge/\n"
        f"    indexes:\n    - https://index.example/simple\n    packages:\n      {platform}:\n"
        f"      - conda: {URL}\n      - pypi: {WHEEL}\n"
    )
    platforms = "platforms:\n- name: linux-64\n" if version >= 7 else ""
    return (
        head.replace("environments:\n", f"{platforms}environments:\n", 1)
        + "packages:\n"
        + (OLD if version < 6 else NEW)
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        path = tmp_path / "some.lock"
        path.write_text(text)
        return path

    return to_file


Write = Callable[[str], Path]


@pytest.mark.parametrize("version", [4, 5, 6, 7])
async def test_a_pixi_lock_of_each_version_is_read(write: Write, version: int) -> None:
    numpy, wheel = await read_pixi_lock(write(pixi_lock(version)), "linux-64")
    assert (numpy.name, numpy.version, numpy.build, numpy.url) == ("numpy", "2.1.3", "py312h58c1407_0", URL)
    assert (numpy.sha256, numpy.md5) == (SHA256, MD5)
    assert numpy.depends == ("python >=3.12,<3.13.0a0",)
    assert (wheel.name, wheel.url, wheel.sha256, wheel.manager) == ("humanize", WHEEL, SHA256, "pypi")


async def test_the_only_environment_serves_whatever_its_name(write: Write) -> None:
    assert len(await read_pixi_lock(write(pixi_lock(6, environment="analysis")), "linux-64")) == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad-lock"),
        ("version: 99\nenvironments: {}\npackages: []\n", "bad-lock"),
        ("version: 6\nenvironments: {}\npackages: []\n", "bad-lock"),
        ("[" * 100_000, "bad-lock"),
        ("\x00\x01", "bad-lock"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "bad-lock"),
        (pixi_lock(6, platform="osx-arm64"), "lock-without-platform"),
        (pixi_lock(6).replace(WHEEL, "git+https://host/x@0123"), "pip-not-supported"),
        (pixi_lock(6).replace(f"  version: 4.12.0\n  sha256: {SHA256}\n", "  version: 4.12.0\n"), "pip-not-supported"),
    ],
)
async def test_a_pixi_lock_that_cannot_serve_is_one_clear_error(write: Write, text: str, code: str) -> None:
    with pytest.raises(InstallError) as caught:
        await read_pixi_lock(write(text), "linux-64")
    assert caught.value.code == code


async def test_a_pixi_lock_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="cannot be used"):
        await read_pixi_lock(tmp_path / "pixi.lock", "linux-64")


async def test_the_machine_says_what_it_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.4")
    assert (await virtual_packages())["__cuda"] == "12.4"


# --- explicit lists ---------------------------------------------------------------------------------------------------


def explicit(packages: tuple[LockedPackage, ...], digest: str) -> str:
    marks = {"md5": "#{0.md5}", "sha256": "#{0.sha256}", "marked": "#sha256:{0.sha256}", "none": ""}
    rows = [package.url + marks[digest].format(package) for package in packages]
    return "\n".join(["# platform: linux-64", "@EXPLICIT", *rows, ""])


@pytest.mark.parametrize("digest", ["md5", "sha256", "marked", "none"])
async def test_an_explicit_list_becomes_verifiable_packages(
    write: Write, solve: Solve, engine: RattlerEngine, digest: str
) -> None:
    packages = await solve("python", "six")
    rows = read_explicit(write(explicit(packages, digest)), HERE)
    completed = await complete_explicit(rows, Path("x"), engine, HERE)
    assert {package.url: package.sha256 for package in completed} == {p.url: p.sha256 for p in packages}
    assert {p.name: p.depends for p in completed} == {p.name: p.depends for p in packages}


async def test_a_list_with_digests_needs_no_channel(write: Write, engine: RattlerEngine) -> None:
    rows = read_explicit(
        write(f"@EXPLICIT\n{URL.replace('https://channels.example', 'http://127.0.0.1:9')}#{SHA256}"), "linux-64"
    )
    (package,) = await complete_explicit(rows, Path("x"), engine, "linux-64")
    assert (package.name, package.sha256) == ("numpy", SHA256)


async def test_a_list_with_an_older_digest_than_the_channels_is_refused(
    write: Write, solve: Solve, engine: RattlerEngine
) -> None:
    packages = await solve("six")
    wrong = explicit(packages, "md5").replace(packages[-1].md5, hashlib.md5(b"other").hexdigest())
    with pytest.raises(InstallError) as caught:
        await complete_explicit(read_explicit(write(wrong), HERE), Path("x"), engine, HERE)
    assert caught.value.code == "checksum-mismatch"


async def test_a_list_that_lacks_a_dependency_is_refused(write: Write, solve: Solve, engine: RattlerEngine) -> None:
    some = tuple(package for package in await solve("six") if package.name != "python")
    with pytest.raises(InstallError, match=r"lacks .*python"):
        await complete_explicit(read_explicit(write(explicit(some, "md5")), HERE), Path("x"), engine, HERE)


async def test_a_list_of_what_no_channel_has_is_refused(write: Write, solve: Solve, engine: RattlerEngine) -> None:
    text = explicit(await solve("six"), "md5").replace("/six-", "/sixx-")
    with pytest.raises(InstallError) as caught:
        await complete_explicit(read_explicit(write(text), HERE), Path("x"), engine, HERE)
    assert caught.value.code == "no-checksum"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "numpy",
        "ftp://host/c/linux-64/numpy-2.1.3-0.conda",
        "https://host/c/linux-64/../../numpy-2.1.3-0.conda",
        "https://host/c/linux-64/numpy.conda",
        "https://host/c/linux-64/numpy-2.1.3-0.conda#notadigest",
        "https://host/c/linux-64/numpy-2.1.3-0.conda#abcd",
        f"{URL}\n{URL}",
    ],
)
def test_a_line_that_names_no_package_is_refused(write: Write, line: str) -> None:
    with pytest.raises(InstallError) as caught:
        read_explicit(write(f"@EXPLICIT\n{line}\n"), "linux-64")
    assert caught.value.code == "bad-lock"


def test_a_list_for_another_platform_is_refused(write: Write) -> None:
    with pytest.raises(InstallError, match="linux-64, this machine is win-64"):
        read_explicit(write(f"@EXPLICIT\n{URL}\n"), "win-64")
