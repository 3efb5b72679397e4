"""From a template and a plan to an environment: lock, solve, build, each done once for all callers.

The only part of this room that `runtime.py` talks to. What is solved comes from `solutions.py`; builds are shared by
all who want them, in `jobs.py`. `close` ends what is still going on.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..conda.access import Access
from ..conda.engine import Engine, current_platform
from ..conda.lockfile import read_lock
from ..conda.locking import Locker
from ..conda.mirrors import mirrors_of
from ..conda.pypi import WheelInstaller
from ..conda.trust import trust_variables
from ..models import Environment, LockedPackage, Plan, PlannedPackage, ProgressCallback
from ..settings import Settings
from .adopt import adopt
from .build import build_environment
from .care import after_build
from .jobs import Jobs
from .prefixes import state_key
from .solutions import Solutions
from .store import Store, environment_key
from .template_locking import TemplateLocker, pip_is_off
from .template_locks import serving_lock
from .templates import AUTO, DEFAULT, Kind, Template, find_template


@dataclass(frozen=True, slots=True)
class Provided:
    """An environment, and how it came about.

    Attributes:
        environment: ready to be used.
        template: what it is based on.
        added: the packages that it has and the template has not, or has in another version.
        built: whether it had to be made now.
        notes: what the user should know of how it was solved.
    """

    environment: Environment
    template: Template
    added: tuple[LockedPackage, ...] = ()
    built: bool = False
    notes: tuple[str, ...] = ()


class Provisioner:
    """Provides environments; one for each process and store."""

    def __init__(self, settings: Settings, store: Store, engine: Engine, access: Access | None = None) -> None:
        self._settings = settings
        self._access = access or Access()
        self._store = store
        self._engine = engine
        self._platform = current_platform()
        self._locker = Locker(
            store.repodata,
            timeout_s=settings.install_timeout_s,
            offline=settings.offline,
            exclude_newer=settings.exclude_newer,
            access=self._access,
            mirrors=mirrors_of(settings),
            variables=trust_variables(settings),
            solver=engine.for_locks(),
        )
        self._wheels = WheelInstaller(settings, store.pypi)
        self._templates = TemplateLocker(
            settings=settings,
            engine=engine,
            locker=self._locker,
            wheels=self._wheels,
            build=lambda packages, progress: self._build(packages, packages, progress),
            platform=self._platform,
        )
        self._solutions = Solutions(settings, store, engine, self._platform)
        self._jobs = Jobs()
        self._known: dict[Path, tuple[int, Environment]] = {}
        self._served: set[Path] = set()

    @property
    def platform(self) -> str:
        """Return conda's name of the platform that environments are made for."""
        return self._platform

    def template(self, name: str | None) -> Template:
        """Return a template by name or path, with the configured channels; `auto` is the smallest, `base`.

        Raises:
            RequestError: there is none, or it cannot be used.
        """
        name = name or self._settings.template
        found = find_template(DEFAULT if name == AUTO else name, self._settings.channels, self._settings.templates_dir)
        channels = tuple(self._access.learn(found.channels))
        return found if channels == found.channels else replace(found, channels=channels)

    async def base(self, template: Template, progress: ProgressCallback) -> Provided:
        """Return the template's own environment: locked, installed and compiled now if it was not before.

        Raises:
            InstallError: it cannot be locked or installed.
            HostError: the machine cannot do it.
        """
        if template.kind is Kind.PREFIX:
            return await self._adopted(template, progress)
        find = partial(serving_lock, template, self._store, self._settings, self._platform)
        serving = find() if template.path in self._served else await asyncio.to_thread(find)
        self._served.add(template.path)  # from now on it costs a few calls of stat(2)
        lock, notes = serving.path, (serving.note,) if serving.note else ()
        ready = self._known_base(lock) or await self._read_base(lock)
        if ready is not None:
            self._check_wheels(template, ready.packages)
            return Provided(ready, _as_locked(template, ready), notes=notes)

        async def make(tell: ProgressCallback) -> Environment:
            await self._templates.check_machine(template)
            if not lock.exists():
                await self.lock(template, [self._platform], lock, tell)
            packages = read_lock(lock, self._platform)
            self._check_wheels(template, packages)
            return await self._build_locked(packages, tell)

        environment = await self._jobs.shared(f"template {lock}", make, progress)
        return Provided(environment, _as_locked(template, environment), built=True, notes=notes)

    async def _adopted(self, template: Template, progress: ProgressCallback) -> Provided:
        """Return our copy of an environment of the user's, in the state in which it is now."""
        key = await asyncio.to_thread(state_key, template.path)
        template = replace(template, digest=key)
        ready = self._store.claim(key)
        if ready is not None:
            return Provided(ready, _as_locked(template, ready))

        async def make(tell: ProgressCallback) -> Environment:
            return await adopt(self._store, template.path, key, tell)

        environment = await self._jobs.shared(f"environment {key}", make, progress)
        return Provided(environment, _as_locked(template, environment), built=True)

    async def extended(
        self, base: Provided, plan: Plan, progress: ProgressCallback, *, alone: bool = False
    ) -> Provided:
        """Return an environment with the template's packages and those of the plan.

        The template's versions are kept; where that cannot be, its specs are, and the notes say so. With `alone` the
        plan is all there is: python, what it names, and nothing of the template. Packages of PyPI come last, on top of
        what conda has made of the rest.

        Raises:
            InstallError: there is no such set, or it cannot be installed.
            HostError: the machine cannot do it.
        """
        provided = base
        if alone or plan.python or any(package.manager == "conda" for package in plan.packages):
            provided = await self._with_conda(base, plan, progress, alone=alone)
        wanted = [package for package in plan.packages if package.manager == "pypi"]
        return await self._with_wheels(provided, wanted, progress) if wanted else provided

    async def exactly(
        self, template: Template, packages: Sequence[LockedPackage], progress: ProgressCallback
    ) -> Provided:
        """Return an environment of exactly these packages, of conda and of PyPI; the template only gives it a name.

        Raises:
            InstallError: they cannot be fetched, verified or installed.
            HostError: the machine cannot do it.
        """
        key = environment_key(packages)
        ready = self._store.claim(key)
        if ready is not None:
            return Provided(ready, template)
        wheels = self._wheels if _has_wheels(packages) else None

        async def make(tell: ProgressCallback) -> Environment:
            return await self._build(packages, packages, tell, wheels=wheels)

        environment = await self._jobs.shared(f"environment {key}", make, progress)
        return Provided(environment, template, built=True)

    async def solution(
        self, base: Provided, plan: Plan, progress: ProgressCallback, *, alone: bool = False
    ) -> tuple[LockedPackage, ...]:
        """Return the conda packages that `extended` would add to the template's; install nothing.

        Raises:
            InstallError: there is no such set, or the channels cannot be asked.
        """
        if not (alone or plan.python or any(package.manager == "conda" for package in plan.packages)):
            return ()
        packages, _ = await self._solutions.of_plan(base.environment, base.template, plan, progress, alone=alone)
        return _added(base.environment, packages)

    async def foreseen(
        self, base: Provided, plan: Plan, progress: ProgressCallback, *, alone: bool = False
    ) -> tuple[LockedPackage, ...]:
        """Return the wheels that PyPI's packages of a plan come to, on the template as it is; fetch none of them.

        Raises:
            InstallError: they cannot be had, or the index cannot be asked.
        """
        wanted = [package for package in plan.packages if package.manager == "pypi"]
        if not wanted:
            return ()
        question = hashlib.sha256(f"{self._wheels.question(wanted, base.environment)} {alone}".encode()).hexdigest()
        wheels = self._solutions.remembered(question[:32])
        if wheels is None:
            wheels = await self._wheels.foresee(wanted, base.environment, progress, alone=alone)
            self._solutions.remember(question[:32], wheels)
        return wheels

    async def _with_conda(self, base: Provided, plan: Plan, progress: ProgressCallback, *, alone: bool) -> Provided:
        solved, relaxed = await self._solutions.of_plan(base.environment, base.template, plan, progress, alone=alone)
        own_wheels = () if alone else _wheels_beside(base.environment, solved)
        packages = (*solved, *own_wheels)
        key = environment_key(packages) if alone else _key(base.template, packages)
        added = _added(base.environment, packages)
        notes = relaxed if alone else (*relaxed, *_changed_versions(base.environment, packages))
        ready = self._store.claim(key)
        if ready is not None:
            return Provided(ready, base.template, added, notes=notes)
        kept = len(packages) - len(added)

        async def make(tell: ProgressCallback) -> Environment:
            cloned = base.environment if kept > len(added) and not _has_wheels(base.environment.packages) else None
            if base.template.kind is Kind.PREFIX:  # it may have what no package says
                cloned = None if alone else base.environment
            own = self._wheels if own_wheels else None
            return await self._build(packages, added, tell, base=cloned, wheels=own, key=key)

        environment = await self._jobs.shared(f"environment {key}", make, progress)
        return Provided(environment, base.template, added, built=True, notes=notes)

    async def _with_wheels(
        self, base: Provided, wanted: Sequence[PlannedPackage], progress: ProgressCallback
    ) -> Provided:
        question = self._wheels.question(wanted, base.environment)
        wheels = self._solutions.remembered(question)
        if wheels is None:
            wheels = await self._wheels.resolve(wanted, base.environment, progress)
            self._solutions.remember(question, wheels)
        if not wheels:
            return base
        packages = (*base.environment.packages, *wheels)
        key = _key(base.template, packages)
        ready = self._store.claim(key)

        async def make(tell: ProgressCallback) -> Environment:
            cloned = None if _has_wheels(base.environment.packages) else base.environment
            return await self._build(packages, wheels, tell, base=cloned, wheels=self._wheels, key=key)

        environment = ready or await self._jobs.shared(f"environment {key}", make, progress)
        return replace(base, environment=environment, added=(*base.added, *wheels), built=base.built or ready is None)

    def lock_path(self, template: Template) -> Path:
        """Return where the template's lock for this platform is, or would be."""
        return serving_lock(template, self._store, self._settings, self._platform).path

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
        """Write the template's conda-lock.yml for these platforms; see `TemplateLocker.lock`."""
        await self._templates.lock(template, platforms, output, progress, update=update, old=old)

    async def close(self) -> None:
        """End every build that is still going on; nothing of them stays."""
        await self._jobs.close()

    async def _build_locked(self, packages: Sequence[LockedPackage], progress: ProgressCallback) -> Environment:
        """Make what a lock pins; its wheels go on top of what locking has installed to resolve them, if it has."""
        if not _has_wheels(packages):
            return await self._build(packages, packages, progress)
        conda = self._store.claim(environment_key([p for p in packages if p.manager == "conda"]))
        return await self._build(packages, packages, progress, base=conda, wheels=self._wheels)

    def _check_wheels(self, template: Template, packages: Sequence[LockedPackage]) -> None:
        """Refuse a template with packages of PyPI where these are switched off."""
        if self._settings.pip == "off" and _has_wheels(packages):
            raise pip_is_off(template)

    # --- building -------------------------------------------------------------------------------------------------

    async def _build(
        self,
        packages: Sequence[LockedPackage],
        added: Sequence[LockedPackage],
        progress: ProgressCallback,
        *,
        base: Environment | None = None,
        wheels: WheelInstaller | None = None,
        key: str = "",
    ) -> Environment:
        """Make an environment; `added` are the packages that the store has not had in an environment before."""
        if base is not None and len(os.fsencode(base.prefix)) != len(os.fsencode(self._store.prefix(base.key))):
            base = None  # one of a layer, whose path cannot be replaced by ours inside of binaries
        environment = await build_environment(
            self._store, self._engine, packages, base=base, wheels=wheels, key=key, progress=progress
        )
        await asyncio.to_thread(after_build, self._store, self._settings, added)
        return environment

    def _known_base(self, lock: Path) -> Environment | None:
        """Return the environment of a lock if it was found before and is still there."""
        with suppress(OSError):
            stamp, environment = self._known.get(lock, (0, None))
            if environment is not None and lock.stat().st_mtime_ns == stamp:
                self._store.uses.claim(environment.key)
                if environment.prefix.with_name(f"{environment.key}.json").exists():
                    return environment
        return None

    async def _read_base(self, lock: Path) -> Environment | None:
        """Return the environment of a lock if it is ready."""
        try:
            stamp = os.stat(lock).st_mtime_ns
        except OSError:
            return None
        packages = await asyncio.to_thread(read_lock, lock, self._platform)
        environment = self._store.claim(environment_key(packages))
        if environment is not None:
            self._known[lock] = (stamp, environment)
        return environment


