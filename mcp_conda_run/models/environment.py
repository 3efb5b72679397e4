"""Packages as they are pinned, and the installed prefix that is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedPackage:
    """One package, pinned: a row of a lock file, a record of a solution, or an entry of `env.json`.

    Attributes:
        url: where the archive is; the identity of the package together with `sha256`.
        sha256, md5: lower-case hexadecimal digests of the archive; empty if not known.
        size_bytes: the archive's size; 0 if not known.
        depends: match specs.
        manager: `conda` or `pypi`.
    """

    name: str
    version: str
    build: str = ""
    build_number: int = 0
    subdir: str = ""
    channel: str = ""
    url: str = ""
    sha256: str = ""
    md5: str = ""
    size_bytes: int = 0
    depends: tuple[str, ...] = ()
    manager: str = "conda"


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """What a channel says of a package name on one platform.

    Attributes:
        name: the package's name.
        channel: the first configured channel that has it.
        latest: the highest version there.
        is_python: whether it is a Python package: a noarch python package, or one that depends on python or python_abi.
    """

    name: str
    channel: str
    latest: str
    is_python: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An immutable, installed prefix on disk, with what a run must know of it (`env.json`).

    Attributes:
        key: 16 hexadecimal digits; the name of the prefix's directory.
        prefix: the prefix itself. Never written to after it is ready.
        python_version: such as `3.12.1`.
        python: the interpreter, relative to the prefix, such as `bin/python3.12`.
        modules: importable dotted names: every regular package and module whose parents are all namespace packages.
        stdlib: the interpreter's `sys.stdlib_module_names`.
        packages: what is installed.
        variables: environment variables that activation sets, with the prefix's own path in their values.
    """

    key: str
    prefix: Path
    python_version: str
    python: str
    modules: Mapping[str, str]
    stdlib: frozenset[str]
    packages: tuple[LockedPackage, ...]
    variables: Mapping[str, str]

    def offers(self, module: str) -> bool:
        """Say whether `import module` would find something (a standard module, a package, or a part of one)."""
        parts = module.split(".")
        if parts[0] in self.stdlib:
            return True
        if any(".".join(parts[:n]) in self.modules for n in range(1, len(parts) + 1)):
            return True
        return any(offered.startswith(f"{module}.") for offered in self.modules)
