"""Reads conda-lock.yml files, which may come from anywhere, into plain data. Writes nothing.

The lock format is version 1 of conda-lock (https://conda.github.io/conda-lock/), which conda-lock, micromamba and pixi
read too. What makes a lock stale is defined here. `locking.py` and `lock_writer.py` write locks; `environment_file.py`
reads what they are made from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InstallError
from ..models import LockedPackage
from .environment_file import EnvironmentFile, read_environment
from .redact import redact
from .safe_yaml import UnusableYaml, load_file

__all__ = [
    "INPUT_DIGEST",
    "MAX_LOCK_BYTES",
    "EnvironmentFile",
    "channel_name",
    "input_digest",
    "is_stale",
    "load_lock",
    "lock_digest",
    "read_environment",
    "read_lock",
]

MAX_LOCK_BYTES = 64 * 1024 * 1024

INPUT_DIGEST = "mcp-conda-run-input"
"""The key in a lock's custom metadata that holds the digest of what it was made from."""

ARCHIVE = re.compile(r"(?P<stem>[^/\\]+-(?P<build>[A-Za-z0-9_][A-Za-z0-9_.+]*))\.(conda|tar\.bz2)")
ADDRESS = re.compile(
    r"(?P<channel>((?:https?|s3|oci)://[^/\s]+|file://)(/\S*)?)/(?P<subdir>[a-z0-9-]+)/(?P<file>[^/\s?#]+)"
)
SHA256 = re.compile(r"[0-9a-f]{64}")
MD5 = re.compile(r"[0-9a-f]{32}")
NAME_OF_SPEC = re.compile(r"(?:[^:\s]+(?:::))?([A-Za-z0-9_.-]+)")
NAMED_CHANNEL = re.compile(r"https://[^/]+/([^/]+)")
"""A channel of a public host, which conda shows by its name alone."""


