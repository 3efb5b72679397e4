"""The child's half of `process.py`: takes the request, then ends this process as soon as its caller is gone.

Runs only in the helper processes. Afterwards nothing in the process, nor any child of it, can reach the original stdin
and stdout: they belong to the protocol.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from .netwall import leave_network


def take_request() -> dict[str, Any]:
    """Read the first line of stdin as JSON, and from now on end with the caller; offline, without a network."""
    lifeline = os.dup(0)  # not inheritable: a grandchild cannot keep the pipe open or read from it
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with os.fdopen(lifeline, "rb", closefd=False) as pipe:
        line = pipe.readline()
    request: dict[str, Any] = json.loads(line)
    if request.get("offline"):
        leave_network()
    threading.Thread(target=end_with_caller, args=(lifeline,), daemon=True).start()
    return request


def end_with_caller(lifeline: int) -> None:
    """Wait until the caller closes the pipe (or dies), then end at once, with all of the group if it is ours."""
    while os.read(lifeline, 4096):
        pass
    if sys.platform != "win32" and os.getpgrp() == os.getpid():  # there, the caller's job ends all of it
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def take_stdout() -> int:
    """Return a private descriptor of stdout; what is printed from now on goes to stderr."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    return private
