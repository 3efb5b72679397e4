"""Solves what a plan adds to a template, and remembers the answers in the store, so that they are not asked for again.

`provision.py` asks, and builds what comes out. Installs nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace

from ..conda.engine import Engine, SolveRequest
from ..errors import InstallError
from ..models import Environment, LockedPackage, Plan, Progress, ProgressCallback
from ..settings import Settings
from .store import Store, environment_key
from .templates import Template


class Solutions:
    """Answers to what goes with what; one for each provisioner.

    Args:
        settings: how old an answer may be, offline, `exclude_newer`.
        store: remembers them.
        engine: solves.
        platform: this machine's.
    """

    def __init__(self, settings: Settings, store: Store, engine: Engine, platform: str) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._platform = platform

    async def of_plan(
        self, base: Environment, template: Template, plan: Plan, progress: ProgressCallback, *, alone: bool
    ) -> tuple[tuple[LockedPackage, ...], tuple[str, ...]]:
        """Return the conda packages, and a note where builds that the plan prefers could not be had.

        Raises:
            InstallError: there is no such set, or the channels cannot be asked.
        """
        try:
            return await self._solve(self._question(base, template, plan, alone=alone), progress), ()
        except InstallError as error:
            preferred = [package for package in plan.packages if package.fallback]
            if error.code != "unsatisfiable" or not preferred:
                raise
        packages = tuple(replace(item, spec=item.fallback or item.spec) for item in plan.packages)
        question = self._question(base, template, replace(plan, packages=packages), alone=alone)
        solved = await self._solve(question, progress)
        names = ", ".join(package.spec for package in preferred)
        return solved, (f"There is no set of packages with {names}; other builds or versions were taken.",)

    def remembered(self, question: str) -> tuple[LockedPackage, ...] | None:
        """Return the answer to a question, unless it was never asked or is too old; offline there is no newer one."""
        return self._store.solution(question, math.inf if self._settings.offline else self._settings.solution_max_age_s)

    def remember(self, question: str, packages: Sequence[LockedPackage]) -> None:
        """Remember an answer."""
        self._store.remember_solution(question, packages)

    def _question(self, base: Environment, template: Template, plan: Plan, *, alone: bool) -> SolveRequest:
        """Return what to solve: the plan's specs on top of the template's, or beside a Python of the same line."""
        minor = ".".join(base.python_version.split(".")[:2])
        wanted = [package.spec for package in plan.packages if package.manager == "conda"]
        if plan.python or alone:
            wanted.append(f"python {plan.python or f'={minor}'}")
        channels = (*template.channels, *(name for name in plan.channels if name not in template.channels))
        return SolveRequest(
            specs=wanted if alone else [*template.specs, *wanted],
            channels=channels,
            platform=self._platform,
            pinned=() if alone else [p for p in base.packages if p.manager == "conda"],
            exclude_newer=self._settings.exclude_newer,
            offline=self._settings.offline,
        )

    async def _solve(self, request: SolveRequest, progress: ProgressCallback) -> tuple[LockedPackage, ...]:
        """Return the packages; what was solved before is not solved again for some time."""
        question = _digest(request)
        known = self.remembered(question)
        if known is not None:
            return known
        progress(Progress("solve", f"solving for {', '.join(request.specs)}"))
        try:
            packages = await self._engine.solve(request, progress)
        except InstallError as error:
            if error.code != "unsatisfiable" or not request.pinned:
                raise
            packages = await self._engine.solve(replace(request, pinned=()), progress)
        self.remember(question, packages)
        return packages


def _digest(request: SolveRequest) -> str:
    pinned = environment_key(request.pinned)
    question = [list(request.specs), list(request.channels), request.platform, pinned, request.exclude_newer]
    return hashlib.sha256(json.dumps(question).encode()).hexdigest()[:32]
