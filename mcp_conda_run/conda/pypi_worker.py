"""The child process for PyPI: resolves requirements into wheels, or installs wheels; one request, then it ends.

Started by `pypi.py` through `process.py`, and killed with its whole group, uv included, when nobody wants the answer
any more. No code of a package runs here: there are wheels only, they are unpacked and not imported, and the
environment's interpreter, which uv asks what it is, starts only while the wheels are not there yet.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from ..errors import HostError, InstallError
from ..models import LockedPackage, Progress
from ..portability import PYTHON
from . import lifeline
from .faults import offline_missing
from .pypi_faults import bad_wheel, conflict
from .pypi_projects import (
    SHA256,
    File,
    Gate,
    Projects,
    basename,
    check_requirement,
    choose_wheel,
    moment,
    normalized,
    target_tags,
)
from .pypi_uv import Uv
from .pypi_web import Web
from .pypi_wheels import Contents, Place, has_module, inspect_wheel
from .worker import Answers, as_error, cut_off_network

DOWNLOADS_AT_ONCE = 4
Stamp = tuple[int, int, int]


def make_gate(request: Mapping[str, Any]) -> Gate:
    """Return the gate that the request describes, as of now."""
    now = datetime.now(UTC)
    cutoffs = [now - timedelta(days=request["cooldown_days"])] if request["cooldown_days"] else []
    if request["exclude_newer"]:
        try:
            cutoffs.append(moment(request["exclude_newer"]))
        except ValueError:
            raise InstallError(
                f"{request['exclude_newer']!r} is not a date.",
                hint="Write it as 2025-12-31 or 2025-12-31T12:00:00Z.",
                code="bad-date",
            ) from None
    min_age = timedelta(days=request["min_age_days"])
    return Gate(now, min(cutoffs, default=None), min_age, frozenset(request["deny"]))


def find_place(prefix: Path, python: str) -> Place:
    """Return where the packages of a prefix with this Python, such as `3.12.1`, are."""
    minor = ".".join(python.split(".")[:2])
    for candidate in (f"lib/python{minor}/site-packages", f"lib/python{minor}t/site-packages"):
        if (prefix / candidate).is_dir():
            return Place(prefix, candidate)
    raise HostError(f"{prefix} has no place for Python packages.", code="environment-broken")


def distributions(place: Place) -> dict[str, str]:
    """Return normalized name and version of each Python distribution that is installed, by its own metadata."""
    found = {}
    for distribution in importlib.metadata.distributions(path=[str(place.prefix / place.site_packages)]):
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        try:
            found[normalized(name)] = str(Version(version))
        except (InvalidVersion, TypeError, AttributeError):
            continue  # damaged metadata constrains nothing; its files are protected all the same
    return found


def foresee(request: Mapping[str, Any], web: Web, answers: Answers) -> list[dict[str, Any]]:
    """Answer with the wheels that the requirements come to; fetch none of them."""
    place = find_place(Path(request["prefix"]), request["python"])
    return [asdict(wheel) for wheel in choose(request, web, answers, place)]


def resolve(request: Mapping[str, Any], web: Web, answers: Answers) -> list[dict[str, Any]]:
    """Answer with the wheels that the requirements come to, fetched, verified and looked into."""
    place = find_place(Path(request["prefix"]), request["python"])
    wheels = choose(request, web, answers, place)
    contents = look_into(wheels, fetch(wheels, web, request, answers), place)
    for row in request["wanted"]:
        name, import_name = normalized(Requirement(row["spec"]).name), row["import_name"]
        if import_name and name in contents and not has_module(contents[name].modules, import_name):
            raise InstallError(
                f"{name} on PyPI does not have the module {import_name}.",
                hint=f"Find out which project the import {import_name} belongs to, and ask for that by name.",
                code="pypi-wrong-module",
            )
    return [asdict(wheel) for wheel in wheels]


def choose(request: Mapping[str, Any], web: Web, answers: Answers, place: Place) -> list[LockedPackage]:
    """Return the wheels that the requirements come to, all of them through the gate."""
    gate = make_gate(request)
    wanted = [Requirement(row["spec"]) for row in request["wanted"]]
    tags = target_tags(request["python"], free_threaded=place.library.endswith("t"))
    alone = request.get("alone", False)
    present = {} if alone else distributions(place)
    projects = Projects(web, Path(request["cache"], "projects"), gate)

    new = [requirement for requirement in wanted if normalized(requirement.name) not in present]
    projects.admit(normalized(requirement.name) for requirement in new)
    for requirement in new:
        check_requirement(requirement, projects[normalized(requirement.name)], tags, gate)

    answers.progress(Progress("solve", f"Solving {', '.join(map(str, wanted))} (PyPI)"))
    cutoff = gate.cutoff.isoformat() if gate.cutoff else ""
    cached = tuple(sorted(Path(request["cache"], "wheels").glob("*"))) if request["offline"] else ()
    uv = Uv(request["index"], Path(request["cache"], "uv"), cutoff, request["offline"], cached)
    python = place.prefix / PYTHON
    additions = uv.additions([str(requirement) for requirement in wanted], python, present, alone=alone)
    names = {normalized(name): version for name, version in additions}
    projects.admit(names)
    files = {name: choose_wheel(projects[name], version, tags, gate) for name, version in sorted(names.items())}
    return [
        LockedPackage(
            name=name,
            version=str(Version(names[name])),
            channel="pypi",
            url=file.url,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            manager="pypi",
        )
        for name, file in files.items()
    ]


def install(request: Mapping[str, Any], web: Web, answers: Answers) -> None:
    """Answer by installing exactly these wheels into a prefix; the prefix is useless if that fails."""
    wheels = [LockedPackage(**{**row, "depends": tuple(row["depends"])}) for row in request["wheels"]]
    place = find_place(Path(request["prefix"]), request["python"])
    for wheel in wheels:
        check_pin(wheel)
    paths = fetch(wheels, web, request, answers)
    contents = look_into(wheels, paths, place)
    before, had = stamps(place.prefix), distributions(place)
    pins = [(wheel.name, wheel.version, wheel.sha256) for wheel in wheels]
    uv = Uv(request["index"], Path(request["cache"], "uv"))
    answers.progress(Progress("link", "Installing wheels of PyPI", 0, len(wheels), "packages"))
    uv.install(pins, [path.parent for path in paths], place.prefix / PYTHON)
    verify(place, before, contents, had, wheels)
    answers.progress(Progress("link", "Installed wheels of PyPI", len(wheels), len(wheels), "packages"))


def check_pin(wheel: LockedPackage) -> None:
    """Refuse a package that cannot be verified.

    Raises:
        InstallError: it is no wheel over HTTP with a digest.
    """
    named = File(basename(wheel.url), wheel.url).wheel()
    over_http = wheel.manager == "pypi" and wheel.url.startswith(("https://", "http://"))
    own = named is not None and (named.project, str(named.version)) == (wheel.name, wheel.version)
    if not (over_http and own and SHA256.fullmatch(wheel.sha256)):
        raise InstallError(f"{wheel.name} {wheel.version} is no wheel that can be verified.", code="bad-package")


def fetch(wheels: Sequence[LockedPackage], web: Web, request: Mapping[str, Any], answers: Answers) -> list[Path]:
    """Return each wheel's path in the store, downloaded now unless a file of the right digest is there."""
    store = Path(request["cache"], "wheels")
    paths = [store / wheel.sha256 / basename(wheel.url) for wheel in wheels]
    missing = [(wheel, path) for wheel, path in zip(wheels, paths, strict=True) if not is_intact(path, wheel.sha256)]
    if web.offline and missing:
        raise offline_missing([f"{wheel.name} {wheel.version} (PyPI)" for wheel, _ in missing])
    lock, fetched, total = Lock(), 0, sum(wheel.size_bytes for wheel, _ in missing)

    def heard(size_bytes: int) -> None:
        nonlocal fetched
        with lock:
            fetched += size_bytes
            answers.progress(Progress("download", "Fetching wheels of PyPI", fetched, max(total, fetched), "bytes"))

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
        list(threads.map(lambda row: web.download(row[0].url, row[1], row[0].sha256, heard), missing))
    return paths