def _as_locked(template: Template, environment: Environment) -> Template:
    """Return a template that is a lock with specs and channels: all that it pins, and where that is from."""
    if not template.is_lock:
        return template
    packages = [package for package in environment.packages if package.manager == "conda"]
    channels = [package.channel for package in packages]
    return replace(
        template,
        specs=tuple(f"{package.name} =={package.version}" for package in packages),
        channels=template.channels or tuple(sorted(set(channels), key=channels.count, reverse=True)),
    )


def _key(template: Template, packages: Sequence[LockedPackage]) -> str:
    """Return the key of an environment on top of a template; a copy of the user's has more than packages in it."""
    key = environment_key(packages)
    if template.kind is not Kind.PREFIX:
        return key
    return hashlib.sha256(f"{template.digest} {key}".encode()).hexdigest()[:16]


def _has_wheels(packages: Sequence[LockedPackage]) -> bool:
    return any(package.manager == "pypi" for package in packages)


def _wheels_beside(before: Environment, solved: Sequence[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return the wheels of an environment that stay beside a new solution; conda's packages of the same name win."""
    names = {package.name for package in solved}
    return tuple(p for p in before.packages if p.manager == "pypi" and p.name not in names)


def _added(before: Environment, packages: Sequence[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return the packages that are not in the environment, or in it with another archive."""
    there = {(package.name, package.url) for package in before.packages}
    return tuple(package for package in packages if (package.name, package.url) not in there)


def _changed_versions(before: Environment, packages: Sequence[LockedPackage]) -> tuple[str, ...]:
    """Say which of the template's packages are there in another version, because its own did not fit."""
    own = {package.name: package.version for package in before.packages}
    changed = [
        f"{package.name} {package.version} instead of {own[package.name]}"
        for package in packages
        if own.get(package.name, package.version) != package.version
    ]
    return (f"Other versions than the template's were needed: {', '.join(changed)}.",) if changed else ()
