"""Which micromamba is found, whether it can be used, and when it is the engine.

What is found first is told by programs that cannot be used; that one which works is taken needs a real one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mcp_conda_run.conda.choose import choose_engine, own_micromamba
from mcp_conda_run.conda.micromamba import find_micromamba, judged, tried
from mcp_conda_run.errors import SettingsError
from mcp_conda_run.settings import Settings

from .conftest import FOUND, NO_MICROMAMBA, Program

needs_micromamba = pytest.mark.skipif(bool(NO_MICROMAMBA), reason=NO_MICROMAMBA)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """The machine's micromamba, alone in a directory."""
    assert FOUND is not None
    link = tmp_path / "real/micromamba"
    link.parent.mkdir()
    link.symlink_to(FOUND.path)
    return link


# --- finding ----------------------------------------------------------------------------------------------------------


def test_the_one_that_the_settings_name_comes_first(program: Program, tmp_path: Path) -> None:
    named, other = program(version="1.5.8"), program(version="1.5.8")
    found = find_micromamba(named, tmp_path / "none", {"MAMBA_EXE": str(other), "PATH": str(other.parent)})
    assert found is not None
    assert (found.path, found.where) == (named, "named by the settings")


@needs_micromamba
def test_mamba_exe_comes_before_path(real: Path, program: Program, tmp_path: Path) -> None:
    other = program(version="1.5.8")
    found = find_micromamba(None, tmp_path / "none", {"MAMBA_EXE": str(real), "PATH": str(other.parent)})
    assert found is not None
    assert (found.path, found.where) == (real, "named by MAMBA_EXE")


def test_a_mamba_exe_that_does_not_work_is_only_a_hint(program: Program, tmp_path: Path) -> None:
    other = program(version="1.5.8")
    environment = {"MAMBA_EXE": str(tmp_path / "gone/micromamba"), "PATH": str(other.parent)}
    found = find_micromamba(None, tmp_path / "none", environment)
    assert found is not None
    assert found.path == other


def test_a_mamba_exe_that_is_mamba_is_no_micromamba(program: Program, tmp_path: Path) -> None:
    assert find_micromamba(None, tmp_path / "none", {"MAMBA_EXE": str(program(name="mamba")), "PATH": ""}) is None


def test_the_one_that_we_downloaded_comes_last(program: Program) -> None:
    own, other = program(version="1.5.8"), program(version="1.5.8")
    last = find_micromamba(None, own, {"PATH": ""})
    before = find_micromamba(None, own, {"PATH": str(other.parent)})
    assert last is not None
    assert last.where == "downloaded by get-micromamba"
    assert before is not None
    assert before.path == other


# --- whether it can be used -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("2.8.1\n", "2.8.1"),
        ("2.0.4", "2.0.4"),
        ("2.1.0.rc0\n", "2.1.0.rc0"),
        ("10.0", "10.0"),
        ("warning  libmamba something\n2.8.1\n", "2.8.1"),
    ],
)
def test_a_version_is_read_from_what_micromamba_says(said: str, version: str) -> None:
    assert judged(Path("micromamba"), said, 0) == (version, "")


@pytest.mark.parametrize("said", ["1.5.8", "2.0.3", "conda 24.1.0b", "", "\n", "2", "2.x"])
def test_what_is_too_old_or_no_micromamba_is_not_used(said: str) -> None:
    version, problem = judged(Path("micromamba"), said, 0)
    assert not version
    assert problem


def test_a_program_that_fails_when_it_is_asked_for_its_version_is_not_used() -> None:
    assert "exit code 3" in judged(Path("micromamba"), "2.8.1", 3)[1]


@needs_micromamba
def test_a_real_one_says_its_version() -> None:
    assert FOUND is not None
    assert not tried(FOUND.path, "given").problem
    assert tried(FOUND.path, "given").version[0].isdigit()


def test_what_does_not_run_says_why(tmp_path: Path) -> None:
    file = tmp_path / "micromamba"
    file.write_text("no program")
    assert "does not run" in tried(file, "given").problem


def test_a_program_of_another_architecture_does_not_run(tmp_path: Path) -> None:
    file = tmp_path / "micromamba"
    file.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(100))  # RISC-V's number
    file.chmod(0o755)
    assert "does not run" in tried(file, "given").problem


def test_a_program_that_may_not_be_run_says_why(program: Program) -> None:
    path = program()
    path.chmod(stat.S_IRUSR)
    assert "does not run" in tried(path, "given").problem


def test_a_replaced_program_is_asked_again(program: Program) -> None:
    path = program(version="1.5.8")
    assert "1.5.8" in tried(path, "given").problem
    path.write_text("#!/bin/sh\necho 1.4.2\n")
    os.utime(path, ns=(1, 1))
    assert "1.4.2" in tried(path, "given").problem


# --- choosing ---------------------------------------------------------------------------------------------------------


@needs_micromamba
def test_auto_takes_a_micromamba_that_works(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(real.parent))
    monkeypatch.delenv("MAMBA_EXE", raising=False)
    choice = choose_engine(Settings(cache_dir=tmp_path, engine="auto"))
    assert choice.engine.name == "micromamba"
    assert choice.reason == f"{real} was found on PATH"


def test_auto_takes_the_embedded_engine_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MAMBA_EXE", raising=False)
    choice = choose_engine(Settings(cache_dir=tmp_path, engine="auto"))
    assert choice.engine.name == "rattler"
    assert "no micromamba was found" in choice.reason


def test_auto_says_why_it_does_not_take_the_one_that_is_there(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(program(version="1.5.8").parent))
    monkeypatch.delenv("MAMBA_EXE", raising=False)
    choice = choose_engine(Settings(cache_dir=tmp_path, engine="auto"))
    assert choice.engine.name == "rattler"
    assert "1.5.8" in choice.reason


def test_asking_for_a_micromamba_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MAMBA_EXE", raising=False)
    with pytest.raises(SettingsError, match="No micromamba was found") as caught:
        choose_engine(Settings(cache_dir=tmp_path, engine="micromamba"))
    assert "get-micromamba" in caught.value.hint


def test_naming_a_micromamba_that_does_not_work_is_an_error(program: Program, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"1\.5\.8"):
        choose_engine(Settings(cache_dir=tmp_path, engine="auto", micromamba=program(version="1.5.8")))


def test_ours_is_below_the_users_data_directory() -> None:
    assert own_micromamba().is_relative_to(os.environ["XDG_DATA_HOME"])
