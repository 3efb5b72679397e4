"""The facts themselves: their shape, and that they do not contradict each other."""

from __future__ import annotations

import re

from mcp_conda_run.planning.failures import load_patterns
from mcp_conda_run.planning.resolver import Resolver
from mcp_conda_run.planning.tables import load_tables, read

CONDA_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
PROJECT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def test_every_row_names_a_package_or_says_why_there_is_none():
    for key, entry in load_tables().imports.items():
        assert MODULE.fullmatch(key), key
        assert entry.conda or entry.pypi or entry.why_not, key
        assert all(CONDA_NAME.fullmatch(name) for name in (*entry.conda, *entry.companions)), key
        assert re.fullmatch(r"[a-z0-9-]*", entry.channel), key


def test_projects_of_pypi_have_names_that_pypi_would_take():
    for key, entry in load_tables().imports.items():
        assert not entry.pypi or PROJECT.fullmatch(entry.pypi), key


def test_names_of_the_same_are_in_order():
    for field, names in read("overrides.toml")["same"].items():
        assert names == sorted(names, key=str.lower), field


def test_no_name_is_listed_twice_or_beside_a_row():
    lists = read("overrides.toml")["same"]
    names = [name for field in lists.values() for name in field]
    assert len(names) == len(set(names))
    assert not set(names) & load_tables().imports.keys()


def test_names_of_the_same_are_imports():
    for field in read("overrides.toml")["same"].values():
        assert all(MODULE.fullmatch(name) for name in field)


def test_a_root_under_which_packages_share_names_does_not_swallow_them():
    tables = load_tables()
    for namespace in tables.namespaces:
        found = Resolver(tables).proposals(f"{namespace}.nosuchpart")
        assert found[0].decision == "namespace", namespace


def test_every_pattern_of_a_failure_ends_quickly_on_hostile_text():
    hostile = ["requires " * 3000, "a" * 20_000, "install " * 2500, "'" * 20_000, "conda install " * 1400, " : " * 6000]
    patterns = load_patterns()
    for pattern in (*(message.pattern for message in patterns.messages), *patterns.programs):
        for text in hostile:
            pattern.search(text)


def test_executables_name_conda_packages():
    assert all(CONDA_NAME.fullmatch(name) for name in load_patterns().executables.values())
