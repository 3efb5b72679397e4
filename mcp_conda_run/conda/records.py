"""Between the project's `LockedPackage` and py-rattler's records. Runs only in the engine's worker.

Names, versions and builds become names of directories in the package cache, and they come from lock files and
channels: they are checked here before py-rattler sees them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import rattler

from ..errors import InstallError
from ..models import LockedPackage
from .redact import redact

SAFE = re.compile(r"[A-Za-z0-9_.+!=-]+")
"""What names, versions and builds consist of; above all no slash."""

SHA256 = re.compile(r"[0-9a-f]{64}")
FREE_THREADED = re.compile(r"_cp(\d)(\d+)t$")


def as_json(package: LockedPackage) -> dict[str, Any]:
    """Return the package as JSON values."""
    return asdict(package)


def from_json(document: Mapping[str, Any]) -> LockedPackage:
    """Return the package that `as_json` wrote."""
    return LockedPackage(**{**document, "depends": tuple(document["depends"])})


def check_installable(package: LockedPackage) -> None:
    """Refuse a package that cannot be verified or whose parts could leave the package cache.

    Raises:
        InstallError: its URL, its digest or its name cannot be used.
    """
    label = f"{package.name} {package.version} {package.build}".strip()
    if package.manager != "conda":
        raise InstallError(f"{label} is no conda package.", code="bad-package")
    if not SHA256.fullmatch(package.sha256):
        raise InstallError(
            f"{label} has no sha256 digest, so it cannot be verified and is not installed.",
            hint="Lock again; a channel that offers no digests cannot be used.",
            code="no-checksum",
        )
    parts = (package.name, package.version, package.build)
    if not all(SAFE.fullmatch(part) and not part.startswith(".") for part in parts):
        raise InstallError(f"{label} has a name, version or build that no conda package has.", code="bad-package")
    if not package.url.startswith(("https://", "http://", "file:///", "s3://", "oci://")) or has_lost_port(package.url):
        raise InstallError(f"{label} has an address that cannot be used: {redact(package.url)}.", code="bad-package")


def has_lost_port(url: str) -> bool:
    """Say whether an address names a port of an OCI registry: py-rattler would ask at port 443 of that host."""
    return url.startswith("oci://") and ":" in url.removeprefix("oci://").partition("/")[0].rpartition("@")[2]


def to_record(package: LockedPackage) -> rattler.RepoDataRecord:
    """Return the record that py-rattler pins and installs."""
    base, _, file_name = package.url.rpartition("/")
    channel, _, subdir = base.rpartition("/")
    threaded = FREE_THREADED.search(package.build) if package.name == "python" else None
    try:
        record = rattler.PackageRecord(
            name=package.name,
            version=package.version,
            build=rattler.BuildString(package.build),
            build_number=package.build_number,
            subdir=package.subdir or subdir,
            depends=list(package.depends),
            sha256=bytes.fromhex(package.sha256) if package.sha256 else None,
            md5=bytes.fromhex(package.md5) if package.md5 else None,
            size=package.size_bytes or None,
            python_site_packages_path=(
                f"lib/python{threaded[1]}.{threaded[2]}t/site-packages" if threaded else None
            ),  # conda-lock files do not carry it, and only free-threaded builds differ from the rule
        )
    except Exception as error:
        raise InstallError(f"{package.name} {package.version} cannot be used: {error}.", code="bad-package") from error
    return rattler.RepoDataRecord(record, file_name, package.url, channel)


def from_record(record: rattler.RepoDataRecord, channels: Mapping[str, str]) -> LockedPackage:
    """Return the package of a record; `channels` maps base URLs to the names that the user gave."""
    base = record.url.rsplit("/", 2)[0]
    return LockedPackage(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        build_number=record.build_number,
        subdir=record.subdir,
        channel=redact(channels.get(base, base)),
        url=record.url,
        sha256=record.sha256.hex() if record.sha256 else "",
        md5=record.md5.hex() if record.md5 else "",
        size_bytes=record.size or 0,
        depends=tuple(record.depends),
    )


def topological(records: Iterable[rattler.RepoDataRecord]) -> list[rattler.RepoDataRecord]:
    """Return the records with dependencies first, always in the same order.

    `sort_topologically` answers with plain package records, which have lost URL and channel.
    """
    by_name = {r.name.normalized: r for r in sorted(records, key=lambda r: r.name.normalized)}
    plain: Sequence[rattler.PackageRecord] = rattler.PackageRecord.sort_topologically(list(by_name.values()))
    return [by_name[record.name.normalized] for record in plain]
