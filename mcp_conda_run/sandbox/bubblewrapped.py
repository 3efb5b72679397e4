"""Tier B: the system's bubblewrap makes the namespaces, where it is the one program that may.

So it is on Ubuntu since 23.10, whose AppArmor lets only programs with a profile make user namespaces. Server side:
turns a launch into an order; `bubble.py` starts it. What the run sees at the environment's own path is an overlay where
bubblewrap can make one (since version 0.11), and else a clone; mounts are real.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ..environments.store import host_errors
from ..models import Isolation, Limits
from .bubble import STAGE_DIRECTORY
from .cloned import CloneTier, watched_limits
from .connection import Connection
from .namespaces import SPARE_PROCESSES, place_mounts
from .order import CONTROL_FD, GUEST_DIRECTORY, HOME, INNER_ID, SCRATCH, Bind, Bounds, Bubble, Order
from .policy import NetworkPolicy
from .probe import BUBBLEWRAP
from .proxy import serving
from .rootfs import ETC, SYSTEM, TEXTS
from .running import MARK, RunProcess, kill_marked, running
from .spawner_client import Lifeline
from .surroundings import resource_limits, run_variables
from .tier import PACKAGE_GUEST, Launch

CLONED = "the ephemeral prefix is a clone: changes of modes, owners and times of files do nothing"
NOTES = ("bubblewrap's own process in the run's namespace is visible to the run, and can be ended by it with the run",)
OWN_PLACES = ("home", "tmp", "main")
OVERLAY_PLACES = UPPER, _ = ("upper", "work")
KEPT_ROOT = "the run is user 0 outside of its user namespace, without capabilities"


def find() -> str:
    """Return the path of the system's bubblewrap; empty if it is not installed."""
    return next((path for path in BUBBLEWRAP if os.access(path, os.X_OK)), "")


class BubblewrapTier(CloneTier):
    """Runs behind bubblewrap; see `tier.Tier`.

    Args:
        cache_dir: what runs write is kept here.
        overlays: whether the prefix is to be an overlay, which not every bubblewrap can make.
    """

    name = "B"
    same_path = True

    def __init__(self, cache_dir: Path, *, overlays: bool = False) -> None:
        super().__init__(cache_dir)
        self._overlays = overlays

    @asynccontextmanager
    async def launch(self, launch: Launch) -> AsyncIterator[RunProcess]:
        """Start a process in fresh namespaces over a clone of the environment.

        Raises:
            HostError: the machine cannot do it now, or a mount would show or hide what it must not.
        """
        prefix, scratch = self.cache / "runs" / launch.run_id, self.cache / "scratch" / launch.run_id
        policy = NetworkPolicy.parse(launch.network)
        binds, covered = place_mounts(launch.mounts, self.cache)
        async with AsyncExitStack() as stack:
            stack.callback(self._trash.discard, scratch)
            stack.callback(self._trash.discard, prefix)
            await self._make(launch, prefix, scratch)
            with host_errors("The run's directories cannot be made"):
                write_texts(scratch)
            order = self._bubble_order(launch, prefix, scratch, [*binds], covered)
            process = await stack.enter_async_context(
                running(
                    self._spawner,
                    order,
                    {mount.target: mount.target for mount in launch.mounts},
                    SCRATCH,
                    lambda lifeline: self._isolation(launch, lifeline),
                    sweep=lambda: kill_marked(launch.run_id),
                )
            )
            listener = process.take_listener()
            if listener is not None:
                await stack.enter_async_context(serving(listener, policy))
            yield process

    def isolation(self, launch: Launch) -> Isolation:
        """Say what holds the run, without what only its keeper knows."""
        connection = Connection.choose(NetworkPolicy.parse(launch.network), "")
        more = [note for note, holds in ((CLONED, not self._overlays), (KEPT_ROOT, os.geteuid() == 0)) if holds]
        return Isolation(
            tier=self.name,
            network=launch.network,
            via=connection.via,
            limits=bubble_limits(launch.limits),
            notes=(*NOTES, *connection.notes(""), *more),
        )

    def _isolation(self, launch: Launch, lifeline: Lifeline) -> Isolation:
        return self._describe(launch, lifeline)

    async def _make(self, launch: Launch, prefix: Path, scratch: Path) -> None:
        if self._overlays:
            self._make_places(scratch)
        else:
            await super()._make(launch, prefix, scratch)

    def _make_places(self, scratch: Path) -> None:
        with host_errors("The run's directories cannot be made"):
            self._trash.directory.mkdir(parents=True, exist_ok=True)
            scratch.parent.mkdir(parents=True, exist_ok=True)
            scratch.mkdir(mode=0o700)
            for name in (*OWN_PLACES, *OVERLAY_PLACES):
                (scratch / name).mkdir(mode=0o700)

    def _bubble_order(
        self, launch: Launch, prefix: Path, scratch: Path, binds: list[Bind], covered: Sequence[str]
    ) -> Order:
        environment, limits = launch.environment, launch.limits
        inside = Path(os.path.realpath(environment.prefix))
        python = str(environment.prefix / environment.python)
        connection = Connection.choose(NetworkPolicy.parse(launch.network), "")
        options = [
            *view(scratch, launch.guest, limits.disk_bytes),
            *(option for bind in binds for option in _bound(bind)),
            *(option for place in covered for option in ("--tmpfs", place)),
            *(overlay(scratch, inside) if self._overlays else ("--bind", str(prefix), str(inside))),
            *(option for place in (*covered, "/dev", "/") for option in ("--remount-ro", place)),
            *("--chdir", launch.mounts[0].target if launch.mounts else SCRATCH),
        ]
        return Order(
            argv=[python, f"{GUEST_DIRECTORY}/start.py", str(CONTROL_FD)],
            environ=run_variables(
                environment,
                environment.prefix,
                home=HOME,
                temporary="/tmp",  # noqa: S108 - the run's own
                added={**connection.variables(), **launch.variables, MARK: launch.run_id},
            ),
            cwd="/",
            rlimits=resource_limits(limits),
            bounds=Bounds(
                memory_bytes=limits.memory_bytes,
                processes=limits.processes + SPARE_PROCESSES if limits.processes else 0,
                cpu_s=limits.cpu_s,
                disk_bytes=limits.disk_bytes,
                disk_places=self._written_to(prefix, scratch),
            ),
            bubble=Bubble(
                program=find(),
                options=options,
                python=python,
                proxy_port=int(connection.walls()["proxy_port"]),
                processes=limits.processes + 2 if limits.processes else 0,
                freeze_metadata=not self._overlays,
            ),
        )

    def _written_to(self, prefix: Path, scratch: Path) -> list[str]:
        """Return where the run writes; not the overlay's work directory, which belongs to the kernel."""
        if not self._overlays:
            return [str(prefix), str(scratch)]
        return [str(scratch / name) for name in (*OWN_PLACES, UPPER)]


