"""The host's side of the engines: starts, feeds, bounds and ends a child process for each request (`worker.py`).

The engines (`rattler.py`, `micromamba.py`) only say what the child must know of them; answers become plain data here.
Credentials of channels go to the child through its stdin alone, and come back in nothing. Never loads py-rattler.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import HostError, InstallError
from ..models import LockedPackage, PackageFacts, Progress, ProgressCallback, no_progress
from .access import Access
from .engine import SolveRequest
from .process import Ended, child_environment, module_command, run_child, s3_variables

log = logging.getLogger(__name__)


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
        last: dict[str, Any] = {}

        def on_line(line: bytes) -> None:
            message = json.loads(line)
            if "progress" in message:
                progress(Progress(**message["progress"]))
            else:
                last.update(message)

        try:
            ended = await run_child(
                module_command("worker"),
                request,
                environment=child_environment(
                    RATTLER_CACHE_DIR=str(self._repodata), **s3_variables(places), **self._access.environment
                ),
                timeout_s=self._timeout_s,
                on_line=on_line,
            )
        except TimeoutError:
            raise InstallError(
                f"The package engine did not finish within {self._timeout_s:g} s.",
                hint="Try again (what was fetched is kept), or raise MCP_CONDA_RUN_INSTALL_TIMEOUT_S.",
                code="install-timeout",
            ) from None
        if ended.stderr:
            log.debug("The engine's worker wrote: %s", ended.stderr)
        if "error" in last:
            raise as_exception(last["error"])
        if "result" not in last:
            raise crashed(ended)
        return last["result"]


def absolute(path: Path) -> str:
    """Return the path as the worker needs it, without following links."""
    return str(path.absolute())


def as_exception(error: Mapping[str, str]) -> InstallError | HostError:
    """Return the error that the worker described."""
    kind = InstallError if error["kind"] == "install" else HostError
    return kind(error["message"], hint=error["hint"], details=error["details"], code=error["code"])


def crashed(ended: Ended) -> HostError:
    """Return the error for a worker that ended without an answer."""
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
    return HostError(
        f"The package engine's process died ({how}).",
        hint="Try again; if a signal 9 ended it, the machine may be out of memory.",
        details="\n".join(ended.stderr.splitlines()[-5:]),
        code="engine-crashed",
    )
