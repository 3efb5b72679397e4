"""The guest's modules in the store: copied once by content, compiled once a Python."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from mcp_conda_run.environments.guest_files import GuestFiles, cache_tag, copy_guest
from mcp_conda_run.models import Environment


@pytest.fixture
def environment() -> Environment:
    """An environment that is the tests' own Python."""
    prefix = Path(sys.base_prefix)
    python = "{}.{}".format(*sys.version_info[:2])
    return Environment(
        key="0" * 16,
        prefix=prefix,
        python_version=f"{python}.0",
        python=f"bin/python{python}",
        modules={},
        stdlib=frozenset(),
        packages=(),
        variables={},
    )


def test_a_copy_has_bytecode_of_the_environments_python(tmp_path: Path, environment: Environment):
    directory = asyncio.run(GuestFiles(tmp_path).directory(environment))
    assert (directory / f"__pycache__/execute.{sys.implementation.cache_tag}.pyc").exists()


def test_a_second_look_changes_nothing(tmp_path: Path, environment: Environment):
    directory = asyncio.run(GuestFiles(tmp_path).directory(environment))
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert asyncio.run(GuestFiles(tmp_path).directory(environment)) == directory
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_copy_that_was_deleted_meanwhile_is_made_again(tmp_path: Path, environment: Environment):
    files = GuestFiles(tmp_path)
    directory = asyncio.run(files.directory(environment))
    os.rename(directory, tmp_path / "elsewhere")
    assert (asyncio.run(files.directory(environment)) / "__pycache__").is_dir()


def test_two_processes_may_copy_at_the_same_time(tmp_path: Path):
    first, second = copy_guest(tmp_path), copy_guest(tmp_path)
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_the_tag_is_that_of_the_interpreter():
    assert cache_tag(sys.version.split()[0]) == sys.implementation.cache_tag
