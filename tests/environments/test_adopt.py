"""Runs in copies of an environment that the user has: it works like the original, and the original stays as it is."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from mcp_conda_run.environments.adopt import Copying, adopt, relocated, short_shebang
from mcp_conda_run.environments.prefixes import state_key
from mcp_conda_run.environments.store import Store
from mcp_conda_run.errors import HostError, InstallError, RequestError
from mcp_conda_run.models import RunRequest, RunResult, Status, no_progress
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.settings import Settings

OLD, NEW = b"/home/me/envs/science", b"/cache/envs/0123456789abcdef/longer"


def snapshot(root: Path) -> dict[str, tuple[int, ...]]:
    """Return all that a change would show in: kind and modes, links, size, time and inode of every entry."""
    found = {}
    for directory, folders, names in os.walk(root):
        for name in [*folders, *names]:
            status = os.lstat(os.path.join(directory, name))
            times = (status.st_mtime_ns, status.st_ctime_ns)
            found[os.path.join(directory, name)] = (status.st_mode, status.st_nlink, status.st_size, *times)
    return found


# --- paths inside of files --------------------------------------------------------------------------------------------


def test_a_path_in_a_binary_takes_of_the_room_behind_it() -> None:
    data = b"\x01" + OLD + b"/lib\0" + b"\0" * 100 + b"\x02next"
    moved = relocated(data, OLD, NEW)
    assert len(moved) == len(data)
    assert moved.startswith(b"\x01" + NEW + b"/lib\0")
    assert moved.endswith(b"\0\x02next")


def test_all_paths_of_one_string_are_moved() -> None:
    data = OLD + b"/a:" + OLD + b"/b" + b"\0" * 100
    assert relocated(data, OLD, NEW).startswith(NEW + b"/a:" + NEW + b"/b\0")


def test_a_string_without_room_stays_as_it_is() -> None:
    data = OLD + b"/lib\0\x02next"
    assert relocated(data, OLD, NEW) == data


def test_a_shorter_path_leaves_nulls_behind() -> None:
    moved = relocated(OLD + b"/lib\0x", OLD, b"/p")
    assert moved == b"/p/lib" + b"\0" * (len(OLD) - 1) + b"x"


def test_a_first_line_that_the_kernel_would_cut_goes_through_env() -> None:
    long = b"#!/" + b"d" * 130 + b"/bin/python3.12\nimport x\n"
    assert short_shebang(long) == b"#!/usr/bin/env python3.12\nimport x\n"
    assert short_shebang(b"#!/short/bin/python\n") == b"#!/short/bin/python\n"


# --- copying ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A prefix with every kind of file."""
    prefix = tmp_path / "mine"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin/tool").write_text(f"#!{prefix}/bin/python\nprint()\n")
    (prefix / "bin/tool").chmod(0o555)
    (prefix / "bin/link").symlink_to(prefix / "bin/tool")
    (prefix / "lib.so").write_bytes(b"\x7fELF" + os.fsencode(prefix) + b"/lib" + b"\0" * 200)
    (prefix / "wheel.so").write_bytes(b"\x7fELF" + os.fsencode(prefix) + b"/lib" + b"\0" * 200)
    (prefix / "secret").write_text("x")
    (prefix / "secret").chmod(0o600)
    os.mkfifo(prefix / "pipe")
    for other in ("pkgs/big", "envs/other"):
        (prefix / other).mkdir(parents=True)
    row = {"_path": "lib.so", "prefix_placeholder": "p" * 255, "file_mode": "binary"}
    (prefix / "conda-meta/x-1-0.json").write_text(json.dumps({"name": "x", "paths_data": {"paths": [row]}}))
    return prefix


