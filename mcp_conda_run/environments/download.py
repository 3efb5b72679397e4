"""Fetches what environments need into the caches and makes none of them: for `warmup --download-only`.

The packages are linked once into a throw-away prefix, which is how every engine fills its cache. What the channels say
of them is cached on the way, so that the same set can be solved offline later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..conda.engine import Engine, SolveRequest
from ..conda.lockfile import read_lock
from ..models import LockedPackage, ProgressCallback
from ..settings import Settings
from .provision import Provisioner
from .store import Store
from .template_locks import serving_lock
from .templates import Template


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What is in the caches now: the conda packages, and the names of wheels, which come with their environment."""

    packages: tuple[LockedPackage, ...]
    wheels: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Return the size of all archives, as far as it is known."""
        return sum(package.size_bytes for package in self.packages)


async def download(
    provisioner: Provisioner,
    template: Template,
    specs: Sequence[str],
    *,
    settings: Settings,
    store: Store,
    engine: Engine,
    progress: ProgressCallback,
) -> Downloaded:
    """Fetch all conda packages of a template, and of match specs on top of it.

    Raises:
        InstallError: something cannot be locked, solved or fetched.
        HostError: the disk is full.
    """
    platform = provisioner.platform
    lock = serving_lock(template, store, settings, platform).path
    if not lock.exists():
        await provisioner.lock(template, [platform], lock, progress)
    locked = read_lock(lock, platform)
    own = tuple(package for package in locked if package.manager == "conda")
    sets = [own]
    if specs:
        request = SolveRequest(
            specs=[*template.specs, *specs],
            channels=template.channels,
            platform=platform,
            pinned=own,
            exclude_newer=settings.exclude_newer,
            offline=settings.offline,
        )
        sets.append(await engine.solve(request, progress))
    prefix = store.scratch / store.new_run_id()
    try:
        for packages in sets:
            await engine.install(packages, prefix, progress)
    finally:
        store.trash.discard(prefix)
    fetched = {package.sha256: package for packages in sets for package in packages}
    return Downloaded(tuple(fetched.values()), tuple(p.name for p in locked if p.manager == "pypi"))
