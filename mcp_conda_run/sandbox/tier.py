"""What a tier is: one way to confine a run. The rest of the project sees only this protocol.

A launch is the start of a process that waits for code; the code comes later, over the control socket
(`guest/execute.py` speaks first when it is ready for it); the end is the end of the context: then every process of the
run is dead and its ephemeral prefix is gone or on its way to be.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..models import Environment, Isolation, Limits, Mount

PACKAGE_GUEST = Path(__file__).resolve().parents[1] / "guest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All that a tier needs to start a run's process.

    Attributes:
        run_id: 16 hexadecimal digits.
        environment: what to run in.
        mounts: the directories of the host that the run may see; the first is the working directory.
        limits: the bounds.
        network: `full`, `none`, or a comma separated allow-list.
        variables: environment variables to add to those that the tier makes from scratch.
        guest: the directory of the guest's modules, with the bytecode of the environment's Python.
        imports: the modules that the code imports, dotted names; by these a warm interpreter is chosen.
    """

    run_id: str
    environment: Environment
    mounts: tuple[Mount, ...]
    limits: Limits
    network: str = "full"
    variables: Mapping[str, str] = field(default_factory=dict)
    guest: Path = PACKAGE_GUEST
    imports: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a run's process ended: by code, by signal, or by a limit that the tier enforced (`memory`, `disk`, ...)."""

    code: int | None
    signal: str = ""
    limit: str = ""


class Process(Protocol):
    """A started run.

    Attributes:
        control: the host's end of the stream socket to the guest.
        stdout, stderr: file descriptors to read; end of file when the last process of the run is gone. The tier closes
            them at the end of the context; who wants to own one duplicates it.
        paths: for each mount, where the run sees it: equal to the mount's target where mounts are real, else the host's
            path (then the guest maps constant strings).
        scratch: the run's own writable directory, as the run sees it.
        isolation: what really holds this run.
        start: how it was started: `pool` (it was waiting), `fork` (of a warm interpreter), or `exec`.
        selectable: whether an event loop can be told that something has come on `stdout` or `stderr`; else a thread has
            to wait for it.
    """

    selectable: bool
    control: socket.socket
    stdout: int
    stderr: int
    paths: Mapping[str, str]
    scratch: str
    isolation: Isolation
    start: str

    async def wait(self) -> Exit:
        """Wait for the end of the main process; safe to call again."""

    def kill(self) -> None:
        """Kill every process of the run, now; safe to call again."""


class Tier(Protocol):
    """One way to confine runs on this machine."""

    name: str

    def launch(self, launch: Launch) -> AbstractAsyncContextManager[Process]:
        """Start a process in a fresh ephemeral prefix; at the end of the context nothing of it is left.

        Raises:
            HostError: the machine cannot do it now (no memory, no descriptors, a full disk).
        """

    def close(self) -> None:
        """Give up what the tier keeps between runs; runs that are under way go on to their end. Safe to call again."""
