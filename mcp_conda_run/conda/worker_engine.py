"""The host's side of the engines: starts, feeds, bounds and ends a child process for each request (`worker.py`).

The engines (`rattler.py`, `micromamba.py`) only say what the child must know of them; answers become plain data here.
Credentials of channels go to the child through its stdin alone, and come back in nothing. Never loads py-rattler.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import HostError, InstallError
from ..models import LockedPackage, PackageFacts, Progress, ProgressCallback, no_progress
from .access import Access
from .asking import absolute, ask
from .engine import SolveRequest
from .process import Child, child_environment, module_command, s3_variables, start_child


class WorkerEngine:
    """What the engines share of the protocol `Engine` (see `engine.py`).

    Args:
        pkgs: the package cache; on the file system of the prefixes, so that files can be hard-linked.
        repodata: the cache of what the channels say.
        timeout_s: how long one call may take, in seconds.
        offline: never use the network, whatever the request says.
        access: how channels are reached: addresses, credentials, proxies, certificates.
        layers: further package caches, which are read and never written.
    """

    def __init__(
        self,
        pkgs: Path,
        repodata: Path,
        *,
        timeout_s: float = 900,
        offline: bool = False,
        access: Access | None = None,
        layers: Sequence[Path] = (),
    ) -> None:
        self._pkgs = pkgs.absolute()
        self._repodata = repodata.absolute()
        self._timeout_s = timeout_s
        self._offline = offline
        self._access = access or Access()
        self._layers = [absolute(layer) for layer in layers]
        self._expecting: list[asyncio.Task[Child]] = []

    @asynccontextmanager
    async def expected(self) -> AsyncIterator[None]:
        """Have the process for a request that comes in this context start already, while something else is done."""
        if self._access.as_request()["credentials"]:  # they must be there before py-rattler is loaded
            yield
            return
        command = module_command("worker", "main_with_engine")
        starting = asyncio.create_task(start_child(command, self._environment()), name="expected-worker")
        self._expecting.append(starting)
        try:
            yield
        finally:
            if starting in self._expecting:
                self._expecting.remove(starting)
                await _end(starting)

    async def solve(self, request: SolveRequest, progress: ProgressCallback = no_progress) -> tuple[LockedPackage, ...]:
        """Return all packages of an environment that satisfies the request, in topological order."""
        specs = [self._access.spec(spec) for spec in request.specs]
        progress(Progress("solve", f"Solving {', '.join(specs)}"))
        answer = await self._call(
            "solve",
            progress,
            specs=specs,
            channels=self._access.learn(request.channels),
            platform=request.platform,
            pinned=[asdict(package) for package in request.pinned],
            exclude_newer=request.exclude_newer,
            offline=request.offline or self._offline,
        )
        packages = tuple(LockedPackage(**{**row, "depends": tuple(row["depends"])}) for row in answer)
        progress(Progress("solve", f"Solved: {len(packages)} packages", len(packages), len(packages), "packages"))
        return packages

    async def install(
        self, packages: Sequence[LockedPackage], prefix: Path, progress: ProgressCallback = no_progress
    ) -> None:
        """Make `prefix` hold exactly these packages, every archive's sha256 verified."""
        rows = [asdict(package) | {"url": self._access.learn_url(package.url)} for package in packages]
        await self._call("install", progress, packages=rows, prefix=absolute(prefix), offline=self._offline)

    async def describe(
        self, channels: Sequence[str], platform: str, names: Collection[str]
    ) -> Mapping[str, PackageFacts]:
        """Return what the channels say of these names; names that no channel has are absent."""
        answer = await self._call(
            "describe",
            no_progress,
            channels=self._access.learn(channels),
            platform=platform,
            names=sorted(names),
            offline=self._offline,
        )
        return {name: PackageFacts(**facts) for name, facts in answer.items()}

    async def names(self, channels: Sequence[str], platform: str) -> frozenset[str]:
        """Return every package name that the channels have for the platform, `noarch` included."""
        clean = self._access.learn(channels)
        answer = await self._call("names", no_progress, channels=clean, platform=platform, offline=self._offline)
        return frozenset(answer)

    def _more(self) -> dict[str, Any]:
        """Return what the child must know of this engine beyond the caches."""
        return {}

    async def _call(self, operation: str, progress: ProgressCallback, **request: Any) -> Any:
        """Let a worker answer one request.

        Raises:
            InstallError: the worker says so, or it took too long.
            HostError: the worker says so, or it died.
        """
        request |= {"operation": operation, "pkgs": str(self._pkgs), "repodata": str(self._repodata)}
        request |= {"layers": self._layers, **self._access.as_request(), **self._more()}
        places = [*request.get("channels", ()), *(row["url"] for row in request.get("packages", ()))]
        environment = self._environment(places)
        try:
            return await ask(
                "worker",
                request,
                environment=environment,
                timeout_s=self._timeout_s,
                progress=progress,
                started=await self._started(environment),
            )
        except TimeoutError:
            raise InstallError(
                f"The package engine did not finish within {self._timeout_s:g} s.",
                hint="Try again (what was fetched is kept), or raise MCP_CONDA_RUN_INSTALL_TIMEOUT_S.",
                code="install-timeout",
            ) from None

    def _environment(self, places: Sequence[str] = ()) -> dict[str, str]:
        """Return the environment variables of a worker that has to do with channels and archives at these places."""
        return child_environment(
            RATTLER_CACHE_DIR=str(self._repodata), **s3_variables(places), **self._access.environment
        )

    async def _started(self, environment: Mapping[str, str]) -> Child | None:
        """Return a worker that was expected to be needed, if there is one that fits."""
        if not self._expecting:
            return None
        starting = self._expecting.pop(0)
        try:
            child = await asyncio.shield(starting)
        except HostError:
            return None
        except asyncio.CancelledError:
            await _end(starting)
            raise
        if child.environment == environment and child.process.returncode is None:
            return child
        await child.end()
        return None


async def _end(starting: asyncio.Task[Child]) -> None:
    """End a worker that is not needed."""
    with suppress(HostError):
        await (await asyncio.shield(starting)).end()
