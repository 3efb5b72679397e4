"""Clones of a prefix: what they share, what is their own, and what is left when they fail."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from mcp_conda_run.environments import clone as clone_module
from mcp_conda_run.environments.clone import clone_prefix, hard_link, reflink
from mcp_conda_run.errors import HostError

KEY, RUN = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A small prefix with one file of each kind."""
    prefix = tmp_path / "envs" / KEY
    for directory in ("bin", "conda-meta", "lib/python3.12/site-packages/pkg", "empty"):
        (prefix / directory).mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (prefix / "bin/tool").write_text(f"#!{prefix}/bin/python\n")
    (prefix / "bin/tool").chmod(0o755)
    (prefix / "lib/binary.so").write_bytes(b"\0" + os.fsencode(prefix) + b"\0" * 20 + b"end")
    (prefix / "lib/plain.so").write_bytes(b"\x7fELF" + bytes(100_000))
    (prefix / "lib/plain.so").chmod(0o775)
    (prefix / "lib/python3.12/site-packages/pkg/module.py").write_text("x = 1\n")
    (prefix / "lib/python3.12/site-packages/pkg/data.json").write_text("{}")
    (prefix / "lib/absolute").symlink_to(prefix / "lib/plain.so")
    (prefix / "lib/relative").symlink_to("plain.so")
    record = {"paths_data": {"paths": [{"_path": "lib/binary.so", "prefix_placeholder": "/opt/placehold"}]}}
    (prefix / "conda-meta/pkg-1.0-0.json").write_text(json.dumps(record))
    (prefix / "conda-meta/history").write_text("==> history <==\n")
    return prefix


@pytest.fixture
def clone(prefix: Path) -> Path:
    destination = prefix.parents[1] / "runs" / RUN
    clone_prefix(prefix, destination)
    return destination


def tree(prefix: Path) -> dict[str, bytes]:
    """Return the content of every file and symbolic link below `prefix`."""
    found = {}
    for path in sorted(prefix.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(prefix))] = os.fsencode(os.readlink(path))
        elif path.is_file():
            found[str(path.relative_to(prefix))] = path.read_bytes()
    return found


def shared(one: Path, other: Path) -> bool:
    return one.stat().st_ino == other.stat().st_ino


def test_a_script_names_the_clones_own_interpreter(prefix: Path, clone: Path) -> None:
    assert (clone / "bin/tool").read_text() == f"#!{clone}/bin/python\n"


def test_a_recorded_binary_holds_the_clones_path_at_the_same_length(prefix: Path, clone: Path) -> None:
    original, rewritten = (prefix / "lib/binary.so").read_bytes(), (clone / "lib/binary.so").read_bytes()
    assert rewritten == original.replace(os.fsencode(prefix), os.fsencode(clone))
    assert os.fsencode(clone) in rewritten


def test_a_binary_without_a_recorded_path_has_the_same_content(prefix: Path, clone: Path) -> None:
    assert (clone / "lib/plain.so").read_bytes() == (prefix / "lib/plain.so").read_bytes()


def test_a_shared_file_is_writable_by_nobody(prefix: Path, clone: Path) -> None:
    module = "lib/python3.12/site-packages/pkg/module.py"
    if not shared(prefix / module, clone / module):
        pytest.skip("this file system has reflinks: nothing is shared that could be written to")
    assert stat.S_IMODE((prefix / module).stat().st_mode) & 0o222 == 0


def test_a_shared_file_stays_executable(prefix: Path, clone: Path) -> None:
    assert stat.S_IMODE((clone / "lib/plain.so").stat().st_mode) & 0o555 == 0o555


@pytest.mark.parametrize("name", ["conda-meta/history", "lib/python3.12/site-packages/pkg/data.json", "bin/tool"])
def test_a_write_to_a_file_that_programs_edit_leaves_the_environment_as_it_was(
    prefix: Path, clone: Path, name: str
) -> None:
    before = tree(prefix)
    with (clone / name).open("a") as file:
        file.write("more")
    assert tree(prefix) == before


