"""The command that boots another kernel: what it needs, it says. That it boots one takes minutes and is not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMMAND = Path(__file__).resolve().parents[2] / "scripts" / "other_kernel"


def other_kernel(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMMAND, *arguments], capture_output=True, text=True, check=False, env={"PATH": "/nowhere"}
    )


def test_it_names_the_programs_that_are_missing():
    done = other_kernel("--", "true")
    assert done.returncode == 2
    assert "qemu-system-x86_64" in done.stderr


def test_its_help_shows_how_to_run_a_test_as_a_user():
    assert "--as user -- python -m pytest" in other_kernel("--help").stdout


def test_without_a_command_nothing_is_made():
    assert other_kernel().returncode == 2
