"""What a piece of code needs, and why: made by `planning/`, used by `environments/`, shown to the user."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from packaging.utils import canonicalize_name

from .environment import LockedPackage


class ImportContext(StrEnum):
    """Where in the code an import stands, which says whether it counts."""

    PLAIN = "plain"
    LAZY = "lazy"  # in a function body
    OPTIONAL = "optional"  # in a try body whose handler catches ImportError
    ALTERNATIVE = "alternative"  # in the handler: only if the try body's fails
    TYPE_CHECKING = "type-checking"  # never runs
    OTHER_PLATFORM = "other-platform"  # never runs here
    DYNAMIC = "dynamic"  # import_module("x"), __import__("x"), importorskip("x")
    HINT = "hint"  # not an import: a call or an argument that needs this module, such as read_excel


@dataclass(frozen=True, slots=True)
class FoundImport:
    """One import in the code: the dotted module, what is taken from it, and where it stands.

    Attributes:
        module: the dotted module, such as `google.cloud`.
        names: what `from module import names` takes from it.
        context: where it stands.
        line: its line, from 1; 0 if it stands in no line.
        group: the number of the try statement whose body and handlers hold alternatives; 0 for none.
        why: what asks for the module where no import does, such as `read_excel`.
    """

    module: str
    names: tuple[str, ...] = ()
    context: ImportContext = ImportContext.PLAIN
    line: int = 0
    group: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A package that may be meant by an unknown import; offered, never installed by itself."""

    name: str
    channel: str
    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedPackage:
    """A package that the code needs, and why.

    Attributes:
        spec: the match spec given to the solver, such as `gdal >=3.8`.
        name: the package's name.
        manager: `conda` or `pypi`.
        import_name: the import that led to it; empty for a package that was asked for by name.
        decision: which rule decided: `override`, `namespace`, `identity`, `affix`, `map`, `online`, `learned`,
            `hint`, `companion`, `dependency`, `declared`, `requested`, `runtime`.
        reason: the same as a sentence.
        confidence: 0 to 1.
        channel: the channel that the spec is bound to; empty for any configured one.
        fallback: the spec to take where no channel has the build that `spec` prefers; empty if it prefers none.
    """

    spec: str
    name: str
    manager: str = "conda"
    import_name: str = ""
    decision: str = "identity"
    reason: str = ""
    confidence: float = 1.0
    channel: str = ""
    fallback: str = ""


Ask = Callable[[Sequence[PlannedPackage]], Awaitable[bool]]
"""Asks the user whether these packages of PyPI may be installed."""


@dataclass(frozen=True, slots=True)
class UnknownImport:
    """An import that no rule could name a package for; the run goes ahead without it."""

    import_name: str
    reason: str
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a piece of code needs beyond what the template's environment offers.

    Attributes:
        packages: what to add, and why.
        unknown: imports that no package is known for.
        python: a constraint on Python; empty if the template's will do.
        channels: further channels that the packages come from.
        notes: what the user should know.
        solution: where it was asked for, all packages that would be added, with versions and sizes.
    """

    packages: tuple[PlannedPackage, ...] = ()
    unknown: tuple[UnknownImport, ...] = ()
    python: str = ""
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    solution: tuple[LockedPackage, ...] = ()

    def solved(self, package: PlannedPackage) -> LockedPackage | None:
        """Return what a package of the plan comes to; None if that was not asked for, or it is there already."""
        name = canonicalize_name(package.name) if package.manager == "pypi" else package.name
        return next((one for one in self.solution if (one.manager, one.name) == (package.manager, name)), None)

    @property
    def download_bytes(self) -> int:
        """Return the size of all archives of the solution; what the cache has is not fetched again."""
        return sum(package.size_bytes for package in self.solution)
