"""Tier A: a run in namespaces of its own, over a copy-on-write view of its environment.

Server side: turns a launch into an order; the walls themselves are built in the keeper (`confinement.py`). The
ephemeral prefix is an overlay at the environment's own path, which exists only in the run's mount namespace: it costs
nothing to make, and nothing is left of it to delete.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ..environments.store import host_errors
from ..environments.trash import Trash
from ..errors import HostError
from ..models import Isolation, Limits, Mount
from .bases import with_groups
from .connection import Connection
from .order import CONTROL_FD, GUEST_DIRECTORY, HOME, SCRATCH, Bind, Bounds, Order, Walls
from .policy import NetworkPolicy
from .proxy import serving
from .running import MARK, RunProcess, running
from .spawner_client import Lifeline, Spawner
from .surroundings import resource_limits, run_variables
from .tier import Launch

SPARE_PROCESSES = 8
"""The watchdog counts pid 1 as well, and only steps in where the kernel's own bound does not hold."""

KEPT_ROOT = (
    "the run is user 0 outside of its user namespace, without capabilities: this kernel or file system has no ID-mapped"
    " mounts, or no user may be changed to"
)


class NamespaceTier:
    """Runs in namespaces; see `tier.Tier`.

    Args:
        cache_dir: where environments are.
        upper_on_disk: whether what runs write goes to disk, because an overlay over a tmpfs does not work here (A').
        pasta: the program that gives runs the internet; empty for the proxy.
    """

    def __init__(self, cache_dir: Path, *, upper_on_disk: bool = False, pasta: str = "") -> None:
        self.name = "A'" if upper_on_disk else "A"
        self._cache = Path(os.path.realpath(cache_dir))
        self._scratch = self._cache / "scratch"
        self._mount_points = self._cache / "sandbox"
        self._trash = Trash(self._cache / "trash")
        self._upper_on_disk = upper_on_disk
        self._pasta = pasta
        self._spawner = Spawner()

    def close(self) -> None:
        """Give up what is kept between runs."""
        self._spawner.close()

    @asynccontextmanager
    async def launch(self, launch: Launch) -> AsyncIterator[RunProcess]:
        """Start a process in fresh namespaces over the environment.

        Raises:
            HostError: the kernel refuses, or a mount would show or hide what it must not.
        """
        policy = NetworkPolicy.parse(launch.network)
        upper = self._make_places(launch.run_id)
        try:
            order = self._order(launch, upper, policy)
            paths = {mount.target: mount.target for mount in launch.mounts}

            def describe(lifeline: Lifeline) -> Isolation:
                return self._isolation(launch, policy, lifeline)

            async with AsyncExitStack() as stack:
                process = await stack.enter_async_context(running(self._spawner, order, paths, SCRATCH, describe))
                listener = process.take_listener()
                if listener is not None:
                    await stack.enter_async_context(serving(listener, policy))
                yield process
        finally:
            if upper is not None:
                self._trash.discard(upper.parent)

    def _isolation(self, launch: Launch, policy: NetworkPolicy, lifeline: Lifeline) -> Isolation:
        kept_root = os.geteuid() == 0 and not lifeline.identity_dropped
        connection = Connection.choose(policy, self._pasta)
        return Isolation(
            tier=self.name,
            network=launch.network,
            via=connection.via,
            limits=with_groups(held_limits(launch.limits, upper_on_disk=self._upper_on_disk), lifeline.held),
            notes=(*connection.notes(lifeline.no_network), *((KEPT_ROOT,) if kept_root else ())),
        )

    def _make_places(self, run_id: str) -> Path | None:
        """Make the directories that the run needs on disk; return the one for what it writes, if that goes to disk."""
        with host_errors("The run's directories cannot be made"):
            for name in ("root", "stage"):
                (self._mount_points / name).mkdir(parents=True, exist_ok=True)
            if not self._upper_on_disk:
                return None
            self._trash.directory.mkdir(exist_ok=True)
            upper = self._scratch / run_id / "stage"
            upper.mkdir(parents=True)
            upper.parent.chmod(0o700)
            return upper

    def _order(self, launch: Launch, upper: Path | None, policy: NetworkPolicy) -> Order:
        environment = launch.environment
        prefix = Path(os.path.realpath(environment.prefix))
        binds, covered = place_mounts(launch.mounts, self._cache)
        limits = launch.limits
        connection = Connection.choose(policy, self._pasta)
        return Order(
            argv=[str(environment.prefix / environment.python), f"{GUEST_DIRECTORY}/start.py", str(CONTROL_FD)],
            environ=run_variables(
                environment,
                environment.prefix,
                home=HOME,
                temporary="/tmp",  # noqa: S108 - the run's own
                added={
                    **connection.variables(),
                    **launch.variables,
                    MARK: launch.run_id,
                },
            ),
            cwd=launch.mounts[0].target if launch.mounts else SCRATCH,
            rlimits=resource_limits(limits),
            bounds=Bounds(
                memory_bytes=limits.memory_bytes,
                processes=limits.processes + SPARE_PROCESSES if limits.processes else 0,
                cpu_s=limits.cpu_s,
                disk_bytes=limits.disk_bytes if upper else 0,
                disk_places=[str(upper)] if upper else [],
            ),
            walls=Walls(
                root=str(self._mount_points / "root"),
                stage=str(self._mount_points / "stage"),
                prefix=str(prefix),
                guest=str(launch.guest),
                binds=binds,
                covered=covered,
                upper=str(upper) if upper else "",
                disk_bytes=limits.disk_bytes,
                processes=limits.processes,
                **connection.walls(),
            ),
        )


