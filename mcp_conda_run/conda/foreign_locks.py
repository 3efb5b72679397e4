"""Locks of other kinds than conda-lock's: pixi.lock files and conda's explicit lists, read into plain packages.

`environments/template_locks.py` imports them once and keeps the result as a conda-lock.yml. A pixi.lock is read by
py-rattler in a process of its own (`lock_reader_child.py`); an explicit list has no digests or weak ones, so the
channels are asked for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import InstallError
from ..models import LockedPackage, ProgressCallback, no_progress
from .asking import ask
from .engine import Engine, SolveRequest
from .lockfile import ADDRESS, ARCHIVE, MD5, SHA256, channel_name, malformed_lock
from .process import child_environment
from .safe_yaml import UnusableYaml, read_text

MAX_BYTES = 64 * 1024 * 1024
READ_TIMEOUT_S = 120
MAX_ROWS = 10_000
DIGEST = re.compile(r"(sha256:)?(?P<digest>[0-9a-fA-F]+)")


# --- explicit lists ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExplicitRow:
    """One line of an explicit list: the archive's address with its parts, and the digest that stands behind it."""

    url: str
    channel: str
    subdir: str
    file: str
    name: str
    version: str
    build: str
    md5: str = ""
    sha256: str = ""


def read_explicit(path: Path, platform: str) -> tuple[ExplicitRow, ...]:
    """Read an explicit list, as `conda list --explicit` and `micromamba env export --explicit` write it.

    Raises:
        InstallError: it cannot be read, is malformed, or is for another platform.
    """
    try:
        text = read_text(path, MAX_BYTES)
    except UnusableYaml as error:
        raise malformed_list(path, str(error)) from None
    lines = [line.strip() for line in text.splitlines()]
    rows = [line for line in lines if line and not line.startswith("#") and line != "@EXPLICIT"]
    if not rows or len(rows) > MAX_ROWS:
        raise malformed_list(path, f"it has {len(rows)} packages")
    found: dict[str, ExplicitRow] = {}
    for line in rows:
        row = explicit_row(line, path)
        if row.subdir not in (platform, "noarch"):
            raise InstallError(
                f"The list {path} is for {row.subdir}, this machine is {platform}.",
                hint="Make one on a machine like this, or use an environment.yml.",
                code="lock-without-platform",
            )
        if row.name in found:
            raise malformed_list(path, f"{row.name} is there twice")
        found[row.name] = row
    return tuple(found.values())


def explicit_row(line: str, path: Path) -> ExplicitRow:
    """Return one line in its parts.

    Raises:
        InstallError: it is not the address of a conda package, or what stands behind it is no digest.
    """
    url, _, fragment = line.partition("#")
    address = ADDRESS.fullmatch(url)
    file = unquote(address["file"]) if address else ""
    archive = ARCHIVE.fullmatch(file)
    parts = archive["stem"].rsplit("-", 2) if archive else []
    digest = DIGEST.fullmatch(fragment)
    hexadecimal = digest["digest"].lower() if digest else ""
    known = MD5.fullmatch(hexadecimal) or SHA256.fullmatch(hexadecimal)
    if address is None or len(parts) != 3 or not all(parts) or (fragment and not known):  # noqa: PLR2004
        raise malformed_list(path, f"{line[:200]!r} is not the address of a package, with perhaps a digest")
    return ExplicitRow(
        url=url,
        channel=address["channel"],
        subdir=address["subdir"],
        file=file,
        name=parts[0],
        version=parts[1],
        build=parts[2],
        md5=hexadecimal if MD5.fullmatch(hexadecimal) else "",
        sha256=hexadecimal if SHA256.fullmatch(hexadecimal) else "",
    )


def malformed_list(path: Path, reason: str) -> InstallError:
    """Return the error for an explicit list that cannot be used."""
    error = malformed_lock(path, reason)
    error.message = error.message.replace("The lock", "The list", 1)
    error.hint = "Make it again with `conda list --explicit --sha256` or `micromamba env export --explicit`."
    return error


