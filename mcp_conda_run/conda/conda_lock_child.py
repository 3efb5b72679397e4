"""Runs conda-lock in a process of its own, which ends with its caller. Started by `locking.py` alone.

conda-lock is never imported by the server: it takes seconds and 70 MB, and patches the standard library.
"""

from __future__ import annotations

import os
import runpy
import sys

from . import lifeline


def main() -> None:
    """Run conda-lock with the arguments of the request; what it prints goes to stderr."""
    os.close(lifeline.take_stdout())
    request = lifeline.take_request()
    sys.argv = ["conda-lock", *request["arguments"]]
    runpy.run_module("conda_lock", run_name="__main__", alter_sys=True)
