"""Reads environment.yml and conda-lock.yml files, which may come from anywhere, into plain data. Writes nothing.

The lock format is version 1 of conda-lock (https://conda.github.io/conda-lock/), which conda-lock, micromamba and pixi
read too. What makes a lock stale is defined here; `locking.py` writes locks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InstallError, SettingsError
from ..models import LockedPackage
from .redact import redact
from .safe_yaml import UnusableYaml, load_file, load_text, read_text

MAX_LOCK_BYTES = 64 * 1024 * 1024
MAX_ENVIRONMENT_BYTES = 1024 * 1024

INPUT_DIGEST = "mcp-conda-run-input"
"""The key in a lock's custom metadata that holds the digest of what it was made from."""

ARCHIVE = re.compile(r"(?P<stem>[^/\\]+-(?P<build>[A-Za-z0-9_][A-Za-z0-9_.+]*))\.(conda|tar\.bz2)")
ADDRESS = re.compile(r"(?P<channel>(https?://[^/\s]+|file://)(/\S*)?)/(?P<subdir>[a-z0-9-]+)/(?P<file>[^/\s?#]+)")
SHA256 = re.compile(r"[0-9a-f]{64}")
MD5 = re.compile(r"[0-9a-f]{32}")
NAME_OF_SPEC = re.compile(r"(?:[^:\s]+(?:::))?([A-Za-z0-9_.-]+)")
NAMED_CHANNEL = re.compile(r"https://[^/]+/([^/]+)")
"""A channel of a public host, which conda shows by its name alone."""


@dataclass(frozen=True, slots=True)
class EnvironmentFile:
    """What an environment.yml asks for.

    Attributes:
        name: its name; empty if it has none.
        channels: names or URLs, first wins.
        dependencies: match specs.
        text: the file itself, with the platform selectors that conda-lock reads from comments.
    """

    name: str
    channels: tuple[str, ...]
    dependencies: tuple[str, ...]
    text: str


def read_environment(path: Path) -> EnvironmentFile:
    """Read an environment.yml.

    Raises:
        SettingsError: it cannot be read, is malformed, or asks for what is not supported.
    """
    try:
        text = read_text(path, MAX_ENVIRONMENT_BYTES)
        document = load_text(text)
    except UnusableYaml as error:
        raise SettingsError(f"The environment file {path} cannot be used: {error}.", code="bad-template") from None
    if not isinstance(document, dict):
        raise malformed_environment(path, "it has no `dependencies`")
    channels = document.get("channels") or []
    dependencies = document.get("dependencies") or []
    if not is_text_list(channels):
        raise malformed_environment(path, "`channels` is not a list of names")
    if isinstance(dependencies, list) and any(isinstance(entry, dict) for entry in dependencies):
        raise SettingsError(
            f"The environment file {path} has a `pip:` section, which is not supported yet.",
            hint="Name the conda packages instead; nearly all of PyPI's scientific packages are on conda-forge.",
            code="pip-not-supported",
        )
    if not dependencies or not is_text_list(dependencies):
        raise malformed_environment(path, "`dependencies` is not a list of match specs")
    named = tuple(channel for channel in channels if channel != "nodefaults")
    return EnvironmentFile(str(document.get("name") or ""), named, tuple(dependencies), text)


def malformed_environment(path: Path, reason: str) -> SettingsError:
    """Return the error for an environment.yml of another shape."""
    return SettingsError(
        f"The environment file {path} cannot be used: {reason}.",
        hint="It needs `channels` and `dependencies`, as conda's environment.yml files have them.",
        code="bad-template",
    )


def is_text_list(value: Any) -> bool:
    """Say whether a value is a list of strings that are not empty."""
    return isinstance(value, list) and all(isinstance(entry, str) and entry.strip() for entry in value)


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
    """Return the packages that a lock file pins for a platform, by name.

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
    packages: dict[str, LockedPackage] = {}
    for row in rows:
        if row.name in packages:
            raise malformed_lock(path, f"{row.name} is there twice for {platform}")
        packages[row.name] = locked_package(row, path)
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
    if row.manager != "conda":
        raise InstallError(
            f"The lock {path} pins {row.name} from PyPI, which is not supported yet.", code="pip-not-supported"
        )
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
    digest = (lock.metadata.custom_metadata or {}).get(INPUT_DIGEST)
    if digest is not None:
        return digest != input_digest(environment, channels, exclude_newer)
    asked = [NAME_OF_SPEC.match(spec) for spec in environment.dependencies]
    return not all(found and found[1].lower() in names for found in asked)


def channel_name(url: str) -> str:
    """Return how a channel is shown: by its name if its URL has no more than that, else by the URL."""
    named = NAMED_CHANNEL.fullmatch(redact(url))
    return named[1] if named else redact(url)
