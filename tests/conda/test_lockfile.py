"""Locks and environment files from anywhere: good ones are read, all others are one clear error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_conda_run.conda.lockfile import INPUT_DIGEST, input_digest, is_stale, read_environment, read_lock
from mcp_conda_run.errors import CondaRunError, InstallError, SettingsError

SHA256 = "ab" * 32
MD5 = "cd" * 16


def row(**changes: Any) -> dict[str, Any]:
    """Return a row as conda-lock writes it."""
    return {
        "name": "numpy",
        "version": "2.1.3",
        "manager": "conda",
        "platform": "linux-64",
        "dependencies": {"python": ">=3.11,<3.12.0a0", "libblas": ""},
        "url": "https://channels.example/conda-forge/linux-64/numpy-2.1.3-py311h71ddf71_7.conda",
        "hash": {"md5": MD5, "sha256": SHA256},
        "category": "main",
        "optional": False,
        **changes,
    }


def lock(*rows: Any, **metadata: Any) -> dict[str, Any]:
    """Return a lock as conda-lock writes it."""
    head = {"content_hash": {"linux-64": "x"}, "platforms": ["linux-64"], "sources": ["environment.yml"], **metadata}
    return {"version": 1, "metadata": head, "package": list(rows)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Write text or a document into a file."""

    def to_file(content: Any) -> Path:
        path = tmp_path / "conda-lock.yml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return to_file


Write = Callable[[Any], Path]


def refusal(path: Path, platform: str = "linux-64") -> InstallError:
    with pytest.raises(InstallError) as caught:
        read_lock(path, platform)
    assert str(path) in caught.value.message
    return caught.value


# --- good locks -------------------------------------------------------------------------------------------------------


def test_a_row_becomes_a_package(write: Write) -> None:
    (package,) = read_lock(write(lock(row())), "linux-64")
    assert (package.name, package.version, package.build, package.build_number) == (
        "numpy",
        "2.1.3",
        "py311h71ddf71_7",
        7,
    )
    assert (package.subdir, package.channel) == ("linux-64", "conda-forge")
    assert (package.sha256, package.md5) == (SHA256, MD5)
    assert set(package.depends) == {"python >=3.11,<3.12.0a0", "libblas"}


def test_only_the_rows_of_the_platform_count(write: Write) -> None:
    other = row(platform="osx-arm64", url=row()["url"].replace("linux-64", "osx-arm64"))
    document = lock(row(), other, platforms=["linux-64", "osx-arm64"])
    assert [package.subdir for package in read_lock(write(document), "osx-arm64")] == ["osx-arm64"]


def test_rows_of_other_categories_do_not_count(write: Write) -> None:
    assert len(read_lock(write(lock(row(), row(category="dev", name="pytest"))), "linux-64")) == 1


def test_a_row_without_md5_is_read(write: Write) -> None:
    (package,) = read_lock(write(lock(row(hash={"md5": "", "sha256": SHA256}))), "linux-64")
    assert package.md5 == ""


def test_an_address_may_be_percent_encoded(write: Write) -> None:
    url = "https://host/c/linux-64/pkg-1%212.0%2Bcu-h1_0.tar.bz2"
    (package,) = read_lock(write(lock(row(name="pkg", version="1!2.0+cu", url=url))), "linux-64")
    assert package.build == "h1_0"


@pytest.mark.parametrize("base", ["https://host", "https://host/a/b", "file:///srv/channel", "http://127.0.0.1:80"])
def test_channels_of_all_kinds_are_read(write: Write, base: str) -> None:
    (package,) = read_lock(write(lock(row(url=f"{base}/linux-64/numpy-2.1.3-0.conda"))), "linux-64")
    assert package.channel == base


def test_credentials_stay_in_the_address_alone(write: Write) -> None:
    url = "https://me:secret@host/t/to-ken/c/linux-64/numpy-2.1.3-0.conda"
    (package,) = read_lock(write(lock(row(url=url))), "linux-64")
    assert package.url == url
    assert "secret" not in package.channel
    assert "to-ken" not in package.channel