async def complete_explicit(
    rows: Sequence[ExplicitRow],
    path: Path,
    engine: Engine,
    platform: str,
    *,
    offline: bool = False,
    progress: ProgressCallback = no_progress,
) -> tuple[LockedPackage, ...]:
    """Return the packages of an explicit list, each with its sha256 digest, dependencies first.

    The channels are asked for what the list does not say: dependencies always where they can be asked, and the sha256
    digest where the list has an MD5 digest, which must then be the channel's, or none.

    Raises:
        InstallError: a package is no longer there, is another one, or the channels cannot be asked.
    """
    complete = all(row.sha256 for row in rows)
    if complete and offline:
        return tuple(from_row(row) for row in rows)
    channels = list(dict.fromkeys(row.channel for row in rows))
    several = len(channels) > 1
    specs = [(f"{row.channel}::" if several else "") + f"{row.name} =={row.version} {row.build}" for row in rows]
    request = SolveRequest(specs=specs, channels=channels, platform=platform, offline=offline)
    try:
        solution = await engine.solve(request, progress)
    except InstallError as error:
        if complete:
            return tuple(from_row(row) for row in rows)
        raise InstallError(
            f"The list {path} says too little to verify its packages, and the channels do not have all of them.",
            details=f"{error.message}\n{error.details}".strip(),
            hint="Make it again with `conda list --explicit --sha256`.",
            code="no-checksum",
        ) from error
    by_file = {(package.subdir, unquote(package.url.rsplit("/", 1)[1])): package for package in solution}
    listed = {row.name for row in rows}
    if more := sorted(package.name for package in solution if package.name not in listed):
        raise malformed_list(path, f"it lacks {', '.join(more[:5])}, which its packages depend on")
    completed = {row.name: merged(row, by_file.get((row.subdir, row.file)), path) for row in rows}
    return tuple(completed[package.name] for package in solution)


def merged(row: ExplicitRow, known: LockedPackage | None, path: Path) -> LockedPackage:
    """Return the channel's package with the list's address, if both speak of the same archive."""
    same = known is not None and (not row.md5 or row.md5 == known.md5) and (row.sha256 or known.sha256) == known.sha256
    if known is None or not same:
        raise InstallError(
            f"The list {path} pins {row.file}, and its channel has {'none' if known is None else 'another archive'} of "
            "that name.",
            hint="Make the list again from an environment that can still be installed.",
            code="checksum-mismatch" if known is not None else "package-not-found",
        )
    return replace(known, url=row.url, channel=channel_name(row.channel))


def from_row(row: ExplicitRow) -> LockedPackage:
    """Return a package of which nothing is known but the list's line."""
    return LockedPackage(
        name=row.name,
        version=row.version,
        build=row.build,
        subdir=row.subdir,
        channel=channel_name(row.channel),
        url=row.url,
        sha256=row.sha256,
    )


# --- what py-rattler reads --------------------------------------------------------------------------------------------


async def read_pixi_lock(path: Path, platform: str) -> tuple[LockedPackage, ...]:
    """Return what the default environment of a pixi.lock pins for a platform.

    Raises:
        InstallError: it cannot be read, is malformed or too large, or has nothing for the platform.
        HostError: the reading process died.
    """
    check_size(path)
    rows = await _ask({"operation": "pixi", "path": str(path), "platform": platform}, f"The lock {path}")
    return tuple(LockedPackage(**{**row, "depends": tuple(row["depends"])}) for row in rows)


def check_size(path: Path) -> None:
    """Refuse a file that is not there, or that no honest tool has written."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise malformed_lock(path, error.strerror or str(error)) from None
    if size > MAX_BYTES:
        raise malformed_lock(path, f"it is larger than {MAX_BYTES // 1024} KiB")


async def virtual_packages() -> dict[str, str]:
    """Return what this machine offers, such as `__cuda`, with versions.

    Raises:
        HostError: the process that looks died.
    """
    found: dict[str, str] = await _ask({"operation": "virtual"}, "This machine")
    return found


async def _ask(request: dict[str, str], what: str) -> Any:
    try:
        return await ask("lock_reader_child", request, environment=child_environment(), timeout_s=READ_TIMEOUT_S)
    except TimeoutError:
        raise InstallError(f"{what} could not be read within {READ_TIMEOUT_S} s.", code="bad-lock") from None
