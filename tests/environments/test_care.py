"""Store care: what goes when the store is too large or too old, and that what is in use never goes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_conda_run.environments import uses
from mcp_conda_run.environments.care import after_build, listing, remove_excess, remove_older
from mcp_conda_run.environments.store import Store, environment_key
from mcp_conda_run.models import Environment, LockedPackage
from mcp_conda_run.settings import load_settings

DAY = 86400.0
SIZE = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "cache")
    store.open()
    yield store
    assert store.trash.wait(30)
    store.close()


def package(name: str) -> LockedPackage:
    return LockedPackage(name=name, version="1", url=f"file:///c/{name}.conda", sha256=name.ljust(64, "0"))


def add(store: Store, name: str, days_ago: float = 0) -> str:
    """Put an environment of one package into the store, as an engine would: hard links to the package cache."""
    cached = store.packages / f"{name}-1-0"
    (cached / "info").mkdir(parents=True)
    (cached / "data").write_bytes(os.urandom(SIZE))
    then = time.time() - days_ago * DAY
    os.utime(cached, (then, then))
    key = environment_key([package(name)])
    prefix = store.prefix(key)
    prefix.mkdir()
    (prefix / "data").hardlink_to(cached / "data")
    (prefix / "own").write_bytes(os.urandom(SIZE))
    made = Environment(
        key=key,
        prefix=prefix,
        python_version="3.12.1",
        python="bin/python",
        modules={},
        stdlib=frozenset(),
        packages=(package(name),),
        variables={},
    )
    store.publish(made)
    (store.stamps / key).touch()
    os.utime(store.stamps / key, (then, then))
    return key


def names(store: Store) -> set[str]:
    return {item.environment.packages[0].name for item in listing(store)}


def cached(store: Store) -> set[str]:
    return {path.name.partition("-")[0] for path in store.packages.iterdir() if path.is_dir()}


def test_what_was_not_wanted_for_longest_goes_first(store: Store):
    for name, days in (("new", 0), ("oldest", 9), ("old", 5)):
        add(store, name, days)
    remove_excess(store, 5 * SIZE)
    assert names(store) == {"new", "old"}


def test_with_an_environment_go_its_packages(store: Store):
    add(store, "new")
    add(store, "old", 5)
    remove_excess(store, 3 * SIZE)
    assert cached(store) == {"new"}


def test_packages_that_no_environment_has_go_before_any_environment(store: Store):
    add(store, "old", 5)
    (store.packages / "loose-1-0/info").mkdir(parents=True)
    (store.packages / "loose-1-0" / "data").write_bytes(os.urandom(2 * SIZE))
    remove_excess(store, 3 * SIZE)
    assert (names(store), cached(store)) == ({"old"}, {"old"})


def test_packages_of_micromambas_cache_go_with_their_archives(store: Store):
    cache = store.packages / "micromamba/pkgs"
    (cache / "loose-1-0/info").mkdir(parents=True)
    (cache / "loose-1-0.conda").write_bytes(os.urandom(SIZE))
    (cache / "urls.txt").touch()
    remove_excess(store, 1)
    assert [path.name for path in cache.iterdir()] == ["urls.txt"]


def test_a_store_within_its_limit_stays_as_it_is(store: Store):
    add(store, "old", 500)
    assert remove_excess(store, 10 * SIZE) == []
    assert names(store) == {"old"}


def test_what_is_in_use_stays_whatever_the_limit(store: Store):
    key = add(store, "used", 50)
    with store.uses.hold(key):
        lines = remove_excess(store, 1)
    assert names(store) == {"used"}
    assert "in use" in lines[-1]


def test_what_another_living_process_uses_stays(store: Store):
    key = add(store, "used", 50)
    script = (
        "import sys; from pathlib import Path; from mcp_conda_run.environments.store import Store\n"
        "store = Store(Path(sys.argv[1])); store.open(); store.claim(sys.argv[2]); print('ready', flush=True); input()"
    )
    command = [sys.executable, "-c", script, str(store.root), key]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"ready\n"
    try:
        remove_excess(store, 1)
        assert names(store) == {"used"}
    finally:
        other.kill()
        other.communicate()
    remove_excess(store, 1)
    assert names(store) == set()


def test_an_environment_that_was_wanted_while_it_was_being_removed_stays(store: Store, monkeypatch: pytest.MonkeyPatch):
    key = add(store, "wanted", 50)
    other = Store(store.root)
    other.open()
    rename = Path.rename

    def claimed_meanwhile(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if path == store.description(key):
            assert other.claim(key) is None  # it will be made again, or found again, under the lock
        return moved

    monkeypatch.setattr(Path, "rename", claimed_meanwhile)
    assert not store.forget_unused(key)
    monkeypatch.undo()
    assert store.load(key) is not None
    other.close()


async def test_no_package_goes_while_somebody_installs(store: Store):
    (store.packages / "loose-1-0/info").mkdir(parents=True)
    (store.packages / "loose-1-0" / "data").write_bytes(os.urandom(SIZE))
    other = Store(store.root)
    other.open()
    async with other.building("0" * 16):
        remove_excess(store, 1)
        assert cached(store) == {"loose"}
    remove_excess(store, 1)
    assert cached(store) == set()
    other.close()


def test_marks_of_environments_that_a_process_no_longer_uses_are_taken_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    key = add(store, "used", 50)
    store.claim(key)
    assert store.is_used(key)
    monkeypatch.setattr(uses, "IDLE_S", 0)
    store.uses.give_up_idle()
    assert not store.is_used(key)


def test_only_what_is_older_is_removed_by_age(store: Store):
    add(store, "new", 3)
    add(store, "old", 40)
    store.remember_solution("q", [package("old")])
    os.utime(store.solutions / "q.json", (0, 0))
    remove_older(store, 30 * DAY)
    assert (names(store), cached(store), list(store.solutions.iterdir())) == ({"new"}, {"new"}, [])


def test_using_an_environment_makes_it_new(store: Store):
    key = add(store, "old", 40)
    assert store.claim(key) is not None
    assert time.time() - listing(store)[0].last_wanted < DAY


def test_the_listing_tells_own_bytes_from_shared_ones(store: Store):
    add(store, "any")
    (item,) = listing(store)
    assert (item.size_bytes, item.own_bytes) == (2 * SIZE, SIZE)


def test_a_process_that_built_too_much_has_the_store_cleaned(store: Store):
    old = add(store, "old", 50)
    add(store, "new")
    settings = load_settings(cache_dir=store.root, cache_limit_mb=3)
    assert after_build(store, settings, [package("new")])
    deadline = time.monotonic() + 60
    while store.description(old).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert names(store) == {"new"}


def test_a_small_first_build_cleans_nothing(store: Store):
    add(store, "only")
    assert not after_build(store, load_settings(cache_dir=store.root), [package("only")])


def test_without_a_limit_nothing_is_cleaned(store: Store):
    add(store, "old", 50)
    assert not after_build(store, load_settings(cache_dir=store.root, cache_limit_mb=0), [package("old")])
