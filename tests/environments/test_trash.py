"""The trash: gone at once for the caller, deleted whatever it is made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcp_conda_run.environments.trash import Trash, delete_tree


@pytest.fixture
def trash(tmp_path: Path) -> Trash:
    (tmp_path / "trash").mkdir()
    return Trash(tmp_path / "trash")


def test_a_discarded_tree_is_gone_at_once_and_deleted_soon(trash: Trash, tmp_path: Path):
    victim = tmp_path / "run"
    (victim / "lib").mkdir(parents=True)
    (victim / "lib/file").write_text("x")
    trash.discard(victim)
    assert not victim.exists()
    assert trash.wait(30)
    assert list(trash.directory.iterdir()) == []


def test_discarding_what_is_not_there_is_fine(trash: Trash, tmp_path: Path):
    trash.discard(tmp_path / "never was")
    assert trash.wait(30)


def test_what_an_earlier_process_left_is_deleted(trash: Trash):
    (trash.directory / "old").mkdir()
    trash.empty_in_background()
    assert trash.wait(30)
    assert list(trash.directory.iterdir()) == []


def test_directories_without_any_rights_are_deleted(tmp_path: Path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("x")
    (tmp_path / "a/b").chmod(0)
    (tmp_path / "a").chmod(0)
    delete_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_tree_deeper_than_the_longest_path_is_deleted(tmp_path: Path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    delete_tree(tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_link_is_deleted_and_not_followed(tmp_path: Path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    delete_tree(tmp_path / "link")
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "kept/file").exists()) == (False, True)


def test_names_that_look_like_options_or_are_no_text_are_deleted(tmp_path: Path):
    os.mkdir(os.fsencode(tmp_path) + b"/-rf \xff\n")
    (tmp_path / "x").mkdir()
    delete_tree(tmp_path)
    assert not tmp_path.exists()
