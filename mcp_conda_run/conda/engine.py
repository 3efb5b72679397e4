"""What an engine is: the one thing that knows how to solve, fetch and link conda packages.

The rest of the project sees only this protocol. An engine works in a killable child process, never in the server's, and
a cancelled call leaves nothing running. Implementations: `rattler.py` (embedded), `micromamba.py` (the user's own).
"""

from __future__ import annotations

import platform as host_platform
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import HostError
from ..models import LockedPackage, PackageFacts, ProgressCallback, no_progress

SUBDIRS = {
    ("linux", "x86_64"): "linux-64",
    ("linux", "aarch64"): "linux-aarch64",
    ("linux", "ppc64le"): "linux-ppc64le",
    ("darwin", "x86_64"): "osx-64",
    ("darwin", "arm64"): "osx-arm64",
    ("win32", "AMD64"): "win-64",
    ("win32", "ARM64"): "win-arm64",
}


def current_platform() -> str:
    """Return conda's name of this machine's platform, such as `linux-64`.

    Raises:
        HostError: conda-forge has no packages for this machine.
    """
    try:
        return SUBDIRS[sys.platform, host_platform.machine()]
    except KeyError:
        raise HostError(
            f"conda-forge has no packages for {sys.platform} on {host_platform.machine()}.", code="unknown-platform"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveRequest:
    """What to solve.

    Attributes:
        specs: match specs.
        channels: names or URLs, first wins (strict priority).
        platform: conda's name of the target platform; `noarch` is always added.
        pinned: packages that must stay as they are if they are part of the solution.
        exclude_newer: ISO 8601 date or date-time; packages uploaded later do not exist.
        offline: use only what is cached.
    """

    specs: Sequence[str]
    channels: Sequence[str]
    platform: str
    pinned: Sequence[LockedPackage] = ()
    exclude_newer: str = ""
    offline: bool = False


class Engine(Protocol):
    """Solves and installs. Every method raises `InstallError` or `HostError`, and nothing else."""

    name: str

    def version(self) -> str:
        """Return the engine's version, for `doctor`."""

    def for_locks(self) -> Mapping[str, Any]:
        """Return what a process that locks must know to solve with this engine, as JSON values; see `conda_shim.py`."""

    async def solve(self, request: SolveRequest, progress: ProgressCallback = no_progress) -> tuple[LockedPackage, ...]:
        """Return all packages of an environment that satisfies the request, in topological order."""

    def expected(self) -> AbstractAsyncContextManager[None]:
        """Return a context in which a call is expected: what it needs first is made ready in the background."""

    async def install(
        self, packages: Sequence[LockedPackage], prefix: Path, progress: ProgressCallback = no_progress
    ) -> None:
        """Make `prefix` hold exactly these packages, every archive's sha256 verified.

        The prefix is absent, or already holds some of the packages (then only the difference is touched). On failure or
        cancellation the prefix is in no defined state and its owner removes it; the package cache stays usable.
        """

    async def describe(
        self, channels: Sequence[str], platform: str, names: Collection[str]
    ) -> Mapping[str, PackageFacts]:
        """Return what the channels say of these names; names that no channel has are absent."""

    async def names(self, channels: Sequence[str], platform: str) -> frozenset[str]:
        """Return every package name that the channels have for the platform, `noarch` included."""
