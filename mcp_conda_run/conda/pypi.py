"""Wheels of PyPI for an environment: requirements become pinned, verified wheels, and these are added to a prefix.

Called by `environments/`. All work happens in a killable child (`pypi_worker.py`). Wheels only, from one index, old
enough, and never in the place of anything that conda installed; nothing of a package runs while this goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from ..errors import InstallError
from ..models import Environment, LockedPackage, PlannedPackage, ProgressCallback, no_progress
from ..settings import Settings
from .asking import absolute, ask
from .process import child_environment
from .pypi_faults import timed_out
from .pypi_index import Index, find_index
from .trust import trust_variables


class WheelInstaller:
    """Resolves and installs wheels under the settings; keeps what it fetched below `cache`.

    Args:
        settings: index, cool-down, minimal age, deny list, time-out, offline.
        cache: where the index's answers and the wheels are kept; removing it is always safe.
    """

    def __init__(self, settings: Settings, cache: Path) -> None:
        self._cache = cache.absolute()
        self._named_index = settings.pypi_index
        self._timeout_s = settings.install_timeout_s
        self._offline = settings.offline
        self._variables = trust_variables(settings)
        denied = (name.partition(":")[2] for name in settings.deny_packages if name.lower().startswith("pypi:"))
        self._rules: dict[str, Any] = {
            "cooldown_days": settings.pip_cooldown_days,
            "min_age_days": settings.pip_min_age_days,
            "exclude_newer": settings.exclude_newer,
            "deny": sorted(str(canonicalize_name(name.strip())) for name in denied),
        }

    def question(self, wanted: Sequence[PlannedPackage], base: Environment) -> str:
        """Return a digest of all that `resolve` depends on but the time and the index's content."""
        rows = sorted([package.spec, package.import_name] for package in wanted)
        text = json.dumps(["pypi", rows, base.key, self._index.url, self._rules], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    async def resolve(
        self, wanted: Sequence[PlannedPackage], base: Environment, progress: ProgressCallback = no_progress
    ) -> tuple[LockedPackage, ...]:
        """Return the wheels to add to an environment so that it satisfies the requirements; none if it does already.

        They have been fetched and looked into: where an import name is given, the wheel has that module.

        Args:
            wanted: packages of PyPI; the specs are requirements (PEP 508).
            base: what they are to be added to; every package in it stays as it is.
            progress: called while it goes on.

        Raises:
            InstallError: `pypi-not-found`, `pypi-too-new`, `pypi-quarantined`, `pypi-no-wheel`, `pypi-wrong-module`,
                `pypi-conflict`, `pypi-bad-wheel`, `pypi-unreachable`, `pypi-timeout`, `checksum-mismatch`,
                `offline-missing` or `package-not-allowed`.
            HostError: the disk is full, or the worker died.
        """
        rows = [{"spec": package.spec, "import_name": package.import_name} for package in wanted]
        place = {"prefix": absolute(base.prefix), "python": base.python_version}
        answer = await self._call("resolve", progress, wanted=rows, **place)
        return tuple(LockedPackage(**{**row, "depends": tuple(row["depends"])}) for row in answer)

    async def foresee(
        self,
        wanted: Sequence[PlannedPackage],
        base: Environment,
        progress: ProgressCallback = no_progress,
        *,
        alone: bool = False,
    ) -> tuple[LockedPackage, ...]:
        """Return what `resolve` would, without fetching it, so without a look into it.

        Args:
            wanted: as for `resolve`.
            base: as for `resolve`.
            progress: called while it goes on.
            alone: take nothing of the environment as given but its Python.

        Raises:
            InstallError: as for `resolve`, but for what is in the wheels.
            HostError: the worker died.
        """
        rows = [{"spec": package.spec, "import_name": package.import_name} for package in wanted]
        place = {"prefix": absolute(base.prefix), "python": base.python_version}
        answer = await self._call("foresee", progress, wanted=rows, alone=alone, **place)
        return tuple(LockedPackage(**{**row, "depends": tuple(row["depends"])}) for row in answer)

    async def install(
        self, wheels: Sequence[LockedPackage], prefix: Path, python: str, progress: ProgressCallback = no_progress
    ) -> None:
        """Add exactly these wheels to a prefix with this Python, such as `3.12.1`.

        On failure or cancellation the prefix is in no defined state and its owner removes it.

        Raises:
            InstallError: as for `resolve`.
            HostError: the disk is full, or the worker died.
        """
        rows = [asdict(wheel) for wheel in wheels]
        await self._call("install", progress, wheels=rows, prefix=absolute(prefix), python=python)

    @cached_property
    def _index(self) -> Index:
        return find_index(self._named_index)

    async def _call(self, operation: str, progress: ProgressCallback, **request: Any) -> Any:
        if not self._index.url.startswith(("https://", "http://")):
            raise InstallError(
                f"The PyPI index that {self._index.source} names is not reached over HTTP, so it cannot be used.",
                hint="Name one with MCP_CONDA_RUN_PYPI_INDEX, such as https://mirror.example/simple.",
                code="pypi-unreachable",
            )
        request |= {"operation": operation, "cache": str(self._cache), "offline": self._offline}
        request |= {**self._rules, "index": self._index.url}
        try:
            return await ask(
                "pypi_worker",
                request,
                environment=child_environment(**self._variables),
                timeout_s=self._timeout_s,
                progress=progress,
            )
        except TimeoutError:
            raise timed_out(self._index.url, self._timeout_s) from None
