"""What tiers without mount namespaces have in common: the ephemeral prefix is a clone, a real directory.

The base of `plain.py` and `landlocked.py`. Makes the run's directories, starts the process, and discards the
directories at the end, whatever happened.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from ..environments.clone import clone_prefix
from ..environments.store import host_errors
from ..environments.trash import Trash
from ..models import Isolation, Limits
from .bases import with_groups
from .order import CONTROL_FD, Bounds, Fence, Order
from .running import MARK, finish, kill_marked, running
from .spawner_client import Lifeline, Spawner
from .surroundings import resource_limits, run_variables
from .tier import Launch, Process


class CloneTier:
    """A tier whose ephemeral prefix is a clone; see `tier.Tier`."""

    name = ""
    same_path = False
    """Whether runs see their clone at the environment's own path."""

    def __init__(self, cache_dir: Path) -> None:
        self.cache = Path(os.path.realpath(cache_dir))
        self._trash = Trash(self.cache / "trash")
        self._spawner = Spawner()

    def close(self) -> None:
        """Give up what is kept between runs."""
        self._spawner.close()

    @asynccontextmanager
    async def launch(self, launch: Launch) -> AsyncIterator[Process]:
        """Start a process in a fresh clone of the environment.

        Raises:
            HostError: the machine cannot do it now, or something is asked for that this tier cannot hold.
        """
        self.check(launch)
        prefix, scratch = self.cache / "runs" / launch.run_id, self.cache / "scratch" / launch.run_id
        async with AsyncExitStack() as stack:
            stack.callback(self._trash.discard, scratch)
            stack.callback(self._trash.discard, prefix)
            await self._make(launch, prefix, scratch)
            ports = await self.open_network(launch, stack)
            order = self._order(launch, prefix, scratch, ports)
            process = await stack.enter_async_context(self._running(launch, order, scratch))
            yield process

    # --- what the tiers differ in ---------------------------------------------------------------------------------

    def check(self, launch: Launch) -> None:
        """Refuse what this tier cannot hold.

        Raises:
            HostError: it cannot.
        """

    async def open_network(self, launch: Launch, stack: AsyncExitStack) -> tuple[int, ...]:  # noqa: ARG002
        """Make what the run needs to reach its network; return the ports for it."""
        return ()

    def network_variables(self, ports: tuple[int, ...]) -> Mapping[str, str]:  # noqa: ARG002
        """Return environment variables that lead the run to its network."""
        return {}

    def fence(self, launch: Launch, prefix: Path, scratch: Path, ports: tuple[int, ...]) -> Fence | None:  # noqa: ARG002
        """Return what the process is locked into."""
        return None

    def isolation(self, launch: Launch) -> Isolation:
        """Say what holds the run."""
        raise NotImplementedError

    def _running(
        self,
        launch: Launch,
        order: Order,
        scratch: Path,
    ) -> AbstractAsyncContextManager[Process]:
        """Start what the order says, for as long as the context lasts."""
        return running(
            self._spawner,
            order,
            {mount.target: str(mount.source) for mount in launch.mounts},
            str(scratch / "main"),
            lambda lifeline: self._describe(launch, lifeline),
            sweep=lambda: kill_marked(launch.run_id),
        )

    def _get_ready(self) -> None:
        """Start what starts runs, so that it is there when the directories are."""
        self._spawner.start()

    def _describe(self, launch: Launch, lifeline: Lifeline) -> Isolation:
        isolation = self.isolation(launch)
        return dataclasses.replace(isolation, limits=with_groups(isolation.limits, lifeline.held))

    # --- the run --------------------------------------------------------------------------------------------------

    async def _make(self, launch: Launch, prefix: Path, scratch: Path) -> None:
        """Make the run's directories; whatever happens meanwhile, nothing is being made any more when this returns."""

        def make() -> None:
            with host_errors("The run's prefix cannot be made"):
                for directory in (prefix.parent, scratch.parent, self._trash.directory):
                    directory.mkdir(parents=True, exist_ok=True)
                scratch.mkdir(mode=0o700)
                for name in ("home", "tmp", "main"):
                    (scratch / name).mkdir(mode=0o700)
                source = Path(os.path.realpath(launch.environment.prefix))
                clone_prefix(source, prefix, same_path=self.same_path)

        self._get_ready()
        await finish(asyncio.ensure_future(asyncio.to_thread(make)))

    def _order(self, launch: Launch, prefix: Path, scratch: Path, ports: tuple[int, ...]) -> Order:
        limits = launch.limits
        return Order(
            argv=[str(prefix / launch.environment.python), str(launch.guest / "start.py"), str(CONTROL_FD)],
            environ=run_variables(
                launch.environment,
                prefix,
                home=str(scratch / "home"),
                temporary=str(scratch / "tmp"),
                added={**self.network_variables(ports), **launch.variables, MARK: launch.run_id},
            ),
            cwd=str(launch.mounts[0].source if launch.mounts else scratch / "main"),
            rlimits=resource_limits(limits),
            bounds=Bounds(
                memory_bytes=limits.memory_bytes,
                processes=limits.processes,
                cpu_s=limits.cpu_s,
                disk_bytes=limits.disk_bytes,
                disk_places=[str(prefix), str(scratch)],
            ),
            fence=self.fence(launch, prefix, scratch, ports),
        )


def watched_limits(limits: Limits) -> dict[str, str]:
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
