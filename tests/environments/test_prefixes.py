"""Environments that the user has: how they are found, and when they count as changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mcp_conda_run.environments.prefixes import (
    as_template_name,
    find_prefix,
    known_prefixes,
    packages_of,
    prefix_template,
    state_key,
)
from mcp_conda_run.environments.templates import Kind, find_template
from mcp_conda_run.errors import InstallError, RequestError
from mcp_conda_run.settings import load_settings


def make_prefix(path: Path, *records: dict[str, object]) -> Path:
    meta = path / "conda-meta"
    meta.mkdir(parents=True)
    (meta / "history").write_text("")
    for record in records:
        (meta / f"{record['name']}-{record['version']}-0.json").write_text(json.dumps(record))
    site = path / "lib/python3.12/site-packages"
    (site / "numpy").mkdir(parents=True)
    (site / "numpy/__init__.py").write_text("")
    return path


SIX = {"name": "six", "version": "1.0", "build": "0", "url": "https://host/t/s3cret/conda-forge/noarch/six-1.0-0.conda"}


def find(text: str, home: Path, **variables: str) -> Path:
    return find_prefix(text, variables, home)


# --- where they are ---------------------------------------------------------------------------------------------------


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "own")
    assert find(str(prefix), tmp_path) == prefix


@pytest.mark.parametrize("variable", ["CONDA_ENVS_PATH", "CONDA_ENVS_DIRS"])
def test_a_name_is_looked_for_where_conda_is_told_to(tmp_path: Path, variable: str) -> None:
    prefix = make_prefix(tmp_path / "two/science")
    places = os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")])
    assert find("science", tmp_path, **{variable: places}) == prefix


@pytest.mark.parametrize("root", ["miniforge3", "micromamba", ".local/share/mamba"])
def test_a_name_is_looked_for_in_the_usual_root_prefixes(tmp_path: Path, root: str) -> None:
    prefix = make_prefix(tmp_path / root / "envs/science")
    assert find("science", tmp_path) == prefix


def test_a_name_is_looked_for_in_the_root_prefix_of_the_environment(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "elsewhere/envs/science")
    assert find("science", tmp_path, MAMBA_ROOT_PREFIX=str(tmp_path / "elsewhere")) == prefix
    assert find("science", tmp_path, CONDA_EXE=str(tmp_path / "elsewhere/bin/conda")) == prefix


def test_a_name_is_looked_for_in_condas_own_list(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "somewhere/science")
    (tmp_path / ".conda").mkdir()
    (tmp_path / ".conda/environments.txt").write_text(f"/gone/science\n\n{prefix}\nrelative/science\n")
    assert find("science", tmp_path) == prefix


def test_base_is_a_root_prefix(tmp_path: Path) -> None:
    root = make_prefix(tmp_path / "miniforge3")
    assert find("base", tmp_path) == root


def test_an_unknown_name_is_answered_with_those_there_are(tmp_path: Path) -> None:
    make_prefix(tmp_path / "miniforge3/envs/geo")
    with pytest.raises(RequestError) as caught:
        find("science", tmp_path)
    assert caught.value.code == "no-prefix"
    assert "geo" in caught.value.hint


@pytest.mark.parametrize("text", ["/does/not/exist", "./here", "~/none", "a\0b", "../..", ""])
def test_what_is_no_environment_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError):
        find(text, tmp_path)


def test_an_environment_is_listed_once(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "miniforge3/envs/science")
    variables = {"MAMBA_ROOT_PREFIX": str(tmp_path / "miniforge3"), "CONDA_ENVS_PATH": str(prefix.parent)}
    assert known_prefixes(variables, tmp_path) == [prefix]


def test_it_serves_as_a_template(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "my env (old)")
    template = find_template(as_template_name(str(prefix)))
    assert (template.kind, template.path, template.name) == (Kind.PREFIX, prefix, "my-env-old")


def test_the_setting_makes_it_the_template(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "own")
    assert load_settings(prefix=str(prefix)).template == f"prefix:{prefix}"


def test_a_setting_that_names_none_is_refused() -> None:
    with pytest.raises(RequestError):
        load_settings(prefix="no-such-environment")


# --- what is in them --------------------------------------------------------------------------------------------------


def test_its_packages_are_read_without_credentials(tmp_path: Path) -> None:
    (package,) = packages_of(make_prefix(tmp_path / "own", SIX))
    assert (package.name, package.version, package.channel) == ("six", "1.0", "conda-forge")
    assert "s3cret" not in package.url


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"name": "x"}', "null", '{"name": "x", "version": "1", "size": {"a": 1}}']
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    prefix = make_prefix(tmp_path / "own")
    (prefix / "conda-meta/x-1-0.json").write_text(text)
    with pytest.raises(InstallError, match=r"x-1-0\.json"):
        packages_of(prefix)


# --- their state ------------------------------------------------------------------------------------------------------


def test_an_environment_that_nobody_changed_is_the_same(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "own", SIX)
    assert state_key(prefix) == state_key(prefix)
    assert len(state_key(prefix)) == 16


def test_using_an_environment_does_not_change_it(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "own", SIX)
    before = state_key(prefix)
    cache = prefix / "lib/python3.12/site-packages/numpy/__pycache__"
    cache.mkdir()
    (cache / "__init__.cpython-312.pyc").write_text("")
    (cache.parent.parent / "__pycache__").mkdir()
    assert state_key(prefix) == before


def test_a_package_of_conda_changes_it(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "own", SIX)
    before = state_key(prefix)
    (prefix / "conda-meta/more-1-0.json").write_text(json.dumps({**SIX, "name": "more"}))
    assert state_key(prefix) != before


def test_a_package_of_pip_changes_it(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "own", SIX)
    before = state_key(prefix)
    (prefix / "lib/python3.12/site-packages/tiny-1.0.dist-info").mkdir()
    assert state_key(prefix) != before


def test_a_new_module_in_a_package_changes_it(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "own", SIX)
    before = state_key(prefix)
    (prefix / "lib/python3.12/site-packages/numpy/extra.py").write_text("")
    assert state_key(prefix) != before


def test_two_environments_of_the_same_content_are_two(tmp_path: Path) -> None:
    assert state_key(make_prefix(tmp_path / "one", SIX)) != state_key(make_prefix(tmp_path / "two", SIX))


def test_the_template_of_a_place_that_went_away_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        prefix_template(tmp_path / "gone", ())
