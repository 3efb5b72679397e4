"""What is there already: modules of an environment, and modules of the user's own directories.

Called by the planner for every import that was found. Reads directory entries at most; never a file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from ..models import Environment, FoundImport, PlannedPackage

MAX_REMEMBERED = 32


class Offers:
    """Says what environments offer; remembers each one's namespace packages, which its module list only implies."""

    def __init__(self) -> None:
        self._shared: dict[str, frozenset[str]] = {}

    def lacks(self, item: FoundImport, environment: Environment) -> FoundImport | None:
        """Return what of an import an environment does not offer; None if it offers all of it."""
        parts = item.module.split(".")
        if parts[0] in environment.stdlib or any(head in environment.modules for head in heads(parts)):
            return None
        shared = self.namespaces(environment)
        if item.module not in shared:
            return item
        inside = (f"{item.module}.{name}" for name in item.names)
        missing = {whole for whole in inside if whole not in environment.modules and whole not in shared}
        names = tuple(name for name in item.names if f"{item.module}.{name}" in missing)
        return replace(item, names=names) if names else None

    def namespaces(self, environment: Environment) -> frozenset[str]:
        """Return the parents of an environment's modules that are no packages themselves."""
        shared = self._shared.get(environment.key)
        if shared is None:
            dotted = [module.split(".")[:-1] for module in environment.modules if "." in module]
            shared = frozenset(head for parts in dotted for head in heads(parts))
            self._shared = {**dict(list(self._shared.items())[1 - MAX_REMEMBERED :]), environment.key: shared}
        return shared


def heads(parts: Sequence[str]) -> list[str]:
    """Return the dotted heads of a name: `a`, `a.b`, `a.b.c`."""
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def has_package(package: PlannedPackage, environment: Environment) -> bool:
    """Say whether an environment has a package in a version that will do."""
    versions: Mapping[str, str] = {have.name: have.version for have in environment.packages}
    name = canonicalize_name(package.name) if package.manager == "pypi" else package.name
    if name not in versions or package.channel or "[" in package.spec:
        return False
    wanted = package.spec[len(package.name) :].strip()
    try:
        return not wanted or SpecifierSet(wanted).contains(versions[name], prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return False


def is_local(module: str, roots: Sequence[Path], mentioned: Collection[str]) -> bool:
    """Say whether a directory of the user has this module, or the code itself writes it."""
    top = module.partition(".")[0]
    return top in mentioned or any(is_module(root, top) for root in roots)


def is_module(root: Path, top: str) -> bool:
    """Say whether a directory holds a module or a package of this name; a directory counts if it holds Python."""
    try:
        if (root / f"{top}.py").is_file() or (root / f"{top}.so").is_file() or any(root.glob(f"{top}.*.so")):
            return True
        folder = root / top
        return folder.is_dir() and ((folder / "__init__.py").is_file() or any(folder.glob("*.py")))
    except (OSError, ValueError):
        return False
