"""What micromamba is told of the machine it solves for, and of packages that should stay; neither need be there.

`micromamba_solving.py` calls it. The machine is described by variables, as conda knows them: this one as py-rattler
sees it, so that both engines solve alike (micromamba asks a program on PATH for CUDA, and its PATH has none). Packages
that should stay are described by a prefix that has their records and nothing else. Installs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..models import LockedPackage
from .engine import current_platform
from .records import SAFE
from .solving import virtual_packages

OVERRIDES = {"__glibc": "GLIBC", "__linux": "LINUX", "__osx": "OSX", "__cuda": "CUDA"}
"""The virtual packages whose version micromamba lets itself be told (libmamba, virtual_packages.cpp)."""

ARCHITECTURES = {"64": "x86_64", "32": "x86"}
NOTHING_INSTALLED = "#!/bin/sh\necho '{}'\n"
"""Where a prefix has pip, micromamba asks that prefix's python what pip has installed, and fails without an answer."""


def machine(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that describe the machine of a request."""
    platform, given = str(request["platform"]), request.get("virtual_packages")
    virtual = {package.name.normalized: package for package in virtual_packages(platform, given)}
    variables = {
        f"CONDA_OVERRIDE_{OVERRIDES[name]}": str(virtual[name].version) for name in OVERRIDES if name in virtual
    }
    architecture = platform.partition("-")[2]
    build = str(virtual["__archspec"].build_string) if "__archspec" in virtual else ""
    return {
        **({} if platform == current_platform() else {"CONDA_SUBDIR": platform}),
        "CONDA_OVERRIDE_CUDA": "",  # none, unless there is one
        **variables,
        "CONDA_OVERRIDE_ARCHSPEC": build or ARCHITECTURES.get(architecture, architecture),
    }


def pretend_installed(prefix: Path, packages: Iterable[LockedPackage]) -> None:
    """Make a prefix whose records say that the packages are in it: a solver keeps what is installed."""
    meta = prefix / "conda-meta"
    meta.mkdir(parents=True)
    (meta / "history").touch()
    for package in packages:
        base, _, file_name = package.url.rpartition("/")
        file_name = unquote(file_name)
        record = {
            "name": package.name,
            "version": package.version,
            "build": package.build,
            "build_number": package.build_number,
            "channel": base,
            "subdir": base.rpartition("/")[2],
            "fn": file_name,
            "url": package.url,
            "md5": package.md5,
            "sha256": package.sha256,
            "depends": list(package.depends),
        }
        stem = file_name.removesuffix(".conda").removesuffix(".tar.bz2")
        if SAFE.fullmatch(stem):
            (meta / f"{stem}.json").write_text(json.dumps(record))
    python = prefix / "bin/python"
    python.parent.mkdir()
    python.write_text(NOTHING_INSTALLED)
    python.chmod(0o755)
