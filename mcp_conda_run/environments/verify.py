"""Checks that environments still are what was installed, file by file, and removes those that are not.

For `doctor --verify`. Conda's records and the RECORDs of wheels say which file has which sha256; files that hold the
environment's own path differ from one clone to the next, so of those only the presence is checked. A removed
environment is made again, from verified packages, when it is next wanted.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models import Environment
from ..portability import SCRIPTS
from .modules import prefix_records
from .store import Store

HARD_LINK = "hardlink"


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not as it was installed: its package, its path in the prefix, and what is wrong."""

    package: str
    path: str
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found in one environment."""

    environment: Environment
    files: int
    damages: tuple[Damage, ...]


def verify(environment: Environment) -> Verified:
    """Check all files of an environment; takes about a second for each gigabyte."""
    try:
        expected = list(_expected(environment.prefix))
    except (OSError, ValueError, KeyError, TypeError) as error:
        damage = Damage("", "conda-meta", f"the records cannot be read ({error})")
        return Verified(environment, 0, (damage,))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # hashing lets other threads run
        found = pool.map(lambda row: _damage(environment.prefix, *row), expected)
    return Verified(environment, len(expected), tuple(damage for damage in found if damage is not None))


def repair(store: Store, verified: Verified) -> bool:
    """Remove a damaged environment, and the packages that share its damaged files; say whether it could be done.

    It cannot while somebody uses it, or while something is being installed.
    """
    names = {damage.package for damage in verified.damages}
    folders = {f"{p.name}-{p.version}-{p.build}" for p in verified.environment.packages if p.name in names}
    with store.nobody_builds() as alone:
        if not alone or not store.forget_unused(verified.environment.key):
            return False
        for folder in sorted(folders):
            store.trash.discard(store.packages / folder)
            store.trash.discard(store.packages / "micromamba/pkgs" / folder)
            (store.packages / f"{folder}.lock").unlink(missing_ok=True)
    return store.trash.wait()


def _expected(prefix: Path) -> Iterator[tuple[str, str, str | None]]:
    """Yield the package, the path and the sha256 of each file; no sha256 where the content may differ."""
    owned: set[str] = set()
    for record in prefix_records(prefix):
        for row in record["paths_data"]["paths"]:
            owned.add(row["_path"])
            yield record["name"], row["_path"], _digest(row)
    for listing in sorted(prefix.glob("lib/python3*/site-packages/*.dist-info/RECORD")):
        if listing.relative_to(prefix).as_posix() not in owned:
            yield from _wheel(prefix, listing)


def _digest(row: dict[str, Any]) -> str | None:
    fixed = row["path_type"] == HARD_LINK and not row.get("prefix_placeholder")
    return (row.get("sha256_in_prefix") or row.get("sha256")) if fixed else None


def _wheel(prefix: Path, listing: Path) -> Iterator[tuple[str, str, str | None]]:
    """Yield what the RECORD of a wheel says (https://packaging.python.org/en/latest/specifications/)."""
    name = listing.parent.name.partition("-")[0]
    with listing.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            path = os.path.normpath(listing.parent.parent / row[0])
            inside = os.path.relpath(path, prefix)
            if len(row) > 1 and row[1].startswith("sha256=") and not inside.startswith(".."):
                digest = base64.urlsafe_b64decode(row[1].removeprefix("sha256=") + "=").hex()
                yield name, inside, None if inside.startswith(SCRIPTS + os.sep) else digest


def _damage(prefix: Path, package: str, path: str, digest: str | None) -> Damage | None:
    place = prefix / path
    if not os.path.lexists(place):
        return Damage(package, path, "is missing")
    if digest is None:
        return None
    with suppress(OSError):
        with place.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return None if found == digest else Damage(package, path, "was changed")
    return Damage(package, path, "cannot be read")
