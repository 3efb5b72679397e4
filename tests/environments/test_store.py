"""The store: keys, READY, one builder a key, owners, sweep."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_conda_run.environments.store import Store, environment_key, write_atomically
from mcp_conda_run.errors import HostError
from mcp_conda_run.models import Environment, LockedPackage

NUMPY = LockedPackage(name="numpy", version="2.0", url="file:///c/linux-64/numpy-2.0-0.conda", sha256="ab" * 32)
PYTHON = LockedPackage(
    name="python", version="3.12.1", url="file:///c/linux-64/python-3.12.1-0.conda", sha256="cd" * 32
)


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / "cache")
    store.open()
    yield store
    assert store.trash.wait(30)
    store.close()


def environment(store: Store, *packages: LockedPackage) -> Environment:
    key = environment_key(packages)
    store.prefix(key).mkdir()
    return Environment(
        key=key,
        prefix=store.prefix(key),
        python_version="3.12.1",
        python="bin/python3.12",
        modules={"numpy": "numpy"},
        stdlib=frozenset({"os", "sys"}),
        packages=packages,
        variables={"CONDA_PREFIX": str(store.prefix(key))},
    )


def test_the_key_does_not_depend_on_the_order_of_packages():
    assert environment_key([NUMPY, PYTHON]) == environment_key([PYTHON, NUMPY])


def test_the_key_depends_on_what_is_in_an_archive():
    other = LockedPackage(name="numpy", version="2.0", url=NUMPY.url, sha256="ef" * 32)
    assert environment_key([NUMPY]) != environment_key([other])


def test_the_paths_of_environments_and_runs_are_equally_long(store: Store):
    assert len(str(store.prefix(environment_key([NUMPY])))) == len(str(store.runs / store.new_run_id()))


def test_an_environment_that_is_not_published_does_not_exist(store: Store):
    made = environment(store, NUMPY)
    assert store.load(made.key) is None


def test_a_published_environment_is_read_back_whole(store: Store):
    made = environment(store, NUMPY, PYTHON)
    store.publish(made)
    assert store.load(made.key) == made


def test_a_damaged_description_counts_as_absent(store: Store):
    made = environment(store, NUMPY)
    store.publish(made)
    store.description(made.key).write_text('{"format": 1, "packages": [{"nonsense": true}]}')
    assert store.load(made.key) is None


def test_a_description_without_its_prefix_counts_as_absent(store: Store):
    made = environment(store, NUMPY)
    store.publish(made)
    made.prefix.rmdir()
    assert store.load(made.key) is None


def test_opening_sweeps_a_half_made_environment(store: Store):
    made = environment(store, NUMPY)
    second = Store(store.root)
    second.open()
    assert not made.prefix.exists()
    second.close()


def test_opening_leaves_an_environment_that_is_being_made(store: Store):
    async def build() -> None:
        async with store.building(environment_key([NUMPY])):
            made = environment(store, NUMPY)
            second = Store(store.root)
            second.open()
            assert made.prefix.exists()
            second.close()
        made.prefix.rmdir()

    asyncio.run(build())


def test_opening_sweeps_the_runs_of_a_dead_process_and_not_those_of_a_living_one(store: Store):
    script = (
        "import sys, os; from pathlib import Path; from mcp_conda_run.environments.store import Store\n"
        "store = Store(Path(sys.argv[1])); store.open(); run = store.runs / store.new_run_id(); run.mkdir(); "
        "print(run, flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, store.root], stdout=subprocess.PIPE, text=True, check=False)
    dead = Path(done.stdout.strip())
    alive = store.runs / store.new_run_id()
    alive.mkdir()
    assert dead.is_dir()
    second = Store(store.root)
    second.open()
    assert (dead.exists(), alive.exists()) == (False, True)
    second.close()


async def test_a_second_builder_of_a_key_waits_for_the_first(store: Store):
    order: list[str] = []
    entered = asyncio.Event()

    async def first() -> None:
        async with store.building("0" * 16):
            entered.set()
            await asyncio.to_thread(order.append, "first")

    async def second() -> None:
        await entered.wait()
        async with Store(store.root).building("0" * 16):
            order.append("second")

    await asyncio.gather(first(), second())
    assert order == ["first", "second"]


def test_a_remembered_solution_is_used_until_it_is_too_old(store: Store):
    store.remember_solution("q", [NUMPY, PYTHON])
    assert store.solution("q", max_age_s=60) == (NUMPY, PYTHON)
    assert store.solution("q", max_age_s=0) is None


def test_usage_counts_a_file_with_two_links_once(store: Store):
    (store.packages / "file").write_bytes(b"x" * 10_000)
    (store.envs / "second").hardlink_to(store.packages / "file")
    usage = store.usage()
    assert (usage["pkgs"].files, usage["envs"].files) == (1, 0)


def test_a_cache_that_cannot_be_made_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(HostError, match="The cache directory cannot be used"):
        Store(tmp_path / "file" / "cache").open()


def test_a_failed_write_leaves_the_old_content(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half a pair: \ud800")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])
