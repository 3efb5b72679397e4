"""Writes conda-lock.yml files of packages that are pinned already; `locking.py` makes those that must be solved.

Used where a list of packages comes from elsewhere: a pixi.lock, an explicit list, a finished environment, or wheels
that join what conda-lock made. The format is version 1 of conda-lock, which conda-lock and micromamba read.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..models import LockedPackage
from .faults import explain_os_error
from .lockfile import INPUT_DIGEST, MAX_LOCK_BYTES, malformed_lock
from .redact import redact
from .safe_yaml import UnusableYaml, load_text, read_text

DUMPER: type[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
HEAD = "# A lock in the format of conda-lock, version 1: `conda-lock install` and `micromamba create -f` read it too.\n"


def write_lock(
    output: Path,
    packages: Mapping[str, Sequence[LockedPackage]],
    *,
    channels: Sequence[str] = (),
    sources: Sequence[str] = (),
    digest: str = "",
) -> None:
    """Write a lock, in one step.

    Args:
        output: the conda-lock.yml to write.
        packages: what is pinned, by conda's name of the platform.
        channels: names or URLs, first wins.
        sources: names of the files that it was made from.
        digest: what the lock was made from, as `lockfile.input_digest` says it; empty if it cannot become stale.

    Raises:
        HostError: it cannot be written.
    """
    rows = [lock_row(package, platform) for platform, pinned in packages.items() for package in pinned]
    metadata: dict[str, Any] = {
        "content_hash": {platform: content_hash(pinned) for platform, pinned in packages.items()},
        "channels": [{"url": redact(channel), "used_env_vars": []} for channel in channels],
        "platforms": list(packages),
        "sources": list(sources),
    }
    if digest:
        metadata["custom_metadata"] = {INPUT_DIGEST: digest}
    dump(output, HEAD, {"version": 1, "metadata": metadata, "package": rows})


def add_wheels(lock: Path, platform: str, wheels: Sequence[LockedPackage]) -> None:
    """Add packages of PyPI to what a lock pins for a platform, in one step.

    Raises:
        InstallError: the lock cannot be used.
        HostError: it cannot be written.
    """
    try:
        text = read_text(lock, MAX_LOCK_BYTES)
        document = load_text(text)
    except UnusableYaml as error:
        raise malformed_lock(lock, str(error)) from None
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    document["package"] += [lock_row(wheel, platform) for wheel in wheels]
    dump(lock, head, document)


def lock_row(package: LockedPackage, platform: str) -> dict[str, Any]:
    """Return a package as conda-lock writes it.

    conda-lock wants an MD5 digest of every conda package; where none is known it is empty, which it accepts.
    """
    wheel = package.manager == "pypi"
    digests = {"sha256": package.sha256} if wheel else {"md5": package.md5, "sha256": package.sha256}
    return {
        "name": package.name,
        "version": package.version,
        "manager": "pip" if wheel else "conda",
        "platform": platform,
        "dependencies": {} if wheel else dependencies(package.depends),
        "url": package.url,
        "hash": digests,
        "category": "main",
        "optional": False,
    }


def dependencies(depends: Sequence[str]) -> dict[str, str]:
    """Return match specs by name; several of one name are joined, as both must hold."""
    found: dict[str, str] = {}
    for spec in depends:
        name, _, rest = spec.strip().partition(" ")
        parts = [part for part in (found.get(name, ""), rest.strip()) if part]
        found[name] = ",".join(parts)
    return found


def content_hash(packages: Sequence[LockedPackage]) -> str:
    """Return a digest of what is pinned; conda-lock takes any string."""
    return hashlib.sha256(json.dumps([[package.url, package.sha256] for package in packages]).encode()).hexdigest()


def dump(output: Path, head: str, document: Mapping[str, Any]) -> None:
    """Write a YAML document in one step."""
    text = head + yaml.dump(document, Dumper=DUMPER, sort_keys=False, allow_unicode=True, width=120)
    half = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            half.write_text(text, encoding="utf-8")
            half.replace(output)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, output) from error
