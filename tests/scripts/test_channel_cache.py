"""Channels are built once, appear whole, and are found by what goes into them."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import channels
from tests.support.channels import Wanted, channel

NONE = Wanted("none")


@pytest.fixture
def cache(small_channel: Path, tmp_path: Path) -> Path:
    """An empty cache; channels can be built on this machine."""
    return tmp_path / "cache"


def test_two_that_want_one_channel_at_once_build_it_once(cache: Path):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: (place := channel(NONE, cache), place.stat().st_ino), range(2))
    assert first == second


def test_a_channel_that_is_there_is_not_built_again(cache: Path):
    inode = channel(NONE, cache).stat().st_ino
    assert channel(NONE, cache).stat().st_ino == inode


def test_what_an_aborted_build_left_is_removed(cache: Path):
    (cache / ".building-x/channel/noarch").mkdir(parents=True)
    place = channel(NONE, cache)
    assert {path.name for path in cache.iterdir()} == {place.name, "lock"}


def test_channels_that_no_run_has_used_for_long_are_removed(cache: Path):
    old = cache / "small-0123456789abcdef"
    old.mkdir(parents=True)
    os.utime(old, (0, time.time() - 2 * channels.UNUSED_AFTER_S))
    channel(NONE, cache)
    assert not old.exists()


def test_another_set_is_another_channel():
    assert Wanted("small").key() != Wanted("scientific").key()


def test_another_python_is_another_channel():
    assert Wanted("small").key() != Wanted("small", "/opt/python").key()


def test_another_builder_is_another_channel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "local_channel").mkdir()
    (tmp_path / "build_local_channel.py").write_text("other")
    key = NONE.key()
    monkeypatch.setattr(channels, "SCRIPTS", tmp_path)
    assert NONE.key() != key
