"""Which modules an environment offers, read from the file lists that conda keeps in `conda-meta/`.

The file lists are authoritative: no guess from package names, no import. Called when an environment is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def prefix_records(prefix: Path) -> list[dict[str, Any]]:
    """Return conda's records of what is installed in `prefix`."""
    return [json.loads(path.read_bytes()) for path in sorted((prefix / "conda-meta").glob("*.json"))]


def offered_modules(records: Iterable[Mapping[str, Any]], site_packages: Iterable[str]) -> dict[str, str]:
    """Return the importable dotted names, each with the package that brings it.

    Names stop at the first regular package: of `numpy` there is only `numpy`, of a namespace package there is each part
    that is a regular package or a module (`google.cloud.storage`).

    Args:
        records: conda's prefix records.
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
