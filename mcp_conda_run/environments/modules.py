"""Which modules an environment offers, read from the file lists that conda and installers of wheels keep.

Conda's are in `conda-meta/`, those of wheels in the RECORD of each `.dist-info`. Conda's are authoritative; a wheel's
own list is believed only where the file is there. No guess from package names, no import. Called for a new one.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name


def prefix_records(prefix: Path) -> list[dict[str, Any]]:
    """Return conda's records of what is installed in `prefix`."""
    return [json.loads(path.read_bytes()) for path in sorted((prefix / "conda-meta").glob("*.json"))]


def wheel_records(
    prefix: Path, site_packages: Iterable[str], conda: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return records like conda's for the Python distributions that no package of conda brought.

    Args:
        prefix: the environment.
        site_packages: directories relative to the prefix, with forward slashes.
        conda: conda's own records.
    """
    owned = {file for record in conda for file in record.get("files", ())}
    records = []
    for place in site_packages:
        for listing in sorted((prefix / place).glob("*.dist-info/RECORD")):
            if f"{place}/{listing.parent.name}/RECORD" not in owned:
                name = canonicalize_name(listing.parent.name.removesuffix(".dist-info").rpartition("-")[0])
                files = [posixpath.normpath(f"{place}/{file}") for file in _listed(listing)]
                records.append({"name": str(name), "files": [file for file in files if (prefix / file).is_file()]})
    return records


def _listed(listing: Path) -> list[str]:
    """Return the files that a RECORD lists; it is a stranger's, so it may hold anything."""
    rows = csv.reader(listing.read_text(encoding="utf-8", errors="replace").splitlines())
    try:
        return [row[0] for row in rows if row and "\0" not in row[0]]
    except csv.Error:
        return []


def offered_modules(records: Iterable[Mapping[str, Any]], site_packages: Iterable[str]) -> dict[str, str]:
    """Return the importable dotted names, each with the package that brings it.

    Names stop at the first regular package: of `numpy` there is only `numpy`, of a namespace package there is each part
    that is a regular package or a module (`google.cloud.storage`).

    Args:
        records: conda's prefix records, and those of wheels behind them: a module belongs to the first that has it.
        site_packages: directories relative to the prefix, with forward slashes.
    """
    owners: dict[str, str] = {}
    for record in records:
        for file in record.get("files", ()):
            module = _module_path(file, site_packages)
            if module:
                owners.setdefault(module, record["name"])
    regular = {module.removesuffix("/__init__") for module in owners if module.endswith("/__init__")}
    offered: dict[str, str] = {}
    for module, owner in owners.items():
        parts = module.removesuffix("/__init__").split("/")
        heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        top = next((head for head in heads if head in regular), heads[-1])
        name = top.replace("/", ".")
        if all(part.isidentifier() for part in name.split(".")):
            offered.setdefault(name, owner)
    return offered


def _module_path(file: str, site_packages: Iterable[str]) -> str:
    """Return `a/b/c` for `lib/python3.12/site-packages/a/b/c.py`, or nothing if that is no module."""
    for directory in site_packages:
        if file.startswith(f"{directory}/"):
            inside = file[len(directory) + 1 :]
            folder, _, name = inside.rpartition("/")
            stem, dot, suffix = name.partition(".")
            if not dot or (suffix != "py" and not suffix.endswith(("so", "pyd"))):
                return ""
            return f"{folder}/{stem}" if folder else stem
    return ""
