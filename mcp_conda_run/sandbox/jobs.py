"""The tier `job`: on Windows, runs in a clone of their environment, held together and bounded by a Job Object.

Tried under Wine, which has part of it, and not yet on real machines; each result says so. A job holds no file and no
connection back: `Isolation.notes` says what that means. It needs no keeper: when the server ends, however it does, the
last handle of each run's job closes, and Windows ends what is in it. Mounts are not real here: the run sees the host's
own paths, and the guest maps constant strings.
"""

from __future__ import annotations

import dataclasses
import subprocess
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from ..errors import HostError
from ..models import Isolation, Limits
from ..windows_jobs import KILLED, Job, resume
from .cloned import CloneTier
from .order import Bounds, Order
from .policy import NetworkPolicy
from .portable import Ends, running_portably, spawn
from .tier import Exit, Launch, Process

CREATE_SUSPENDED = 0x0000_0004
CREATE_NO_WINDOW = 0x0800_0000

NOTES = (
    "bounded by a Windows Job Object, which ends all of the run's processes with the run and with the server, and keeps"
    " them from the desktop; this has not been tried on real machines yet",
    "no walls: the code can read, change and delete everything that the user of the server can, read-only mounts"
    " included",
    "no walls: the code reaches the network and every service of this machine; what it has a service of Windows start"
    " for it is not in the job",
    "the files of packages are hard links to the environment's: write-protected, but code that lifts the protection can"
    " damage the environment",
)

CRASHES = {
    0xC000_0005: "SIGSEGV",  # access violation
    0xC000_00FD: "SIGSEGV",  # stack overflow
    0xC000_001D: "SIGILL",
    0xC000_0094: "SIGFPE",  # division of integers by zero
    0xC000_0409: "SIGABRT",  # the C library or a stack guard gave up
    0xC000_013A: "SIGINT",
    KILLED: "SIGKILL",
}
"""Exit codes (ntstatus.h) that stand for what ends a process by a signal elsewhere."""
FIRST_STATUS, LAST_STATUS = 0x8000_0000, 0xDFFF_FFFF
"""Other codes that the system gives, for warnings and errors; those above are programs' own, or negative ones."""


class JobTier(CloneTier):
    """Runs held together by a Job Object."""

    name = "job"

    def close(self) -> None:
        """There is nothing to give up."""

    def check(self, launch: Launch) -> None:
        """Refuse a network policy, which nothing here can hold.

        Raises:
            HostError: the network is not to be full.
        """
        if not NetworkPolicy.parse(launch.network).internet:
            raise HostError(
                f"On Windows the network of a run cannot be restricted to {launch.network!r}.",
                hint="Use --network full, or run the server in WSL2.",
                code="network-not-enforceable",
            )

    def isolation(self, launch: Launch) -> Isolation:
        """Say what bounds the run, and that nothing walls it off."""
        return Isolation(tier=self.name, network=launch.network, limits=job_limits(launch.limits), notes=NOTES)

    def _get_ready(self) -> None:
        """There is nothing to start ahead."""

    def _running(self, launch: Launch, order: Order, scratch: Path) -> AbstractAsyncContextManager[Process]:
        paths = {mount.target: mount.source.as_posix() for mount in launch.mounts}
        return running_portably(
            dataclasses.replace(order, argv=order.argv[:-1]),  # without the number of a socket
            lambda: JobEnclosure(order.bounds),
            paths=paths,
            scratch=(scratch / "main").as_posix(),
            isolation=self.isolation(launch),
        )


class JobEnclosure:
    """What holds one run: a job of its own; see `portable.Enclosure`.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._job = Job(
            memory_bytes=bounds.memory_bytes, processes=bounds.processes, cpu_s=bounds.cpu_s, away_from_desktop=True
        )

    def start(self, order: Order, ends: Ends) -> subprocess.Popen[bytes]:
        """Start the main process in the job: it runs its first instruction there.

        Raises:
            OSError: it cannot be.
        """
        main = spawn(order, ends, flags=CREATE_SUSPENDED | CREATE_NO_WINDOW)
        try:
            self._job.take(main.pid)
            resume(main.pid)
        except BaseException:
            main.kill()
            main.wait()
            raise
        return main

    def exceeded(self) -> str:
        """Return the name of the bound that the run is over, or at which Windows refused it something."""
        used = self._job.used()
        if self._bounds.cpu_s and used.cpu_s > self._bounds.cpu_s:
            return "cpu"
        if self._bounds.processes and used.processes > self._bounds.processes:
            return "processes"
        return self._job.exceeded()

    def exit(self, code: int) -> Exit:
        """Return how the main process ended."""
        status = code & 0xFFFF_FFFF
        if status in CRASHES:
            return Exit(None, CRASHES[status])
        return Exit(None, f"status {status:#x}") if FIRST_STATUS <= status <= LAST_STATUS else Exit(code)

    def kill(self) -> None:
        """Kill everything in the job."""
        self._job.kill()

    def is_empty(self) -> bool:
        """Say whether nothing is left in the job."""
        return self._job.used().processes == 0

    def close(self) -> None:
        """Give up the job, and with it whatever is still inside."""
        self._job.close()


def job_limits(limits: Limits) -> dict[str, str]:
    """Say what each limit rests on in this tier."""
    rests_on = {
        "wall_s": "timer",
        "cpu_s": "job object",
        "memory_bytes": "job object: what its processes have committed",
        "processes": "job object, without threads",
        "disk_bytes": "watchdog, about every second, over prefix and scratch",
        "open_files": "nothing: Windows has no such bound",
        "file_size_bytes": "nothing: Windows has no such bound",
        "output_bytes": "reader",
    }
    return {name: basis for name, basis in rests_on.items() if getattr(limits, name)}


def why_not() -> str:
    """Return why runs cannot be held by jobs here, or nothing if they can; tried with a process that does nothing."""
    try:
        job = Job(memory_bytes=1 << 30, processes=8, cpu_s=60, away_from_desktop=True)
        job.kill()
        job.close()
    except OSError as error:
        return f"a Job Object cannot be made: {error.strerror or error}"
    return ""