def place_mounts(mounts: tuple[Mount, ...], cache: Path) -> tuple[list[Bind], list[str]]:
    """Return what to bind, and what to cover: a mounted directory above the cache would show all environments in it.

    Raises:
        HostError: a mount would be in the way of the system or of the environment.
    """
    binds, covered = [], []
    for mount in mounts:
        source, target = os.path.realpath(mount.source), os.path.normpath(mount.target)
        _check_target(target, mount, cache)
        binds.append(Bind(source, target, mount.read_only))
        if cache.is_relative_to(source):
            covered.append(os.path.normpath(f"{target}/{cache.relative_to(source)}"))
    return binds, covered


SYSTEM = ("/usr", "/etc", "/dev", "/proc", "/sys", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/run")
OWN = ("/", "/tmp", "/var", "/var/tmp", "/home")  # noqa: S108


def _check_target(target: str, mount: Mount, cache: Path) -> None:
    taken = target in OWN or any(Path(target).is_relative_to(place) for place in SYSTEM)
    hides = cache.is_relative_to(target) and Path(os.path.realpath(mount.source)) != Path(target)
    inside = Path(target).is_relative_to(cache)
    if taken or hides or inside or not target.startswith("/"):
        raise HostError(
            f"Nothing can be mounted at {mount.target}: runs need what is there.",
            hint="Mount it somewhere else, such as /working.",
            code="mount-refused",
        )


def held_limits(limits: Limits, *, upper_on_disk: bool = False) -> dict[str, str]:
    """Say what each limit rests on."""
    on_disk = "watchdog, about every second, over what the run writes to disk"
    in_memory = "size of the tmpfs behind prefix, home, temporary files and shared memory"
    memory = "watchdog, every 50 ms, with shared memory"
    rests_on = {
        "wall_s": "timer",
        "cpu_s": "rlimit for each process, watchdog for all",
        "memory_bytes": memory if upper_on_disk else f"{memory} and temporary files",
        "processes": "rlimit in a user namespace of its own",
        "disk_bytes": on_disk if upper_on_disk else in_memory,
        "open_files": "rlimit",
        "file_size_bytes": "rlimit",
        "output_bytes": "reader",
    }
    return {name: basis for name, basis in rests_on.items() if getattr(limits, name)}
