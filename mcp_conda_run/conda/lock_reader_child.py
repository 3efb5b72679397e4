"""Reads what only py-rattler can read: pixi.lock files, and this machine's virtual packages; in a process of its own.

Started by `foreign_locks.py`, one request a process. A file that crashes the parser, or keeps it busy, takes nothing
along. Lines written: `{"result": ...}` or `{"error": {...}}`, as in `worker.py`. Ends by `os._exit`, as that does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import InstallError
from ..models import LockedPackage
from . import lifeline
from .redact import redact
from .worker import Answers, as_error

if TYPE_CHECKING:
    from rattler.lock import Environment, LockPlatform, PypiLockedPackage


def read_pixi_lock(path: Path, platform: str) -> list[dict[str, Any]]:
    """Return the packages that the default environment of a pixi.lock pins for a platform.

    Raises:
        InstallError: it cannot be read, or has no such environment or platform, or pins what is no wheel.
    """
    from rattler import LockFile  # noqa: PLC0415 - its failure to load must become an answer

    try:
        lock = LockFile.from_path(path)
        environments = dict(lock.environments())
    except Exception as error:
        raise unusable(path, redact(str(error)).splitlines()[0][:300]) from error
    environment = environments.get("default") or (next(iter(environments.values())) if len(environments) == 1 else None)
    if environment is None:
        raise unusable(path, f"of its environments ({', '.join(environments)[:200]}) none is called default")
    place = place_of(environment, platform)
    if place is None:
        known = ", ".join(sorted(each.name for each in environment.platforms())) or "no platform"
        raise InstallError(
            f"The lock {path} has no packages for {platform}, only for {known}.",
            hint="Add the platform to pixi's manifest, then run `pixi lock`.",
            code="lock-without-platform",
        )
    return [asdict(package) for package in packages_of(environment, place, path)]


def place_of(environment: Environment, platform: str) -> LockPlatform | None:
    """Return the environment's platform of this name; pixi may give platforms names of their own."""
    platforms = environment.platforms()
    named = [each for each in platforms if each.name == platform]
    return next(iter(named or [each for each in platforms if str(each.subdir) == platform]), None)


def packages_of(environment: Environment, place: LockPlatform, path: Path) -> list[LockedPackage]:
    """Return conda's packages, dependencies first, then the wheels."""
    from .records import from_record, topological  # noqa: PLC0415

    try:
        records = environment.conda_repodata_records_for_platform(place) or []
    except Exception as error:
        raise unusable(path, redact(str(error)).splitlines()[0][:300]) from error
    packages = [from_record(record, {}) for record in topological(records)]
    return packages + [wheel_of(row, path) for row in environment.pypi_packages_for_platform(place) or []]


def wheel_of(row: PypiLockedPackage, path: Path) -> LockedPackage:
    """Return a package of PyPI; `lockfile.py` looks at its address when the imported lock is read."""
    try:
        sha256 = row.hashes.sha256 if row.hashes is not None else None
    except AttributeError:  # how py-rattler 0.28 says that there are none
        sha256 = None
    if sha256 is None or not row.location.startswith(("https://", "http://")):
        raise InstallError(
            f"The lock {path} pins {row.name} of PyPI as {redact(row.location)[:200]!r}: no wheel with a digest.",
            hint="Only wheels are installed: no directories, and nothing from a version control system.",
            code="pip-not-supported",
        )
    return LockedPackage(
        name=row.name, version=str(row.version), channel="pypi", url=row.location, sha256=sha256.hex(), manager="pypi"
    )


def unusable(path: Path, reason: str) -> InstallError:
    """Return the error for a file that is no pixi.lock."""
    return InstallError(
        f"The lock {path} cannot be used: {reason}.", hint="Make it again with `pixi lock`.", code="bad-lock"
    )


def virtual_packages() -> dict[str, str]:
    """Return name and version of what this machine offers; CONDA_OVERRIDE_* wins."""
    from .engine import current_platform  # noqa: PLC0415
    from .solving import virtual_packages as detected  # noqa: PLC0415

    return {package.name.normalized: str(package.version) for package in detected(current_platform(), None)}


def answer(request: Mapping[str, Any]) -> Any:
    """Do what the request asks for."""
    if request["operation"] == "pixi":
        return read_pixi_lock(Path(request["path"]), request["platform"])
    return virtual_packages()


def main() -> NoReturn:
    """Serve one request."""
    answers = Answers(lifeline.take_stdout())
    try:
        answers.write(result=answer(lifeline.take_request()))
    except Exception as error:  # noqa: BLE001 - every failure is an answer
        answers.write(error=as_error(error))
    os._exit(0)
