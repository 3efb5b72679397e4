"""The facts that planning rests on, read once from the TOML files beside this module.

`overrides.toml` says which package an import comes from where no rule can know it, `names.toml` which imports a package
of their own name brings, `companions.toml` which packages come along and which variants are wanted; `hints.py` and
`failures.py` read `hints.toml`. The files are data: no code in them, and none here that knows a package by name. Every
command that plans reads them, so rows stay text until they are asked for.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib import resources
from typing import Any

from packaging.utils import canonicalize_name

VERSION_PART = re.compile(r"(?<=\w)_v\d+(?:[a-z]+\d+)*$")
"""How modules of one interface's versions end, in packages that are made from Google's definitions of interfaces."""


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


class Rows(Mapping[str, Entry]):
    """Dotted import -> entry; a row is read when it is asked for."""

    def __init__(self, rows: Mapping[str, Any]) -> None:
        self._rows = rows

    def __getitem__(self, module: str) -> Entry:
        return read_entry(self._rows[module])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, module: object) -> bool:
        return module in self._rows


@dataclass(frozen=True)
class Tables:
    """All the facts.

    Attributes:
        imports: dotted import -> entry.
        namespaces: root, or dotted root, of imports that many packages share -> what the packages' names begin with.
        bare: those of them whose own package brings none of the parts that are not named for it.
        same: imports, `spelled`, that a package of the same name brings, in the channel or on PyPI.
        begins: how the modules of one project begin -> that project, by the same name in the channel.
        renamed: PyPI name -> conda names, where no import says that they differ.
        wrong: names on PyPI that people take for the project of an import, and are not.
        honest: imports that another project's name is, too, which people may well want by that name.
        only: beginning of a platform's name -> patterns of the projects of PyPI that are for nothing else.
        companions: conda package -> packages that it is of no use without.
        variants: conda package -> wanted builds.
    """

    imports: Mapping[str, Entry]
    namespaces: Mapping[str, tuple[str, ...]]
    bare: frozenset[str]
    same: frozenset[str]
    begins: Mapping[str, str]
    renamed: Mapping[str, tuple[str, ...]]
    wrong: tuple[str, ...]
    honest: tuple[str, ...]
    only: Mapping[str, tuple[str, ...]]
    companions: Mapping[str, tuple[str, ...]]
    variants: Mapping[str, tuple[Variant, ...]]

    def entry(self, module: str, *, shortest: int = 1) -> tuple[str, Entry] | None:
        """Return the entry of the longest dotted prefix of at least `shortest` parts, with that prefix.

        A part that is a version of an interface (`google.cloud.tasks_v2`) is brought by the package without it.
        """
        parts = module.split(".")
        for length in range(min(len(parts), 8), shortest - 1, -1):
            prefix = ".".join(parts[:length])
            for name in dict.fromkeys((prefix, VERSION_PART.sub("", prefix))):
                if name in self.imports:
                    return prefix, self.imports[name]
                if length > 1 and spelled(name) in self.same:
                    project = spelled(name).replace(".", "-")
                    return prefix, Entry(tuple(dict.fromkeys((project, spelled(name)))), pypi=project)
        project = next((project for begin, project in self.begins.items() if parts[0].startswith(begin)), "")
        return (parts[0], Entry((project,), pypi=project)) if project else None

    def namespace(self, module: str) -> str:
        """Return the longest namespace root that a module stands under, or an empty string."""
        parts = module.split(".")
        prefixes = (".".join(parts[:length]) for length in range(min(len(parts), 6), 0, -1))
        return next((prefix for prefix in prefixes if prefix in self.namespaces), "")

    def platform_of(self, project: str) -> str:
        """Return how the names of the platforms begin that a project of PyPI is for; empty if it is for all."""
        name = canonicalize_name(project)
        for platform, patterns in self.only.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return platform
        return ""

    @cached_property
    def projects(self) -> Mapping[str, tuple[str, ...]]:
        """Return the conda names of projects of PyPI that the table knows."""
        entries = (entry for entry in self.imports.values() if entry.pypi and entry.conda)
        return {**{str(canonicalize_name(entry.pypi)): entry.conda for entry in entries}, **self.renamed}

    @cached_property
    def traps(self) -> frozenset[str]:
        """Return names on PyPI, normalised, that belong to nobody, or to something else than the import of that name.

        Those are the imports whose project has another name, as far as no known project has theirs.
        """
        aliases = {spelled(key) for key, entry in self.imports.items() if "." not in key and not entry.why_not}
        known = {canonicalize_name(entry.pypi) for entry in self.imports.values() if entry.pypi}
        return frozenset({*(aliases - self.same - {*self.honest} - known), *self.wrong})


def spelled(module: str) -> str:
    """Return a module as packages are named: in lower case, with dashes."""
    return module.lower().replace("_", "-")


def names(value: Any) -> tuple[str, ...]:
    """Read a name or a list of names."""
    return (value,) if isinstance(value, str) else tuple(str(part) for part in value)


def read(file: str) -> dict[str, Any]:
    """Read one of our TOML files."""
    return tomllib.loads(resources.files(__package__).joinpath(file).read_text("utf-8"))


def read_entry(value: Any) -> Entry:
    """Read a row: a line of `brief`, as the head of the file explains it, or a table of what is known."""
    if isinstance(value, str):
        left, bar, right = value.partition("|")
        channel, _, found = left.rpartition("::")
        conda = tuple(found.split())
        return Entry(conda, channel.strip(), right.strip() if bar else conda[0])
    conda = names(value.get("conda", ()))
    return Entry(
        conda,
        value.get("channel", ""),
        value.get("pypi", conda[0] if conda else ""),
        names(value.get("with", ())),
        value.get("why_not", ""),
    )


def rows(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the rows of all fields of science, those in brief as text."""
    for section in document.values():
        for line in section.pop("brief", "").splitlines():
            key, _, value = line.partition(" = ")
            yield key, value
        yield from section.items()


def family(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield module and project of regular names; the project is empty where it is the module's own name."""
    project = document.get("project", "")
    for end in document["ends"].split():
        for module in document["modules"]:
            yield module.replace("{}", end), project.replace("{}", spelled(end).replace(".", "-"))


@cache
def load_tables() -> Tables:
    """Read the facts; about 10 ms once a process, and never for code that the template serves."""
    document, names_document, companions = read("overrides.toml"), read("names.toml"), read("companions.toml")
    lists, namespaces = document.pop("lists"), document.pop("namespaces")
    regular = [pair for row in names_document["family"] for pair in family(row)]
    same = " ".join([*names_document["same"].values(), *(module for module, project in regular if not project)])
    return Tables(
        imports=Rows({**{module: project for module, project in regular if project}, **dict(rows(document))}),
        namespaces={key: names(value) for key, value in namespaces.items()},
        bare=frozenset(lists["bare"]),
        same=frozenset(spelled(same).split()),
        begins=names_document["begins"],
        renamed={key: names(value) for key, value in lists["projects"].items()},
        wrong=names(lists["wrong"]),
        honest=names(lists["honest"]),
        only={key: names(value) for key, value in lists["only"].items()},
        companions={key: names(value) for key, value in companions["always"].items()},
        variants={
            key: tuple(Variant(row["build"], row["without"]) for row in value)
            for key, value in companions["variants"].items()
        },
    )
