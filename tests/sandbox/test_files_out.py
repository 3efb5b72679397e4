"""What a run left: found, bounded, and never a trap for the host."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import Mount
from mcp_conda_run.sandbox import files_out
from mcp_conda_run.sandbox.files_out import left_files, now_ns, read_left_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and pipes are made the way of POSIX")


@pytest.fixture(params=["by descriptors", "by names"])
def mounts(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Mount, ...]:
    if request.param == "by names":  # as on Windows, where directories cannot be opened
        monkeypatch.setattr(os, "supports_fd", frozenset())
        monkeypatch.setattr(os, "supports_dir_fd", frozenset())
    (tmp_path / "work").mkdir()
    (tmp_path / "secret").write_text("TOPSECRET")
    return (Mount(tmp_path / "work", "/working"),)


def names(mounts: tuple[Mount, ...], since_ns: int = 0) -> list[str]:
    return [file.path for file in left_files(mounts, since_ns).files]


def age(path: Path) -> None:
    """Wait until the file system's clock has moved on from the last change of a file."""
    while now_ns() <= path.stat().st_ctime_ns:
        pass


def test_a_new_file_is_listed_as_the_run_sees_it(mounts: tuple[Mount, ...]):
    since = now_ns()
    (mounts[0].source / "sub").mkdir()
    (mounts[0].source / "sub/plot.png").write_bytes(b"x" * 7)
    found = left_files(mounts, since)
    assert [(file.path, file.size_bytes) for file in found.files] == [("/working/sub/plot.png", 7)]
    assert found.complete


def test_an_older_file_is_not_listed(mounts: tuple[Mount, ...]):
    old = mounts[0].source / "old"
    old.write_text("x")
    age(old)
    assert names(mounts, now_ns()) == []


def test_a_changed_file_is_listed_even_if_its_time_is_set_back(mounts: tuple[Mount, ...]):
    file = mounts[0].source / "data.csv"
    file.write_text("x")
    age(file)
    since = now_ns()
    file.write_text("y")
    os.utime(file, (0, 0))
    assert names(mounts, since) == ["/working/data.csv"]


def test_a_read_only_mount_is_not_searched(mounts: tuple[Mount, ...]):
    (mounts[0].source / "x").touch()
    assert names((Mount(mounts[0].source, "/working", read_only=True),)) == []


def test_links_pipes_and_sockets_are_left_out(mounts: tuple[Mount, ...], tmp_path: Path):
    work = mounts[0].source
    (work / "link").symlink_to(tmp_path / "secret")
    (work / "tree").symlink_to(tmp_path)
    os.mkfifo(work / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(work / "socket"))
        assert names(mounts) == []


def test_a_mount_that_is_gone_has_no_files(mounts: tuple[Mount, ...]):
    mounts[0].source.rmdir()
    assert names(mounts) == []


def test_many_files_are_cut_short(mounts: tuple[Mount, ...]):
    for number in range(files_out.MAX_FILES + 5):
        (mounts[0].source / f"{number:04}").touch()
    found = left_files(mounts, 0)
    assert len(found.files) == files_out.MAX_FILES
    assert not found.complete


def test_a_deep_tree_ends_somewhere(mounts: tuple[Mount, ...]):
    deep = mounts[0].source.joinpath(*["d"] * (files_out.MAX_DEPTH + 2))
    deep.mkdir(parents=True)
    (deep / "file").touch()
    found = left_files(mounts, 0)
    assert (found.files, found.complete) == ((), False)


def test_a_name_that_is_no_text_does_no_harm(mounts: tuple[Mount, ...]):
    with open(os.fsencode(mounts[0].source) + b"/\xff\n", "w"):
        pass
    assert len(left_files(mounts, 0).files) == 1


def test_a_left_file_can_be_read(mounts: tuple[Mount, ...]):
    (mounts[0].source / "sub").mkdir()
    (mounts[0].source / "sub/a").write_bytes(b"hello")
    assert read_left_file(mounts, "/working/sub/a", 5) == b"hello"


def test_a_file_that_is_too_long_is_refused(mounts: tuple[Mount, ...]):
    (mounts[0].source / "a").write_bytes(b"hello!")
    with pytest.raises(RequestError, match="longer than 5 bytes"):
        read_left_file(mounts, "/working/a", 5)


def test_a_link_is_refused_at_every_step(mounts: tuple[Mount, ...], tmp_path: Path):
    (mounts[0].source / "file").symlink_to(tmp_path / "secret")
    (mounts[0].source / "directory").symlink_to(tmp_path)
    for path in ("/working/file", "/working/directory/secret"):
        with pytest.raises(RequestError, match="cannot be read"):
            read_left_file(mounts, path, 100)


def test_a_pipe_is_refused_at_once(mounts: tuple[Mount, ...]):
    os.mkfifo(mounts[0].source / "pipe")
    with pytest.raises(RequestError, match="not a regular file"):
        read_left_file(mounts, "/working/pipe", 100)


@pytest.mark.parametrize(
    "path", ["/working/../secret", "/etc/passwd", "/working", "/workingx/a", "a", "", "/working/./a"]
)
def test_a_path_outside_is_refused(mounts: tuple[Mount, ...], path: str):
    with pytest.raises(RequestError, match="not below a mounted directory"):
        read_left_file(mounts, path, 100)


def test_a_directory_is_refused(mounts: tuple[Mount, ...]):
    (mounts[0].source / "sub").mkdir()
    with pytest.raises(RequestError, match="cannot be read"):
        read_left_file(mounts, "/working/sub", 100)