def overlay(scratch: Path, prefix: Path) -> tuple[str, ...]:
    """Return the options for an overlay over `prefix`, at its own path; what is written goes to disk, into `scratch`.

    Not into memory, as bubblewrap can too: it sets no bound there.
    """
    upper, work = (str(scratch / name) for name in OVERLAY_PLACES)
    return ("--overlay-src", str(prefix), "--overlay", upper, work, str(prefix))


def write_texts(scratch: Path) -> None:
    """Write the files of /etc that runs have of their own.

    Raises:
        OSError: the disk is full, or not to be written to.
    """
    (scratch / "etc").mkdir(exist_ok=True)
    for name, text in TEXTS.items():
        (scratch / "etc" / name).write_text(text, encoding="ascii")


def view(scratch: Path, guest: Path, shared_memory_bytes: int) -> list[str]:
    """Return the options for what all runs see: namespaces, the system's read-only part, and their own places.

    Args:
        scratch: the run's directory on disk, with `home`, `tmp`, `main` and `etc`.
        guest: the directory of the guest's modules.
        shared_memory_bytes: how much the tmpfs at /dev/shm may hold.
    """
    own = (("tmp", "/tmp"), ("tmp", "/var/tmp"), ("home", HOME), ("main", SCRATCH))  # noqa: S108 - the run's own
    cpus = "/sys/devices/system/cpu"
    return [
        *("--unshare-user", "--uid", str(INNER_ID), "--gid", str(INNER_ID), "--unshare-cgroup-try"),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--hostname", "sandbox"),
        *("--die-with-parent", "--cap-drop", "ALL"),
        *_system(),
        *(option for name in TEXTS for option in ("--ro-bind", str(scratch / "etc" / name), f"/etc/{name}")),
        *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"),  # root, even without capabilities, may write there
        *("--dev", "/dev", "--size", str(shared_memory_bytes), "--tmpfs", "/dev/shm"),  # noqa: S108 - the run's own
        *("--ro-bind-try", cpus, cpus),
        *(option for name, place in own for option in ("--bind", str(scratch / name), place)),
        *("--ro-bind", str(guest), GUEST_DIRECTORY, "--ro-bind", str(PACKAGE_GUEST), STAGE_DIRECTORY),
    ]


def _system() -> list[str]:
    options: list[str] = []
    for name in SYSTEM:
        if os.path.isdir(f"/usr/{name}"):
            options += ["--ro-bind", f"/usr/{name}", f"/usr/{name}"]
        if os.path.islink(f"/{name}"):
            options += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif name not in {"include", "libexec", "share"} and os.path.isdir(f"/{name}"):
            options += ["--ro-bind", f"/{name}", f"/{name}"]
    for name in ETC:
        source = os.path.realpath(f"/etc/{name}")
        if os.path.exists(source):
            options += ["--ro-bind", source, f"/etc/{name}"]
    return options


def _bound(bind: Bind) -> tuple[str, str, str]:
    return ("--ro-bind" if bind.read_only else "--bind", bind.source, bind.target)


def bubble_limits(limits: Limits) -> dict[str, str]:
    """Say what each limit rests on."""
    rests_on = watched_limits(limits)
    if "memory_bytes" in rests_on:
        rests_on["memory_bytes"] += ", with shared memory"
    if "processes" in rests_on:
        rests_on["processes"] = "rlimit in a user namespace of its own"
    if "disk_bytes" in rests_on:
        rests_on["disk_bytes"] += "; size of the tmpfs for shared memory"
    return rests_on