def is_intact(path: Path, sha256: str) -> bool:
    """Say whether the store has a file, and whether it is still what it was."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def look_into(wheels: Sequence[LockedPackage], paths: Sequence[Path], place: Place) -> dict[str, Contents]:
    """Return what each wheel holds, by the package's name."""
    return {wheel.name: inspect_wheel(path, place) for wheel, path in zip(wheels, paths, strict=True)}


def stamps(prefix: Path) -> dict[str, Stamp]:
    """Return for each file of a prefix what changes when the file does."""
    found: dict[str, Stamp] = {}
    waiting = [os.fspath(prefix)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    status = entry.stat(follow_symlinks=False)
                    found[entry.path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def verify(
    place: Place,
    before: Mapping[str, Stamp],
    contents: Mapping[str, Contents],
    had: Mapping[str, str],
    wheels: Sequence[LockedPackage],
) -> None:
    """Refuse a prefix in which anything else happened than that the wheels were added.

    Raises:
        InstallError: a file of another package changed, or the packages are not what was asked for.
    """
    after = stamps(place.prefix)
    allowed = {os.path.join(place.prefix, target) for held in contents.values() for target in held.same}
    changed = [path for path, stamp in before.items() if after.get(path) != stamp and path not in allowed]
    if changed:
        raise conflict(f"they changed {os.path.relpath(changed[0], place.prefix)}, which is not theirs", "")
    expected = {**had, **{wheel.name: str(Version(wheel.version)) for wheel in wheels}}
    found = distributions(place)
    for name in sorted(expected.items() ^ found.items()):
        raise bad_wheel(name[0], "what is in it is not what the index said")


def main() -> NoReturn:
    """Serve one request."""
    answers = Answers(lifeline.take_stdout())
    try:
        request = lifeline.take_request()
        if request["offline"]:
            cut_off_network()
        with Web(request["index"], offline=request["offline"]) as web:
            operation = {"foresee": foresee, "resolve": resolve, "install": install}[request["operation"]]
            answers.write(result=operation(request, web, answers))
    except Exception as error:  # noqa: BLE001 - every failure is an answer
        answers.write(error=as_error(error))
    os._exit(0)
