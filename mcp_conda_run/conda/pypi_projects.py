"""What the index says of a project, and whether that is good enough for anything of it to be installed.

Runs only in the worker for PyPI. Reads the JSON form of the simple repository API (PEP 691) with upload times (PEP 700)
and project status (PEP 792); what is read is kept on disk, for offline use. Fetches no package.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from ..errors import InstallError
from .channels import write_json
from .faults import offline_missing
from .pypi_faults import no_wheel, not_found, too_new, unreachable
from .pypi_web import NotThereError, Web

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
MAX_PAGE_BYTES = 64 * 1024**2
AT_ONCE = 8
COOLDOWN_HINT = "Ask for an older version, wait, or lower MCP_CONDA_RUN_PIP_COOLDOWN_DAYS."
WHEEL_NAME = re.compile(r"[A-Za-z0-9_.+!-]+\.whl")
SHA256 = re.compile(r"[0-9a-f]{64}")


class WheelName(NamedTuple):
    """What the file name of a wheel says."""

    project: str
    version: Version
    build: tuple[()] | tuple[int, str]
    tags: frozenset[Tag]


@dataclass(frozen=True, slots=True)
class File:
    """A file of a project.

    Attributes:
        filename: such as `humanize-4.1-py3-none-any.whl`; the name of a source distribution may be anything.
        url: absolute, without credentials.
        sha256: empty if the index does not say.
        size_bytes: 0 if the index does not say.
        uploaded: ISO 8601; empty if the index does not say.
        yanked: whether its owner took it back.
    """

    filename: str
    url: str
    sha256: str = ""
    size_bytes: int = 0
    uploaded: str = ""
    yanked: bool = False

    def is_before(self, cutoff: datetime | None) -> bool:
        """Say whether the file was uploaded before the cutoff; one of unknown age was not."""
        return cutoff is None or (bool(self.uploaded) and moment(self.uploaded) < cutoff)

    def wheel(self) -> WheelName | None:
        """Return what the name says if this is a wheel."""
        if WHEEL_NAME.fullmatch(self.filename):
            with suppress(InvalidWheelFilename):
                return WheelName(*parse_wheel_filename(self.filename))
        return None

    def version(self) -> Version | None:
        """Return the version that the file is of, if its name says so."""
        wheel = self.wheel()
        if wheel is not None:
            return wheel.version
        with suppress(InvalidSdistFilename):
            return parse_sdist_filename(self.filename)[1]
        return None


@dataclass(frozen=True, slots=True)
class Project:
    """What the index says of a project; `status` is `active`, `archived`, `deprecated` or `quarantined`."""

    name: str
    files: tuple[File, ...]
    status: str = "active"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a project must be so that anything of it is installed.

    Attributes:
        now: the time.
        cutoff: files uploaded later do not exist; None for no such bound.
        min_age: how long ago the first file that still exists must have been uploaded.
        deny: normalized names that are never installed, whoever asks for them.
    """

    now: datetime
    cutoff: datetime | None
    min_age: timedelta
    deny: frozenset[str] = frozenset()

    def check(self, project: Project) -> None:
        """Refuse a project.

        Raises:
            InstallError: it is denied, quarantined, empty or too new.
        """
        name = project.name
        if name in self.deny:
            raise InstallError(
                f"{name} is on the deny list.", hint="See the setting deny_packages.", code="package-not-allowed"
            )
        if project.status == "quarantined":
            raise InstallError(
                f"PyPI has put {name} into quarantine: it may be malicious.",
                hint="Do not use it; see its page on PyPI, and look for another package.",
                details=project.reason,
                code="pypi-quarantined",
            )
        if not project.files:
            raise no_wheel(f"The project {name} on PyPI has no files")
        if self.min_age:
            self._check_age(project)

    def _check_age(self, project: Project) -> None:
        times = [moment(file.uploaded) for file in project.files if file.uploaded]
        hint = "If you trust it, lower MCP_CONDA_RUN_PIP_MIN_AGE_DAYS."
        if not times:
            raise too_new(f"The index does not say how old {project.name} is", hint)
        if self.now - min(times) < self.min_age:
            days = self.min_age / timedelta(days=1)
            since = f"The project {project.name} is on PyPI only since {min(times):%Y-%m-%d}"
            raise too_new(f"{since}, which is less than {days:g} days: too new to be trusted", hint)


