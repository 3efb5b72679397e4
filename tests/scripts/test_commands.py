"""The commands that prepare a fresh machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def make_venv(place: Path, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / "make_venv", place],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PATH": path},
    )


@pytest.mark.slow
def test_make_venv_makes_an_environment_with_pip_and_then_leaves_it_alone(tmp_path: Path):
    place = tmp_path / "venv"
    assert make_venv(place).returncode == 0
    assert subprocess.run([place / "bin/python", "-m", "pip", "--version"], check=False).returncode == 0
    made = (place / "pyvenv.cfg").stat().st_ino
    assert make_venv(place).returncode == 0
    assert (place / "pyvenv.cfg").stat().st_ino == made


def test_make_venv_says_what_to_do_where_it_cannot(tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = make_venv(tmp_path / "file" / "venv", path="/nowhere")
    assert done.returncode == 1
    assert "hint: Install its venv module" in done.stderr


def test_make_venv_wants_one_directory():
    done = subprocess.run([sys.executable, SCRIPTS / "make_venv"], capture_output=True, text=True, check=False)
    assert done.returncode == 2


def test_ci_runs_what_a_developer_runs():
    done = subprocess.run([SCRIPTS.parent / ".ci/run", "--help"], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, "scripts/test [PYTEST ARGUMENT" in done.stdout) == (0, True)
