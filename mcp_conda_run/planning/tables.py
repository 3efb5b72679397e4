"""The facts that planning rests on, read once from the TOML files beside this module.

`overrides.toml` says which package an import comes from where no rule can know it, `companions.toml` which packages
come along and which variants are wanted; `hints.py` and `failures.py` read `hints.toml`. The files are data: no code in
them, and none here that knows a package by name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from packaging.utils import canonicalize_name


@dataclass(frozen=True, slots=True)
class Entry:
    """What the table knows of one import.

    Attributes:
        conda: names of conda packages, preferred first; empty if no channel has one.
        channel: the channel, where it is not conda-forge.
        pypi: the project's name on PyPI; empty if it is not there.
        companions: conda packages that the module is of no use without.
        why_not: why no package can be had, where that is known (a module of Python 2, of an application).
    """

    conda: tuple[str, ...] = ()
    channel: str = ""
    pypi: str = ""
    companions: tuple[str, ...] = ()
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """Which build of a package is wanted, and when: on machines with no `gpu`, or with no `display`."""

    build: str
    without: str


@dataclass(frozen=True)
class Tables:
    """All the facts.

    Attributes:
        imports: dotted import -> entry.
        namespaces: root, or dotted root, of imports that many packages share -> what the packages' names begin with.
        same: imports, lower case with dashes, that a package of the same name brings, in the channel or on PyPI.
        traps: names on PyPI that people take for the project of an import, normalised, and are not.
        projects: PyPI name, normalised -> conda names, where they differ.
        companions: conda package -> packages that it is of no use without.
        variants: conda package -> wanted builds.
    """

    imports: Mapping[str, Entry]
    namespaces: Mapping[str, tuple[str, ...]]
    same: frozenset[str]
    traps: frozenset[str]
    projects: Mapping[str, tuple[str, ...]]
    companions: Mapping[str, tuple[str, ...]]
    variants: Mapping[str, tuple[Variant, ...]]

    def entry(self, module: str, *, shortest: int = 1) -> tuple[str, Entry] | None:
        """Return the entry of the longest dotted prefix of at least `shortest` parts, with that prefix."""
        parts = module.split(".")
        for length in range(min(len(parts), 8), shortest - 1, -1):
            prefix = ".".join(parts[:length])
            if prefix in self.imports:
                return prefix, self.imports[prefix]
        return None

    def namespace(self, module: str) -> str:
        """Return the longest namespace root that a module stands under, or an empty string."""
        parts = module.split(".")
        prefixes = (".".join(parts[:length]) for length in range(min(len(parts), 6), 0, -1))
        return next((prefix for prefix in prefixes if prefix in self.namespaces), "")


def names(value: Any) -> tuple[str, ...]:
    """Read a name or a list of names."""
    return (value,) if isinstance(value, str) else tuple(str(part) for part in value)


def read(file: str) -> dict[str, Any]:
    """Read one of our TOML files."""
    return tomllib.loads(resources.files(__package__).joinpath(file).read_text("utf-8"))


def read_entry(value: Any) -> Entry:
    """Read a row: a conda name (then PyPI's is the same), or a table of what is known."""
    if isinstance(value, str):
        return Entry((value,), pypi=value)
    conda = names(value.get("conda", ()))
    return Entry(
        conda,
        value.get("channel", ""),
        value.get("pypi", conda[0] if conda else ""),
        names(value.get("with", ())),
        value.get("why_not", ""),
    )


def rows(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the rows of all fields of science."""
    for section in document.values():
        yield from section.items()


@cache
def load_tables() -> Tables:
    """Read the facts; about 30 ms once a process, and never for code that the template serves."""
    document = read("overrides.toml")
    lists = document.pop("lists")
    namespaces = document.pop("namespaces")
    same_names = document.pop("same")
    imports = {key: read_entry(value) for key, value in rows(document)}
    companions = read("companions.toml")
    projects = {str(canonicalize_name(entry.pypi)): entry.conda for entry in imports.values() if entry.pypi}
    projects |= {str(canonicalize_name(key)): names(value) for key, value in lists["projects"].items()}
    projects = {project: conda for project, conda in projects.items() if conda}
    known = {canonicalize_name(entry.pypi) for entry in imports.values() if entry.pypi}
    same = {canonicalize_name(name) for field in same_names.values() for name in field}
    roots = {canonicalize_name(key) for key, entry in imports.items() if "." not in key and not entry.why_not}
    return Tables(
        imports=imports,
        namespaces={key: names(value) for key, value in namespaces.items()},
        same=frozenset(same),
        traps=frozenset((roots | {canonicalize_name(name) for name in lists["traps"]}) - known - same),
        projects=projects,
        companions={key: names(value) for key, value in companions["always"].items()},
        variants={
            key: tuple(Variant(row["build"], row["without"]) for row in value)
            for key, value in companions["variants"].items()
        },
    )