# --- bad locks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text",
        "[1, 2]",
        "version: 1",
        "version: 2\nmetadata: {}\npackage: []",
        "version: 1\nmetadata: []\npackage: []",
        "version: 1\nmetadata: {}\npackage: {}",
        "version: 1\nmetadata: {}\npackage: [1]",
        "version: 1\nmetadata: {}\npackage: [{}]",
        "a: [",
        "a: b: c",
        "\t",
        "!!python/object/apply:os.system [touch /tmp/owned]",
        "a: &a [*a]",
        "d: 2025-99-99",
        "{[]: 1}",
        "\x00",
    ],
)
def test_a_file_of_another_shape_is_refused(write: Write, text: str) -> None:
    assert refusal(write(text)).code == "bad-lock"


@pytest.mark.parametrize("nested", ["[" * 100_000, "- " * 50_000, "{a: " * 60_000, "? " * 50_000])
def test_deep_nesting_does_not_crash_the_process(write: Write, nested: str) -> None:
    assert refusal(write(nested)).code == "bad-lock"


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yml"
    with path.open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    assert refusal(path).code == "bad-lock"


def test_a_missing_file_a_directory_and_a_fifo_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("missing", "directory", "fifo"):
        assert refusal(tmp_path / name).code == "bad-lock"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../etc"},
        {"name": "scipy"},
        {"version": "9.9"},
        {"version": 2.1},
        {"manager": "npm"},
        {"url": "ftp://host/linux-64/numpy-2.1.3-0.conda"},
        {"url": "https://host/linux-64/numpy-2.1.3-0.exe"},
        {"url": "numpy-2.1.3-0.conda"},
        {"url": "https://host/win-64/numpy-2.1.3-0.conda"},
        {"url": "https://host/linux-64/numpy-2.1.3-..%2F..%2Fx.conda"},
        {"hash": {}},
        {"hash": {"md5": MD5}},
        {"hash": {"sha256": "zz" * 32}},
        {"hash": {"sha256": SHA256[:-1]}},
        {"hash": {"sha256": SHA256, "md5": "short"}},
        {"hash": None},
        {"dependencies": ["python"]},
    ],
)
def test_a_row_that_cannot_be_right_is_refused(write: Write, changes: dict[str, Any]) -> None:
    assert refusal(write(lock(row(**changes)))).code == "bad-lock"


def test_a_package_that_is_there_twice_is_refused(write: Write) -> None:
    assert refusal(write(lock(row(), row()))).code == "bad-lock"


def test_a_lock_without_the_platform_names_those_it_has(write: Write) -> None:
    error = refusal(write(lock(row())), "osx-64")
    assert error.code == "lock-without-platform"
    assert "linux-64" in error.message


def test_a_row_from_pypi_is_not_supported_yet(write: Write) -> None:
    assert refusal(write(lock(row(manager="pip")))).code == "pip-not-supported"


def test_credentials_are_not_in_the_error_of_a_lock(write: Write) -> None:
    path = write(lock(row(url="https://me:secret@host/linux-64/other-1-0.conda")))
    assert "secret" not in str(refusal(path))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
documents = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
keys = st.sampled_from(sorted(row()))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=keys, value=documents)
def test_any_value_in_a_row_is_read_or_is_one_clear_error(write: Write, key: str, value: Any) -> None:
    path = write(lock(row(**{key: value})))
    try:
        assert all(len(package.sha256) == 64 for package in read_lock(path, "linux-64"))
    except InstallError as error:
        assert error.message  # noqa: PT017 - a good lock is as right as this


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_as_an_environment_file_is_read_or_is_one_clear_error(write: Write, text: str) -> None:
    try:
        assert read_environment(write(text)).dependencies
    except SettingsError as error:
        assert error.message  # noqa: PT017