def test_links_into_the_prefix_point_into_the_clone(clone: Path) -> None:
    assert os.readlink(clone / "lib/absolute") == str(clone / "lib/plain.so")


def test_relative_links_stay_as_they_are(clone: Path) -> None:
    assert os.readlink(clone / "lib/relative") == "plain.so"


def test_empty_directories_are_cloned(clone: Path) -> None:
    assert (clone / "empty").is_dir()


def test_copies_keep_the_times_of_their_originals(prefix: Path, clone: Path) -> None:
    name = "lib/python3.12/site-packages/pkg/data.json"
    assert (clone / name).stat().st_mtime_ns == (prefix / name).stat().st_mtime_ns


def test_a_pipe_in_the_environment_does_not_block_the_clone(prefix: Path) -> None:
    os.mkfifo(prefix / "lib/pipe")
    clone_prefix(prefix, prefix.parents[1] / "runs" / RUN)
    assert not (prefix.parents[1] / "runs" / RUN / "lib/pipe").exists()


def test_a_clone_of_a_clone_is_a_working_clone(prefix: Path, clone: Path) -> None:
    second = clone.with_name("1" * 16)
    clone_prefix(clone, second)
    expected = {name: data.replace(os.fsencode(prefix), os.fsencode(second)) for name, data in tree(prefix).items()}
    assert tree(second) == expected


def test_paths_of_different_length_are_refused(prefix: Path) -> None:
    with pytest.raises(HostError, match="differ in length"):
        clone_prefix(prefix, prefix.parents[1] / "runs" / "short")


def test_a_damaged_record_is_one_clear_error(prefix: Path) -> None:
    (prefix / "conda-meta/pkg-1.0-0.json").write_text('{"paths_data": ')
    with pytest.raises(HostError, match="damaged"):
        clone_prefix(prefix, prefix.parents[1] / "runs" / RUN)


def test_an_existing_destination_is_refused_and_left_alone(prefix: Path) -> None:
    destination = prefix.parents[1] / "runs" / RUN
    destination.mkdir()
    (destination / "mine").write_text("x")
    with pytest.raises(FileExistsError):
        clone_prefix(prefix, destination)
    assert (destination / "mine").read_text() == "x"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_clone_that_fails_half_way_leaves_nothing(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    made = []

    def fails_the_second_time(path: str, target: str) -> None:
        made.append(target)
        if len(made) > 1:
            raise error
        hard_link(path, target)

    monkeypatch.setattr(clone_module, "reflink", fails_the_second_time)
    with pytest.raises(type(error)):
        clone_prefix(prefix, prefix.parents[1] / "runs" / RUN)
    assert os.listdir(prefix.parents[1] / "runs") == []


def test_a_file_system_without_reflinks_gets_hard_links(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str, target: str) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(clone_module, "reflink", refused)
    destination = prefix.parents[1] / "runs" / RUN
    assert clone_prefix(prefix, destination).reflinks is False
    assert shared(prefix / "lib/plain.so", destination / "lib/plain.so")


def test_a_refused_reflink_leaves_no_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source", Path("/dev/shm") / f"clone-{os.getpid()}"
    if not target.parent.is_dir():
        pytest.skip("needs a second file system")
    source.write_text("x")
    with pytest.raises(OSError, match="Errno"):
        reflink(str(source), str(target))
    assert not target.exists()


def test_a_clone_that_becomes_an_environment_shares_what_programs_like_to_edit(prefix: Path) -> None:
    destination = prefix.parents[1] / "runs" / RUN
    cloned = clone_prefix(prefix, destination, for_environment=True)
    data = "lib/python3.12/site-packages/pkg/data.json"
    mode = (prefix / data).stat().st_mode
    assert cloned.copied == 0
    assert shared(prefix / data, destination / data)
    assert (destination / data).stat().st_mode == mode
    assert not shared(prefix / "bin/tool", destination / "bin/tool")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.EMLINK])
def test_a_file_that_cannot_have_another_name_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:  # root may link whatever it likes, so this cannot be caused
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_text("content")
    monkeypatch.setattr(os, "link", refuse)
    hard_link(str(tmp_path / "file"), str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_text() == "content"
