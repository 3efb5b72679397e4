"""Makes the lock of a template: what conda-lock solves, the wheels of a `pip:` section, what other tools have locked.

Called by `provision.py` when a template is first wanted, and by `lock`. Builds an environment only through the function
it is given, and only for a `pip:` section, whose wheels are resolved against what conda has installed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from ..conda.engine import Engine
from ..conda.foreign_locks import complete_explicit, read_explicit, read_pixi_lock, virtual_packages
from ..conda.lock_writer import add_wheels, write_lock
from ..conda.lockfile import read_lock
from ..conda.locking import Locker
from ..conda.pypi import WheelInstaller
from ..errors import InstallError, RequestError
from ..models import Environment, LockedPackage, PlannedPackage, ProgressCallback
from ..portability import replace_file
from ..settings import Settings
from .store import host_errors
from .templates import Kind, Template

Build = Callable[[Sequence[LockedPackage], ProgressCallback], Awaitable[Environment]]
"""Makes an environment of exactly these packages."""

KNOWN_NEEDS = {"__cuda": "a GPU of NVIDIA with its driver"}


class TemplateLocker:
    """Makes the locks of templates; one for each provisioner.

    Args:
        settings: offline, pip.
        engine: completes explicit lists.
        locker: solves.
        wheels: resolves `pip:` sections.
        build: makes the environment that they are resolved against.
        platform: this machine's.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        engine: Engine,
        locker: Locker,
        wheels: WheelInstaller,
        build: Build,
        platform: str,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._locker = locker
        self._wheels = wheels
        self._build = build
        self._platform = platform

    async def lock(
        self,
        template: Template,
        platforms: Sequence[str],
        output: Path,
        progress: ProgressCallback,
        *,
        update: Sequence[str] = (),
        old: Path | None = None,
    ) -> None:
        """Write a template's lock, in one step at the end.

        Args:
            template: what to lock; a lock of another tool is imported.
            platforms: conda's names of platforms; wheels and locks of other tools are for this machine alone.
            output: the conda-lock.yml to write.
            progress: called while it goes on.
            update: if given, only these packages get other versions, and what must move with them.
            old: the lock whose versions are kept then.

        Raises:
            RequestError: something asked for cannot be had at all.
            InstallError: it cannot be solved, or what the lock pins cannot be verified.
            HostError: the machine cannot do it.
        """
        if template.is_lock:
            write_lock(output, {self._platform: await self._imported(template, progress)}, sources=[template.path.name])
            return
        if template.pip:
            self._check_pip(template, platforms)
        keep = kept_packages(old, platforms, update) if update and old is not None else {}
        half = output.with_name(f".half-{output.name}") if template.pip else output
        await self._locker.lock(template.path, template.channels, platforms, half, progress, keep=keep)
        if not template.pip:
            return
        try:
            wheels = await self._resolve(template, read_lock(half, self._platform), keep, progress)
            add_wheels(half, self._platform, wheels)
            with host_errors("The lock cannot be written"):
                replace_file(half, output)
        finally:
            half.unlink(missing_ok=True)

    async def check_machine(self, template: Template) -> None:
        """Refuse a template that needs what this machine does not have.

        Raises:
            InstallError: it does.
        """
        if not template.needs:
            return
        there = await virtual_packages()
        for need in template.needs:
            name, wanted = need_of(need)
            if name not in there or not wanted.contains(there[name], prereleases=True):
                has = f"has {name} {there[name]}" if name in there else "has none"
                what = KNOWN_NEEDS.get(name, "a virtual package of conda")
                raise InstallError(
                    f"The template {template.name} needs {need} ({what}), and this machine {has}.",
                    hint="Choose another template; `mcp-conda-run templates` lists them.",
                    code="machine-lacks",
                )

    async def _imported(self, template: Template, progress: ProgressCallback) -> tuple[LockedPackage, ...]:
        if template.kind is Kind.CONDA_LOCK:
            return read_lock(template.path, self._platform)
        if template.kind is Kind.PIXI_LOCK:
            return await read_pixi_lock(template.path, self._platform)
        rows = read_explicit(template.path, self._platform)
        offline = self._settings.offline
        return await complete_explicit(
            rows, template.path, self._engine, self._platform, offline=offline, progress=progress
        )

    def _check_pip(self, template: Template, platforms: Sequence[str]) -> None:
        if self._settings.pip == "off":
            raise pip_is_off(template)
        if foreign := [platform for platform in platforms if platform != self._platform]:
            raise RequestError(
                f"The `pip:` section of {template.path.name} can be locked only for {self._platform}, this machine, "
                f"not for {', '.join(foreign)}.",
                hint="Lock on each machine with an --output of its own, or name conda packages instead.",
                code="pip-not-supported",
            )

    async def _resolve(
        self,
        template: Template,
        packages: Sequence[LockedPackage],
        keep: dict[str, list[LockedPackage]],
        progress: ProgressCallback,
    ) -> tuple[LockedPackage, ...]:
        base = await self._build(packages, progress)
        before = {
            package.name: package.version for package in keep.get(self._platform, ()) if package.manager == "pypi"
        }
        wanted = [planned(text, before) for text in template.pip]
        return await self._wheels.resolve(wanted, base, progress)


def pip_is_off(template: Template) -> InstallError:
    """Return the error for a template with wheels where PyPI is switched off."""
    return InstallError(
        f"The template {template.name} has packages of PyPI, and the setting pip is `off`.",
        hint="Set MCP_CONDA_RUN_PIP=on, or name conda packages instead.",
        code="package-not-allowed",
    )


def need_of(need: str) -> tuple[str, SpecifierSet]:
    """Return the name of a virtual package and which versions of it are wanted.

    Raises:
        InstallError: the versions cannot be understood.
    """
    name = re.split(r"[^A-Za-z0-9_]", need, maxsplit=1)[0]
    try:
        return name, SpecifierSet(need[len(name) :].strip())
    except InvalidSpecifier:
        raise InstallError(
            f"{need!r} is not understood.", hint="Write `__cuda >=12` or `__cuda`.", code="bad-template"
        ) from None


def planned(text: str, before: dict[str, str]) -> PlannedPackage:
    """Return a requirement of a `pip:` section, bound to the version it had before where that still fits."""
    requirement = Requirement(text)
    had = before.get(canonicalize_name(requirement.name))
    if had is not None and requirement.specifier.contains(had, prereleases=True):
        requirement.specifier &= SpecifierSet(f"=={had}")
    return PlannedPackage(
        spec=str(requirement),
        name=str(canonicalize_name(requirement.name)),
        manager="pypi",
        decision="declared",
        reason="named by the template",
    )


def kept_packages(old: Path, platforms: Sequence[str], update: Sequence[str]) -> dict[str, list[LockedPackage]]:
    """Return by platform what a lock pins, but for the packages that are to be updated.

    Raises:
        RequestError: it does not pin one of these.
        InstallError: it cannot be read, or has nothing for a platform.
    """
    pinned = {platform: read_lock(old, platform) for platform in platforms}
    names = {package.name for packages in pinned.values() for package in packages}
    if unknown := [name for name in update if name.lower() not in names]:
        raise RequestError(
            f"The lock {old} does not pin {', '.join(unknown)}.",
            hint="Name packages that are in it, or lock without --update.",
            code="not-locked",
        )
    moving = {name.lower() for name in update}
    return {platform: [p for p in packages if p.name not in moving] for platform, packages in pinned.items()}
