"""The tier `none`: a run is an ordinary process of the user, in a prefix of its own that is a clone.

For machines that allow nothing better, when the user asked for it. The run's processes die with it and with the
server, and its bounds hold; but it can read and write what the user can, and `Isolation.notes` says so.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ..environments.clone import clone_prefix
from ..environments.store import host_errors
from ..environments.trash import Trash
from ..errors import HostError
from ..models import Isolation, Limits
from .order import CONTROL_FD, Bounds, Order
from .policy import NetworkPolicy
from .running import MARK, RunProcess, finish, kill_marked, running
from .spawner_client import Spawner
from .surroundings import resource_limits, run_variables
from .tier import Launch

NOTES = (
    "no isolation: the code can read, change and delete everything that the user of the server can",
    "no isolation: the code reaches the network and every service of this machine",
    "without reflinks the files of packages are hard links to the environment's: write-protected, but code that lifts"
    " the protection, or runs as root, can damage the environment",
)


class PlainTier:
    """Runs as ordinary processes; see `tier.Tier`."""

    name = "none"

    def __init__(self, cache_dir: Path) -> None:
        self._runs = cache_dir / "runs"
        self._scratch = cache_dir / "scratch"
        self._trash = Trash(cache_dir / "trash")
        self._spawner = Spawner()

    def close(self) -> None:
        """Give up what is kept between runs."""
        self._spawner.close()

    @asynccontextmanager
    async def launch(self, launch: Launch) -> AsyncIterator[RunProcess]:
        """Start a process in a fresh clone of the environment.

        Raises:
            HostError: the machine cannot do it now, or a network policy is asked for that nothing here can enforce.
        """
        if not NetworkPolicy.parse(launch.network).internet:
            raise HostError(
                f"Without isolation the network cannot be restricted to {launch.network!r}.",
                hint="Leave out --isolation none, or use --network full.",
                code="network-not-enforceable",
            )
        if any(mount.read_only for mount in launch.mounts):
            raise HostError(
                "Without isolation a mounted directory cannot be made read-only.",
                hint="Leave out --isolation none, or mount it without :ro.",
                code="mount-not-enforceable",
            )
        prefix, scratch = self._runs / launch.run_id, self._scratch / launch.run_id
        try:
            await self._make(launch, prefix, scratch)
            order = _order(launch, prefix, scratch)
            paths = {mount.target: str(mount.source) for mount in launch.mounts}
            isolation = Isolation(
                tier=self.name, network=launch.network, limits=held_limits(launch.limits), notes=NOTES
            )

            async with running(
                self._spawner,
                order,
                paths,
                str(scratch / "main"),
                lambda _: isolation,
                sweep=lambda: kill_marked(launch.run_id),
            ) as process:
                yield process
        finally:
            self._trash.discard(prefix)
            self._trash.discard(scratch)

    async def _make(self, launch: Launch, prefix: Path, scratch: Path) -> None:
        """Make the run's directories; whatever happens meanwhile, nothing is being made any more when this returns."""

        def make() -> None:
            with host_errors("The run's prefix cannot be made"):
                for directory in (self._runs, self._scratch, self._trash.directory):
                    directory.mkdir(parents=True, exist_ok=True)
                scratch.mkdir(mode=0o700)
                for name in ("home", "tmp", "main"):
                    (scratch / name).mkdir(mode=0o700)
                clone_prefix(launch.environment.prefix, prefix)

        self._spawner.start()
        await finish(asyncio.ensure_future(asyncio.to_thread(make)))


def _order(launch: Launch, prefix: Path, scratch: Path) -> Order:
    variables = run_variables(
        launch.environment,
        prefix,
        home=str(scratch / "home"),
        temporary=str(scratch / "tmp"),
        added={**launch.variables, MARK: launch.run_id},
    )
    return Order(
        argv=[str(prefix / launch.environment.python), str(launch.guest / "start.py"), str(CONTROL_FD)],
        environ=variables,
        cwd=str(launch.mounts[0].source if launch.mounts else scratch / "main"),
        rlimits=resource_limits(launch.limits),
        bounds=bounds(launch.limits, prefix, scratch),
    )


def bounds(limits: Limits, *places: Path) -> Bounds:
    """Return what the keeper watches over."""
    return Bounds(
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        cpu_s=limits.cpu_s,
        disk_bytes=limits.disk_bytes,
        disk_places=[os.fspath(place) for place in places],
    )


def held_limits(limits: Limits) -> dict[str, str]:
    """Say what each limit rests on in tiers without namespaces."""
    sampled = "watchdog, every 50 ms" if sys.platform == "linux" else "watchdog, every 50 ms, without daemons"
    rests_on = {
        "wall_s": "timer",
        "cpu_s": "rlimit for each process, watchdog for all",
        "memory_bytes": sampled,
        "processes": sampled,
        "disk_bytes": "watchdog, about every second, over prefix and scratch",
        "open_files": "rlimit",
        "file_size_bytes": "rlimit",
        "output_bytes": "reader",
    }
    return {name: basis for name, basis in rests_on.items() if getattr(limits, name)}
