"""From a request to source text: everything that cannot be run is refused with one clear error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import Mount, RunRequest
from mcp_conda_run.source import Source, read_source

LIMIT = 1_000_000


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    directory = tmp_path / "work"
    directory.mkdir()
    return Mount(directory, "/working")


def read(mount: Mount, **request: str | Path) -> Source:
    return read_source(RunRequest(**request), [mount], LIMIT)


def test_code_is_taken_as_it_is(mount: Mount):
    assert read(mount, code="print(1)\n").code == "print(1)\n"


@pytest.mark.parametrize("name", ["/working/a.py", "a.py", "/working/sub/../a.py", "/working//a.py"])
def test_a_file_is_found_by_the_names_that_a_user_gives_it(mount: Mount, name: str):
    (mount.source / "sub").mkdir()
    (mount.source / "a.py").write_text("print(1)")
    assert read(mount, file=name) == Source("print(1)", mount, "a.py")


def test_a_file_is_found_by_its_path_on_the_host(mount: Mount):
    (mount.source / "a.py").write_text("print(1)")
    assert read(mount, file=mount.source / "a.py").relative == "a.py"


def test_a_declared_encoding_is_respected(mount: Mount):
    (mount.source / "a.py").write_bytes("# coding: latin-1\nx = 'é'\n".encode("latin-1"))
    assert "é" in read(mount, file="/working/a.py").code


def test_modules_beside_the_file_and_in_the_mount_are_local(mount: Mount):
    (mount.source / "sub").mkdir()
    (mount.source / "sub/a.py").write_text("import b")
    source = read(mount, file="/working/sub/a.py")
    assert source.local_roots([mount]) == (mount.source / "sub", mount.source)


@pytest.mark.parametrize(
    ("code", "why"),
    [("", "empty"), (" \n\t", "empty"), ("a\0b", "NUL"), ("x = '\ud800'", "surrogate"), ("#" * (LIMIT + 1), "at most")],
)
def test_code_that_cannot_be_run_is_refused(mount: Mount, code: str, why: str):
    with pytest.raises(RequestError, match=why):
        read(mount, code=code)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/working/none.py", "There is no file"),
        ("/working", "is a directory"),
        ("/working/sub", "is a directory"),
        ("/working/../../etc/hostname", "outside the mounted"),
        ("/etc/hostname", "outside the mounted"),
        ("../x.py", "outside the mounted"),
        ("/workingx/a.py", "outside the mounted"),
        ("a\0b", "NUL"),
        ("", "empty"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused(mount: Mount, name: str, why: str):
    (mount.source / "sub").mkdir()
    with pytest.raises(RequestError, match=why):
        read(mount, file=name)


def test_a_link_that_leads_out_of_the_mount_is_refused(mount: Mount, tmp_path: Path):
    (tmp_path / "secret.py").write_text("SECRET = 1")
    (mount.source / "a.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(RequestError, match="leads out"):
        read(mount, file="/working/a.py")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no FIFOs")
def test_a_fifo_is_refused_at_once(mount: Mount):
    os.mkfifo(mount.source / "a.py")
    with pytest.raises(RequestError, match="not a regular file"):
        read(mount, file="/working/a.py")


def test_a_file_that_is_no_text_is_refused(mount: Mount):
    (mount.source / "a.py").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(RequestError, match="not text that Python can read"):
        read(mount, file="/working/a.py")


def test_a_file_that_is_too_long_is_refused(mount: Mount):
    (mount.source / "a.py").write_text("#" * (LIMIT + 1))
    with pytest.raises(RequestError, match="longer than"):
        read(mount, file="/working/a.py")


@pytest.mark.parametrize("request_", [RunRequest(), RunRequest(code="1", file="a.py")])
def test_neither_or_both_of_code_and_file_are_refused(mount: Mount, request_: RunRequest):
    with pytest.raises(RequestError, match="Exactly one"):
        read_source(request_, [mount], LIMIT)


def test_a_directory_that_becomes_a_link_meanwhile_is_not_followed(mount: Mount, monkeypatch: pytest.MonkeyPatch):
    """As a run that goes on beside could make it, between the look at the path and the opening."""
    (mount.source / "sub").mkdir()
    (mount.source / "sub/a.py").write_text("print(1)")
    (mount.source.parent / "secret").mkdir()
    (mount.source.parent / "secret/a.py").write_text("SECRET = 1")
    real = os.path.realpath

    def look_and_swap(path: str | Path) -> str:
        found = real(path)
        if found.endswith("a.py"):
            (mount.source / "sub").rename(mount.source / "aside")
            (mount.source / "sub").symlink_to(mount.source.parent / "secret")
        return found

    monkeypatch.setattr(os.path, "realpath", look_and_swap)
    with pytest.raises(RequestError):
        read(mount, file="/working/sub/a.py")
