"""Integrity: every way in which a file of an environment can differ from what was installed is found and mended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run import RunRequest, Runtime
from mcp_conda_run.doctor import verify_store
from mcp_conda_run.environments.store import Store
from mcp_conda_run.environments.verify import Verified, repair, verify
from mcp_conda_run.models import Environment
from mcp_conda_run.settings import Settings

from ..support import warm


@pytest.fixture(scope="module")
def settings(small_channel: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A cache of its own: what is damaged here is shared by hard links."""
    settings = warm.small_settings(tmp_path_factory.mktemp("verify"), small_channel)
    warm.warm(settings)
    return settings


@pytest.fixture
def environment(settings: Settings) -> Environment:
    (environment,) = Store(settings.cache_dir).environments()
    return environment


def numpy_file(environment: Environment) -> Path:
    return next(environment.prefix.glob("lib/python3*/site-packages/numpy/version.py"))


def damage_in_place(path: Path) -> None:
    path.chmod(0o644)
    with path.open("a") as file:
        file.write("\n# damaged\n")


def remove(path: Path) -> None:
    path.unlink()


def other_kind(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_an_untouched_environment_is_whole(environment: Environment):
    verified = verify(environment)
    assert verified.files > 1000
    assert verified.damages == ()


@pytest.mark.parametrize(
    ("spoil", "what"), [(damage_in_place, "was changed"), (remove, "is missing"), (other_kind, "cannot be read")]
)
def test_a_damaged_file_is_named(environment: Environment, tmp_path: Path, spoil: Callable[[Path], None], what: str):
    subprocess.run(["cp", "-a", environment.prefix, tmp_path / "copy"], check=True)
    copy = Environment(**{**{f: getattr(environment, f) for f in environment.__slots__}, "prefix": tmp_path / "copy"})
    path = numpy_file(copy)
    spoil(path)
    (damage,) = verify(copy).damages
    assert (damage.package, damage.path, damage.what) == ("numpy", str(path.relative_to(copy.prefix)), what)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', '{"name": "x", "paths_data": {"paths": [{}]}}'])
def test_a_record_that_cannot_be_read_is_damage(environment: Environment, tmp_path: Path, text: str):
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta" / "x.json").write_text(text)
    empty = Environment(**{**{f: getattr(environment, f) for f in environment.__slots__}, "prefix": tmp_path})
    assert [damage.path for damage in verify(empty).damages] == ["conda-meta"]


def test_an_environment_in_use_is_not_repaired(settings: Settings, environment: Environment):
    store = Store(settings.cache_dir)
    store.open()
    with store.uses.hold(environment.key):
        assert not repair(store, Verified(environment, 1, ()))
    store.close()
    assert environment.prefix.is_dir()


async def test_a_repaired_environment_is_made_again_whole(settings: Settings, environment: Environment):
    damage_in_place(numpy_file(environment))  # by the hard link, the package cache is damaged too
    assert any(finding.is_problem for finding in verify_store(settings, mend=False))
    (finding,) = verify_store(settings, mend=True)
    assert not finding.is_problem
    async with Runtime(settings) as runtime:
        result = await runtime.run(RunRequest(code="import numpy; int(numpy.arange(4).sum())"))
    assert result.value is not None
    assert result.value.json == 6
    assert not any(finding.is_problem for finding in verify_store(settings, mend=False))


def test_the_command_tells_by_its_exit_code(settings: Settings):
    environment = {**os.environ, "MCP_CONDA_RUN_CACHE_DIR": str(settings.cache_dir)}
    command = [sys.executable, "-m", "mcp_conda_run", "doctor", "--verify", "--json"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert "as they were installed" in json.loads(done.stdout)[0]["text"]
