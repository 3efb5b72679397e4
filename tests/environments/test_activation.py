"""What activation sets, by data and by script."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcp_conda_run.environments.activation import activation_variables

windows = pytest.mark.skipif(os.name != "nt", reason="batch files are run by cmd.exe")
posix = pytest.mark.skipif(os.name != "posix", reason="activation scripts are sourced by a POSIX shell")


def write(prefix: Path, name: str, text: str) -> None:
    path = prefix / "etc/conda" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_prefix_itself_is_set(tmp_path: Path):
    assert activation_variables(tmp_path)["CONDA_PREFIX"] == str(tmp_path)


def test_declared_variables_are_taken(tmp_path: Path):
    write(tmp_path, "env_vars.d/a.json", '{"PROJ_DATA": "share/proj"}')
    assert activation_variables(tmp_path)["PROJ_DATA"] == "share/proj"


def test_a_damaged_declaration_is_passed_over(tmp_path: Path):
    write(tmp_path, "env_vars.d/a.json", "{")
    write(tmp_path, "env_vars.d/b.json", '{"B": 1}')
    assert activation_variables(tmp_path)["B"] == "1"


@posix
def test_scripts_see_the_prefix_and_what_they_set_is_taken(tmp_path: Path):
    write(tmp_path, "activate.d/a.sh", 'export GDAL_DATA="$CONDA_PREFIX/share/gdal"\necho noise\n')
    assert activation_variables(tmp_path)["GDAL_DATA"] == f"{tmp_path}/share/gdal"


@posix
def test_a_script_that_fails_does_not_stop_the_others(tmp_path: Path):
    write(tmp_path, "activate.d/a.sh", "false\n")
    write(tmp_path, "activate.d/b.sh", "export B=2\n")
    assert activation_variables(tmp_path)["B"] == "2"


@posix
def test_a_script_cannot_change_the_search_path_or_preload_a_library(tmp_path: Path):
    write(tmp_path, "activate.d/a.sh", "export PATH=/evil LD_PRELOAD=/evil.so OK=1\n")
    variables = activation_variables(tmp_path)
    assert ("PATH" in variables, "LD_PRELOAD" in variables, variables["OK"]) == (False, False, "1")


@posix
def test_a_value_with_newlines_survives(tmp_path: Path):
    write(tmp_path, "activate.d/a.sh", "export TEXT='one\ntwo=three'\n")
    assert activation_variables(tmp_path)["TEXT"] == "one\ntwo=three"


@windows
def test_batch_files_see_the_prefix_and_what_they_set_is_taken(tmp_path: Path):
    write(tmp_path, "activate.d/a.bat", '@set "GDAL_DATA=%CONDA_PREFIX%\\Library\\share"\n@echo noise\n@exit /b 3\n')
    write(tmp_path, "activate.d/b.bat", '@set "PATH=elsewhere"\n@set "B=2"\n')
    found = activation_variables(tmp_path)
    assert found["GDAL_DATA"] == f"{tmp_path}\\Library\\share"
    assert found["B"] == "2"
    assert not {"PATH", "PROMPT"} & set(found)
