"""Tier C: Landlock, seccomp and limits around a run in a clone of its environment, where there are no namespaces.

That is the case in most containers. Server side; the process locks itself in by `fencing.py`. Mounts are not real
here: the run sees the host's own paths of them, and the guest maps constant strings.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import HostError
from ..guest import landlock
from ..models import Isolation
from .cloned import watched_limits
from .loopback import LoopbackTier
from .order import Fence
from .policy import NetworkPolicy
from .rootfs import DEVICES, ETC, SYSTEM
from .tier import Launch

READABLE = (
    *(f"/usr/{name}" for name in SYSTEM),
    *(f"/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32")),
    *(f"/etc/{name}" for name in (*ETC, "passwd", "group", "hosts")),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg", "/sys/devices/system/cpu"),
)
NOTES = (
    "no namespaces: the run sees the host's own paths of its mounts, and can find out which files and processes exist,"
    " without reading them",
    "changes of modes, owners and times of files do nothing; unix sockets, datagrams and /dev/shm are not available",
    "the run's user id is the server's",
)
PROXY_PORT = (
    "Landlock knows ports, not addresses: a machine that listens at the very port of the run's proxy, another for each"
    " run, can be reached past the network policy"
)
NO_TRUNCATION = (
    "this kernel (Landlock before version 3) knows no bound for truncation: os.truncate fails but for open files"
)
NO_LINKS = (
    "this kernel (Landlock version 1) lets no file be moved or linked from one directory to another: os.rename fails,"
    " shutil.move copies"
)
NO_SCOPES = "this kernel (Landlock before version 6) lets the run send signals to other processes of the server's user"


class LandlockTier(LoopbackTier):
    """Runs locked in by Landlock and seccomp."""

    name = "C"

    def check(self, launch: Launch) -> None:
        """Refuse what Landlock cannot hold.

        Raises:
            HostError: a mount is above the cache, or a network is asked for that this kernel cannot confine.
        """
        super().check(launch)
        if not NetworkPolicy.parse(launch.network).nothing and landlock.version() < landlock.PORTS:
            raise HostError(
                "This machine can only confine runs without network (its Landlock is older than version 4).",
                hint="Use --network none, or --isolation none.",
                code="network-not-enforceable",
            )

    def fence(self, launch: Launch, prefix: Path, scratch: Path, ports: tuple[int, ...]) -> Fence:
        """Allow the run its own directories, its mounts, and the system's libraries; of the host nothing else."""
        read_only = [str(mount.source) for mount in launch.mounts if mount.read_only]
        writable = [str(mount.source) for mount in launch.mounts if not mount.read_only]
        return Fence(
            read_only=[*READABLE, os.path.realpath(launch.guest), *read_only],
            writable=[str(prefix), str(scratch), *writable],
            devices=[f"/dev/{name}" for name in DEVICES],
            ports=ports,
            network=bool(ports),
        )

    def isolation(self, launch: Launch) -> Isolation:
        """Say what holds the run, and what does not."""
        version = landlock.version()
        offline = NetworkPolicy.parse(launch.network).nothing
        possible = (
            (PROXY_PORT, not offline),
            (NO_SCOPES, version < landlock.SCOPES),
            (NO_TRUNCATION, version < landlock.TRUNCATION),
            (NO_LINKS, version < landlock.LINKS),
        )
        more = [note for note, holds in possible if holds]
        return Isolation(
            tier=self.name,
            network=launch.network,
            via="" if offline else "proxy",
            limits=watched_limits(launch.limits),
            notes=(*NOTES, *more),
        )