class Projects:
    """Asks an index about projects, each once."""

    def __init__(self, web: Web, cache: Path, gate: Gate) -> None:
        self._web = web
        self._gate = gate
        self._cache = (
            cache / hashlib.sha256(str(web.index.copy_with(username="", password="")).encode()).hexdigest()[:16]
        )
        self._known: dict[str, Project] = {}

    def __getitem__(self, name: str) -> Project:
        return self._known[name]

    def admit(self, names: Iterable[str]) -> None:
        """Learn what the index says of these normalized names, and refuse those that do not pass the gate.

        Raises:
            InstallError: one is refused or does not exist, or the index cannot be asked.
        """
        new = sorted(set(names) - self._known.keys())
        for name in self._gate.deny.intersection(new):
            self._gate.check(Project(name, ()))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for project in threads.map(self._ask, new):
                self._gate.check(project)
                self._known[project.name] = project

    def _ask(self, name: str) -> Project:
        cached = self._cache / f"{name}.json"
        if self._web.offline:
            return self._remembered(cached, name)
        url = self._web.project_url(name)
        try:
            body, kind = self._web.read(url, accept=JSON_TYPE, max_bytes=MAX_PAGE_BYTES)
        except NotThereError:
            raise not_found(f"PyPI has no project {name}") from None
        if kind != JSON_TYPE:
            raise unreachable(url, "it does not offer the JSON form of the simple repository API (PEP 691)")
        try:
            project = read_project(name, json.loads(body), lambda file_url: self._web.absolute(file_url, url))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise unreachable(url, "its answer is not what PEP 691 says") from None
        write_json(cached, asdict(project))
        return project

    @staticmethod
    def _remembered(cached: Path, name: str) -> Project:
        try:
            row = json.loads(cached.read_bytes())
            return Project(**{**row, "files": tuple(File(**file) for file in row["files"])})
        except (OSError, ValueError, TypeError, KeyError):
            raise offline_missing([f"{name} (PyPI)"]) from None


def read_project(name: str, page: Mapping[str, Any], absolute: Callable[[str], str]) -> Project:
    """Read a project's page; files that could not be used (no address that ends with their name) are left out.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the page has another shape.
    """
    status = page.get("project-status") or {}
    state = status.get("status", "active") if isinstance(status, dict) else status
    files = []
    for row in page["files"]:
        filename, url = str(row["filename"]), absolute(str(row["url"]))
        if basename(url) != filename:
            continue
        sha256 = str(row.get("hashes", {}).get("sha256", "")).lower()
        uploaded = str(row.get("upload-time") or "")
        if uploaded:
            moment(uploaded)
        size = int(row.get("size") or 0)
        digest = sha256 if SHA256.fullmatch(sha256) else ""
        files.append(File(filename, url, digest, size, uploaded, bool(row.get("yanked", False))))
    reason = status.get("reason") if isinstance(status, dict) else ""
    return Project(name, tuple(files), str(state), str(reason or "")[:500])


def check_requirement(requirement: Requirement, project: Project, tags: Sequence[Tag], gate: Gate) -> None:
    """Refuse a requirement that no wheel can satisfy, and say which of the reasons it is.

    Raises:
        InstallError: no such version, no wheel, none for this Python and machine, or all are too new.
    """
    name, wanted = project.name, requirement.specifier
    right = [file for file in project.files if (v := file.version()) and wanted.contains(v, prereleases=True)]
    if not right:
        raise not_found(f"PyPI has no version {wanted} of {name}")
    wheels = [file for file in right if file.wheel()]
    if not wheels:
        raise no_wheel(f"{name} offers only source code on PyPI, and building it would run that code unconfined")
    known = frozenset(tags)
    wheels = [file for file in wheels if (wheel := file.wheel()) and not wheel.tags.isdisjoint(known)]
    if not wheels:
        raise no_wheel(f"{name} has no wheel on PyPI for this Python and machine")
    if not any(file.is_before(gate.cutoff) for file in wheels):
        raise too_new(
            f"Every wheel of {requirement} on PyPI was uploaded after {gate.cutoff:%Y-%m-%d}: too new to be trusted",
            COOLDOWN_HINT,
        )


def choose_wheel(project: Project, version: str, tags: Sequence[Tag], gate: Gate) -> File:
    """Return the wheel of this version that fits best.

    Raises:
        InstallError: there is none that fits, or it has no digest.
    """
    rank = {tag: number for number, tag in enumerate(tags)}
    fitting = []
    for file in project.files:
        wheel = file.wheel()
        if wheel is None or (wheel.project, wheel.version) != (project.name, Version(version)):
            continue
        ranks = [rank[tag] for tag in wheel.tags if tag in rank]
        if ranks and file.is_before(gate.cutoff):
            fitting.append(((not file.yanked, -min(ranks), wheel.build), file))
    if not fitting:
        raise no_wheel(f"{project.name} {version} has no wheel on PyPI for this Python and machine")
    best = max(fitting, key=lambda row: row[0])[1]
    if not best.sha256:
        raise InstallError(
            f"The index gives no sha256 digest for {best.filename}, so it cannot be verified.",
            hint="Use an index that gives digests (MCP_CONDA_RUN_PYPI_INDEX).",
            code="no-checksum",
        )
    return best


def target_tags(python: str, *, free_threaded: bool = False) -> list[Tag]:
    """Return the tags of wheels for a Python such as `3.12.1` on this machine, best first."""
    major, minor = (int(part) for part in python.split(".")[:2])
    interpreter = f"cp{major}{minor}"
    abis = [f"{interpreter}t"] if free_threaded else None
    own = list(cpython_tags((major, minor), abis or [interpreter]))
    return [*own, *compatible_tags((major, minor), interpreter)]


def moment(text: str) -> datetime:
    """Read an ISO 8601 time; one without a zone is UTC, and a mere date ends with that day.

    Raises:
        ValueError: it is none.
    """
    parsed = datetime.fromisoformat(text)
    if len(text) == len("2025-12-31"):
        parsed = datetime.combine(parsed, time.max)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def basename(url: str) -> str:
    """Return the file name at the end of a URL."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def normalized(name: str) -> str:
    """Return a project's name as PEP 503 says."""
    return str(canonicalize_name(name))