def test_what_holds_the_path_holds_the_copys(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a-much-longer-place/copy"
    copy.parent.mkdir()
    Copying(made, copy).go()
    assert (copy / "bin/tool").read_text().startswith(f"#!{copy}/bin/python")
    assert (copy / "bin/link").readlink() == copy / "bin/tool"
    assert os.fsencode(copy) + b"/lib\0" in (copy / "lib.so").read_bytes()
    assert (copy / "lib.so").stat().st_size == (made / "lib.so").stat().st_size


def test_a_binary_without_room_for_a_longer_path_stays(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a-much-longer-place"
    Copying(made, copy).go()
    assert (copy / "wheel.so").read_bytes() == (made / "wheel.so").read_bytes()


def test_a_copy_belongs_to_us_and_can_be_written(made: Path, tmp_path: Path) -> None:
    Copying(made, tmp_path / "copy").go()
    for name, mode in (("bin/tool", 0o755), ("secret", 0o600)):
        status = (tmp_path / "copy" / name).stat()
        assert status.st_mode & 0o777 == mode
        assert status.st_uid == os.geteuid()


def test_nothing_is_shared_with_the_original(made: Path, tmp_path: Path) -> None:
    before = snapshot(made)
    Copying(made, tmp_path / "copy").go()
    assert snapshot(made) == before
    assert not (tmp_path / "copy/secret").samefile(made / "secret")


def test_of_a_root_prefix_its_other_environments_and_packages_stay_behind(made: Path, tmp_path: Path) -> None:
    Copying(made, tmp_path / "copy").go()
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "bin",
        "conda-meta",
        "lib.so",
        "wheel.so",
        "secret",
    }


def test_a_path_that_does_not_fit_is_one_clear_error(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / ("d" * 200) / ("e" * 100)
    copy.parent.mkdir()
    with pytest.raises(HostError) as caught:
        Copying(made, copy).go()
    assert "too long" in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_file_that_cannot_be_read_is_named(made: Path, tmp_path: Path) -> None:
    (made / "secret").chmod(0)
    with pytest.raises(InstallError, match="secret"):
        Copying(made, tmp_path / "copy").go()


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(small_prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of the user's: python, numpy, and a module that pip put there."""
    prefix = tmp_path_factory.mktemp("user") / "envs/science"
    prefix.parent.mkdir()
    Copying(small_prefix, prefix).go()
    (site,) = prefix.glob("lib/python*/site-packages")
    (site / "tiny_by_pip.py").write_text("ANSWER = 42\n")
    (site / "tiny_by_pip-1.0.dist-info").mkdir()
    (site / "tiny_by_pip-1.0.dist-info/RECORD").write_text("tiny_by_pip.py,,\ntiny_by_pip-1.0.dist-info/RECORD,,\n")
    subprocess.run([prefix / "bin/python", "-m", "compileall", "-q", "-j", "2", site.parent], check=False)
    return prefix


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adopted")


def run(settings: Settings, *requests: RunRequest) -> Sequence[RunResult]:
    async def go() -> list[RunResult]:
        async with Runtime(settings) as runtime:
            return [await runtime.run(request) for request in requests]

    return asyncio.run(go())


def settings(cache: Path, channel: Path, **others: object) -> Settings:
    return Settings(cache_dir=cache, channels=(channel.as_uri(),), pool_mb=0, **others)  # type: ignore[arg-type]


WRITES = """
import pathlib, sys, numpy, tiny_by_pip
pathlib.Path(numpy.__file__).write_text("broken = 1")
pathlib.Path(sys.prefix, "new").write_text("1")
(tiny_by_pip.ANSWER, sys.prefix)
"""


def test_runs_have_all_of_it_and_leave_it_as_it_is(own: Path, cache: Path, small_channel: Path) -> None:
    before = snapshot(own)
    (result,) = run(settings(cache, small_channel, prefix=str(own)), RunRequest(code=WRITES))
    assert result.status is Status.SUCCESS, result.error
    assert result.value is not None
    assert result.value.json[0] == 42
    assert result.value.json[1] != str(own)
    assert result.template == "science"
    assert snapshot(own) == before


def test_an_unconfined_run_leaves_it_as_it_is_too(own: Path, cache: Path, small_channel: Path) -> None:
    before = snapshot(own)
    chosen = settings(cache, small_channel, prefix=str(own), isolation="none")
    (result,) = run(chosen, RunRequest(code="import pathlib, sys; pathlib.Path(sys.prefix, 'new').write_text('1')"))
    assert result.status is Status.SUCCESS, result.error
    assert snapshot(own) == before


def test_what_a_run_needs_beyond_it_goes_into_another_copy(own: Path, cache: Path, small_channel: Path) -> None:
    before = snapshot(own)
    code = "import six, numpy, tiny_by_pip; (six.__name__, numpy.__name__, tiny_by_pip.ANSWER)"
    (result,) = run(settings(cache, small_channel), RunRequest(code=code, prefix=str(own)))
    assert result.status is Status.SUCCESS, result.error
    assert result.value is not None
    assert result.value.json == ["six", "numpy", 42]
    assert [package.name for package in result.packages] == ["six"]
    assert snapshot(own) == before


def test_a_run_starts_from_a_template_or_an_environment(own: Path, cache: Path, small_channel: Path) -> None:
    with pytest.raises(RequestError):
        run(settings(cache, small_channel), RunRequest(code="1", prefix=str(own), template="base"))


async def test_a_change_while_it_is_copied_is_noticed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Copying.go

    def go(self: Copying) -> None:
        real(self)
        (made / "bin/another").write_text("")

    monkeypatch.setattr(Copying, "go", go)
    store = Store(tmp_path / "cache")
    store.open()
    key = state_key(made)
    with pytest.raises(InstallError, match="changed while it was copied"):
        await adopt(store, made, key, no_progress)
    assert not store.prefix(key).exists()
    store.close()


def test_a_changed_environment_is_copied_anew(own: Path, cache: Path, small_channel: Path) -> None:
    request = RunRequest(code="import tiny_new; tiny_new.ANSWER", prefix=str(own))
    (site,) = own.glob("lib/python*/site-packages")
    (site / "tiny_new.py").write_text("ANSWER = 43\n")
    try:
        (after,) = run(settings(cache, small_channel), request)
    finally:
        (site / "tiny_new.py").unlink()
    assert after.value is not None, after.error
    assert after.value.json == 43


def test_an_answer_says_which_engine_there_is_and_why(own: Path, cache: Path, small_channel: Path) -> None:
    (result,) = run(settings(cache, small_channel, engine="rattler"), RunRequest(code="1", prefix=str(own)))
    assert result.engine == "rattler (asked for by the settings)"