# --- environment files ------------------------------------------------------------------------------------------------

GOOD = "name: mine\nchannels:\n  - conda-forge\n  - nodefaults\ndependencies:\n  - python >=3.11\n  - numpy\n"


def test_an_environment_file_is_read(write: Write) -> None:
    environment = read_environment(write(GOOD))
    assert environment.name == "mine"
    assert environment.channels == ("conda-forge",)
    assert environment.dependencies == ("python >=3.11", "numpy")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "channels: [a]",
        "dependencies: []",
        "dependencies: numpy",
        "dependencies: [1]",
        "dependencies: ['']",
        "dependencies: [[numpy]]",
        "channels: conda-forge\ndependencies: [numpy]",
        "channels: [1]\ndependencies: [numpy]",
        "dependencies: [numpy",
    ],
)
def test_an_environment_file_of_another_shape_is_refused(write: Write, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_environment(write(text))
    assert caught.value.code == "bad-template"


# --- staleness --------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment_yml(tmp_path: Path) -> Path:
    path = tmp_path / "environment.yml"
    path.write_text(GOOD)
    return path


def locked_from(environment_yml: Path, channels: tuple[str, ...] = (), exclude_newer: str = "") -> dict[str, Any]:
    digest = input_digest(read_environment(environment_yml), channels, exclude_newer)
    return lock(row(), custom_metadata={INPUT_DIGEST: digest})


def test_a_lock_of_the_same_input_is_fresh(environment_yml: Path, write: Write) -> None:
    assert not is_stale(write(locked_from(environment_yml)), environment_yml, (), "linux-64")


def test_comments_and_blank_lines_do_not_make_a_lock_stale(environment_yml: Path, write: Write) -> None:
    path = write(locked_from(environment_yml))
    environment_yml.write_text("# a comment\n\n" + GOOD.replace("dependencies:", "  # why\n\ndependencies:  "))
    assert not is_stale(path, environment_yml, (), "linux-64")


def test_naming_the_files_own_channels_does_not_make_a_lock_stale(environment_yml: Path, write: Write) -> None:
    assert not is_stale(write(locked_from(environment_yml)), environment_yml, ("conda-forge",), "linux-64")


def test_a_lock_that_is_not_there_is_stale(environment_yml: Path, tmp_path: Path) -> None:
    assert is_stale(tmp_path / "none.yml", environment_yml, (), "linux-64")


def test_another_dependency_makes_a_lock_stale(environment_yml: Path, write: Write) -> None:
    path = write(locked_from(environment_yml))
    environment_yml.write_text(GOOD + "  - scipy\n")
    assert is_stale(path, environment_yml, (), "linux-64")


def test_another_channel_makes_a_lock_stale(environment_yml: Path, write: Write) -> None:
    assert is_stale(write(locked_from(environment_yml)), environment_yml, ("bioconda",), "linux-64")


def test_another_platform_makes_a_lock_stale(environment_yml: Path, write: Write) -> None:
    assert is_stale(write(locked_from(environment_yml)), environment_yml, (), "osx-arm64")


def test_another_cutoff_makes_a_lock_stale(environment_yml: Path, write: Write) -> None:
    assert is_stale(write(locked_from(environment_yml)), environment_yml, (), "linux-64", "2025-01-01")


def test_a_lock_of_another_tool_serves_if_it_has_all_names(environment_yml: Path, write: Write) -> None:
    python = row(name="python", version="3.11.7", url="https://host/linux-64/python-3.11.7-0_cpython.conda")
    assert not is_stale(write(lock(row(), python)), environment_yml, (), "linux-64")
    assert is_stale(write(lock(row())), environment_yml, (), "linux-64")


def test_a_lock_that_cannot_be_read_is_an_error_not_stale(environment_yml: Path, write: Write) -> None:
    with pytest.raises(CondaRunError):
        is_stale(write("not a lock"), environment_yml, (), "linux-64")