class Model(BaseModel):
    """What the parts of a lock file share: unknown keys are other tools' business."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Digests(Model):
    """The digests of a row."""

    md5: str | None = None
    sha256: str | None = None


class Row(Model):
    """One package for one platform."""

    name: str
    version: str
    manager: Literal["conda", "pip"]
    platform: str
    url: str
    hash: Digests
    dependencies: Mapping[str, str | None] = {}
    category: str = "main"


class Metadata(Model):
    """The head of a lock file."""

    platforms: Sequence[str] = ()
    custom_metadata: Mapping[str, str] | None = None


class Lock(Model):
    """A whole lock file."""

    version: Literal[1]
    metadata: Metadata
    package: Sequence[Row]


def read_lock(path: Path, platform: str) -> tuple[LockedPackage, ...]:
    """Return the packages that a lock file pins for a platform: conda's by name, then those of PyPI.

    Raises:
        InstallError: it cannot be read, is malformed, has nothing for the platform, or pins what cannot be verified.
    """
    lock = load_lock(path)
    rows = [row for row in lock.package if row.platform == platform and row.category == "main"]
    if not rows:
        known = ", ".join(lock.metadata.platforms) or "no platform"
        raise InstallError(
            f"The lock {path} has no packages for {platform}, only for {known}.",
            hint="Lock again with `mcp-conda-run warmup` on this machine or with `--all-platforms`.",
            code="lock-without-platform",
        )
    packages: dict[tuple[str, str], LockedPackage] = {}
    for row in rows:
        if (row.manager, row.name) in packages:
            raise malformed_lock(path, f"{row.name} is there twice for {platform}")
        packages[row.manager, row.name] = locked_package(row, path)
    return tuple(packages[name] for name in sorted(packages))


def load_lock(path: Path) -> Lock:
    """Read and check a lock file as a whole.

    Raises:
        InstallError: it cannot be read or is malformed.
    """
    try:
        return Lock.model_validate(load_file(path, MAX_LOCK_BYTES))
    except UnusableYaml as error:
        raise malformed_lock(path, str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its top"
        raise malformed_lock(path, f"at {where}: {first['msg']}") from None


def malformed_lock(path: Path, reason: str) -> InstallError:
    """Return the error for a lock file that cannot be used."""
    return InstallError(
        f"The lock {path} cannot be used: {redact(reason)}.",
        hint="Delete it and lock again with `mcp-conda-run warmup`.",
        code="bad-lock",
    )


def locked_package(row: Row, path: Path) -> LockedPackage:
    """Return the package of a row.

    Raises:
        InstallError: the row contradicts itself, or its archive could not be verified.
    """
    if row.manager == "pip":
        return locked_wheel(row, path)
    address = ADDRESS.fullmatch(row.url)
    archive = ARCHIVE.fullmatch(unquote(address["file"])) if address else None
    if address is None or archive is None or archive["stem"] != f"{row.name}-{row.version}-{archive['build']}":
        raise malformed_lock(path, f"the address of {row.name} {row.version} is not that of such a package")
    if address["subdir"] not in (row.platform, "noarch"):
        raise malformed_lock(path, f"the address of {row.name} {row.version} is not for {row.platform}")
    sha256, md5 = row.hash.sha256 or "", row.hash.md5 or ""
    if not SHA256.fullmatch(sha256) or (md5 and not MD5.fullmatch(md5)):
        raise malformed_lock(path, f"{row.name} {row.version} has no usable sha256 digest, so it cannot be verified")
    number = archive["build"].rpartition("_")[2]
    return LockedPackage(
        name=row.name,
        version=row.version,
        build=archive["build"],
        build_number=int(number) if re.fullmatch(r"[0-9]{1,9}", number) else 0,
        subdir=address["subdir"],
        channel=channel_name(address["channel"]),
        url=row.url,
        sha256=sha256,
        md5=md5,
        depends=tuple(f"{name} {spec or ''}".strip() for name, spec in row.dependencies.items()),
    )


def locked_wheel(row: Row, path: Path) -> LockedPackage:
    """Return the package of a row of PyPI.

    Raises:
        InstallError: it is no wheel, or could not be verified.
    """
    url = row.url.partition("#")[0]
    file = unquote(url.rpartition("/")[2])
    if not url.startswith(("https://", "http://")) or not file.endswith(".whl"):
        raise InstallError(
            f"The lock {path} pins {row.name} {row.version} of PyPI as something that is no wheel.",
            hint="Only wheels are installed. Lock a version that has one, or name the conda package.",
            code="pip-not-supported",
        )
    try:
        name, version, _, _ = parse_wheel_filename(file)
    except InvalidWheelFilename:
        raise malformed_lock(path, f"the address of {row.name} {row.version} is not that of a wheel") from None
    sha256 = row.hash.sha256 or ""
    if name != canonicalize_name(row.name) or not SHA256.fullmatch(sha256):
        raise malformed_lock(path, f"{row.name} {row.version} of PyPI is another wheel, or has no usable sha256 digest")
    return LockedPackage(name=str(name), version=str(version), channel="pypi", url=url, sha256=sha256, manager="pypi")


def input_digest(environment: EnvironmentFile, channels: Sequence[str], exclude_newer: str = "") -> str:
    """Return the digest of all that a lock is made from; blank lines and lines that are only comments do not count."""
    lines = (line.rstrip() for line in environment.text.splitlines())
    text = "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))
    effective = list(channels or environment.channels)
    return hashlib.sha256(json.dumps([text, effective, exclude_newer]).encode()).hexdigest()


def is_stale(
    lock_file: Path, environment_yml: Path, channels: Sequence[str], platform: str, exclude_newer: str = ""
) -> bool:
    """Say whether a lock must be made (again) before it can serve for the platform.

    A lock that another tool made has no digest of ours; it serves as long as it pins all that is asked for by name.

    Raises:
        SettingsError: the environment file cannot be used.
        InstallError: the lock is there but cannot be used.
    """
    environment = read_environment(environment_yml)
    if not lock_file.exists():
        return True
    lock = load_lock(lock_file)
    names = {row.name for row in lock.package if row.platform == platform}
    if not names:
        return True
    digest = digest_of(lock)
    if digest:
        return digest != input_digest(environment, channels, exclude_newer)
    asked = [NAME_OF_SPEC.match(spec) for spec in environment.dependencies]
    wheels = {canonicalize_name(row.name) for row in lock.package if row.platform == platform and row.manager == "pip"}
    if any(canonicalize_name(Requirement(text).name) not in wheels for text in environment.pip):
        return True
    return not all(found and found[1].lower() in names for found in asked)


def lock_digest(path: Path) -> str:
    """Return the digest of what a lock was made from; empty if another tool made it.

    Raises:
        InstallError: it cannot be read or is malformed.
    """
    return digest_of(load_lock(path))


def digest_of(lock: Lock) -> str:
    """Return the digest of what a lock was made from; empty if another tool made it."""
    return (lock.metadata.custom_metadata or {}).get(INPUT_DIGEST, "")


def channel_name(url: str) -> str:
    """Return how a channel is shown: by its name if its URL has no more than that, else by the URL."""
    named = NAMED_CHANNEL.fullmatch(redact(url))
    return named[1] if named else redact(url)
