"""Digests of what a run could read: true ones, of plain files only, and bounded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mcp_conda_run.models import Mount
from mcp_conda_run.records import inputs
from mcp_conda_run.records.inputs import InputDigests

LATER = 2**62
"""A time that all files are older than."""


def digests(directory: Path, before_ns: int = LATER, mentioned: str = "") -> dict[str, str]:
    """Return the digests of a directory that a run saw as /working."""
    found = InputDigests().of([Mount(directory, "/working")], before_ns, mentioned)
    return {file.path: file.sha256 for file in found.files}


def test_a_file_is_told_by_its_path_and_digest(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/data.csv").write_text("1,2")
    assert digests(tmp_path) == {"/working/sub/data.csv": hashlib.sha256(b"1,2").hexdigest()}


def test_a_file_that_the_run_changed_is_no_input(tmp_path: Path):
    (tmp_path / "data.csv").write_text("1,2")
    began_ns = (tmp_path / "data.csv").stat().st_ctime_ns
    assert digests(tmp_path, began_ns) == {}


def test_links_are_not_followed(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "file").symlink_to(secret)
    (mounted / "directory").symlink_to(tmp_path)
    assert digests(mounted) == {}


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert digests(tmp_path) == {}


def test_too_many_files_are_not_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inputs, "MAX_FILES", 2)
    for number in range(4):
        (tmp_path / f"{number}.csv").write_text("")
    found = InputDigests().of([Mount(tmp_path, "/working")], LATER, "")
    assert (len(found.files), found.complete) == (2, False)


def test_of_too_many_files_those_that_the_code_names_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inputs, "MAX_FILES", 1)
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_text(name)
    assert list(digests(tmp_path, mentioned="open('b.csv')")) == ["/working/b.csv"]


def test_no_more_than_so_many_bytes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inputs, "MAX_BYTES", 10)
    (tmp_path / "big.bin").write_bytes(b"x" * 100)
    found = InputDigests().of([Mount(tmp_path, "/working")], LATER, "")
    assert (found.files, found.complete) == ((), False)


def test_a_deep_tree_has_an_end(tmp_path: Path):
    deep = tmp_path.joinpath(*["d"] * (inputs.MAX_DEPTH + 2))
    deep.mkdir(parents=True)
    (deep / "file").write_text("")
    found = InputDigests().of([Mount(tmp_path, "/working")], LATER, "")
    assert (found.files, found.complete) == ((), False)


def test_a_file_that_has_not_changed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data.csv").write_text("1")
    known = InputDigests()
    first = known.of([Mount(tmp_path, "/working")], LATER, "")
    monkeypatch.setattr(inputs, "_read_digest", lambda *_: "")
    assert known.of([Mount(tmp_path, "/working")], LATER, "") == first
