"""The tier `seatbelt`: on macOS, runs in a clone of their environment, locked in by sandbox-exec(1).

Written from the documentation of the profile language and from published profiles; not yet run on a real Mac, and each
result says so. `probe.py` tries it before it is chosen. Mounts are not real here: the run sees the host's own paths,
and the guest maps constant strings. There is no process that adopts daemons on macOS: what leaves its process group is
found at the end by the run's mark in its environment variables.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from ..models import Isolation
from .cloned import watched_limits
from .loopback import LoopbackTier
from .order import Order
from .policy import NetworkPolicy
from .running import finish, kill_marked
from .tier import Launch, Process

PROGRAM = "/usr/bin/sandbox-exec"

READABLE = (
    *("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/share"),
    *("/System/Library", "/System/Volumes/Preboot/Cryptexes", "/System/Cryptexes", "/Library/Fonts", "/Library/Apple"),
    *(
        "/private/var/db/dyld",
        "/private/var/db/timezone",
        "/private/var/select",
        "/private/etc/ssl",
        "/private/etc/localtime",
    ),
    *("/private/etc/hosts", "/private/etc/services", "/private/etc/protocols"),
)
"""The system's own programs, libraries, fonts and tables; nothing of a user's."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/dtracehelper")

BASE = """\
(version 1)
(deny default)
(allow process-exec process-fork)
(allow process-info* (target same-sandbox))
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow file-read-metadata)
(allow file-read* (literal "/"))
(allow ipc-posix-sem)
(allow ipc-posix-shm*)
(allow pseudo-tty)
(allow file-read* file-write* file-ioctl (regex #"^/dev/ttys[0-9]+$"))
(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))
"""
"""What any program needs. Metadata of all files, because resolving a path looks at each directory on the way; locks and
shared memory of multiprocessing; the look-up of the user's own name."""

NOTES = (
    "confined by macOS's sandbox-exec; this has not been tried on real machines yet",
    "no namespaces: the run sees the host's own paths of its mounts, and can find out which files exist, without"
    " reading them",
    "the run's user id is the server's, and its shared memory is that of all processes of this user",
)


def profile(*, read_only: Iterable[str], writable: Iterable[str], ports: Iterable[int]) -> str:
    """Return a sandbox profile that denies everything else.

    Args:
        read_only: real paths of files and directories to read; links are not followed by the rules.
        writable: those to do anything with.
        ports: TCP ports of the loopback interface that may be connected to.
    """
    rules = [BASE]
    rules += [f"(allow file-read* (subpath {quoted(path)}))\n" for path in (*READABLE, *read_only)]
    rules += [f"(allow file-read* file-write-data file-ioctl (literal {quoted(path)}))\n" for path in DEVICES]
    rules += [f"(allow file-read* file-write* (subpath {quoted(path)}))\n" for path in writable]
    rules += [f'(allow network-outbound (remote ip "localhost:{port}"))\n' for port in ports]
    return "".join(rules)


def quoted(text: str) -> str:
    """Return a text as a string of the profile language."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class SeatbeltTier(LoopbackTier):
    """Runs locked in by macOS's sandbox."""

    name = "seatbelt"

    @asynccontextmanager
    async def launch(self, launch: Launch) -> AsyncIterator[Process]:
        """Start a process in a fresh clone of the environment.

        Raises:
            HostError: the machine cannot do it now, or something is asked for that this tier cannot hold.
        """
        try:
            async with super().launch(launch) as process:
                yield process
        finally:
            await finish(asyncio.ensure_future(asyncio.to_thread(kill_marked, launch.run_id)))

    def _order(self, launch: Launch, prefix: Path, scratch: Path, ports: tuple[int, ...]) -> Order:
        order = super()._order(launch, prefix, scratch, ports)
        read_only = [launch.guest, *(mount.source for mount in launch.mounts if mount.read_only)]
        writable = [prefix, scratch, *(mount.source for mount in launch.mounts if not mount.read_only)]
        text = profile(
            read_only=map(os.path.realpath, read_only), writable=map(os.path.realpath, writable), ports=ports
        )
        return dataclasses.replace(order, argv=[PROGRAM, "-p", text, *order.argv])

    def isolation(self, launch: Launch) -> Isolation:
        """Say what holds the run, and what does not."""
        offline = NetworkPolicy.parse(launch.network).nothing
        return Isolation(
            tier=self.name,
            network=launch.network,
            via="" if offline else "proxy",
            limits=watched_limits(launch.limits),
            notes=NOTES,
        )
