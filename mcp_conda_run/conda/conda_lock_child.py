"""Runs conda-lock in a process of its own, which ends with its caller. Started by `locking.py` alone.

conda-lock is never imported by the server: it takes seconds and 70 MB, and patches the standard library.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from typing import Any

from . import lifeline


def main() -> None:
    """Run conda-lock with the arguments of the request; what it prints goes to stderr."""
    os.close(lifeline.take_stdout())
    request = lifeline.take_request()
    if sys.platform == "win32":
        stand_in(*request["conda"])
    sys.argv = ["conda-lock", *request["arguments"]]
    runpy.run_module("conda_lock", run_name="__main__", alter_sys=True)


def stand_in(program: str, *command: str) -> None:
    """Have a command run where conda-lock runs `program`: on Windows a script cannot be run by its name alone."""

    class Popen(subprocess.Popen[Any]):
        def __init__(self, args: Any, *rest: Any, **more: Any) -> None:
            if not isinstance(args, str) and str(args[0]) == program:
                args = [*command, *map(str, args[1:])]
            super().__init__(args, *rest, **more)

    subprocess.Popen = Popen  # type: ignore[misc]
