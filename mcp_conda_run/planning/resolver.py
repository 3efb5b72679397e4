"""From an import to the package that brings it, with the reason; or to an honest no.

Called by the planner with everything that the environment does not offer. Rules and tables only propose; the channel's
index disposes, in one question for all imports together. Never installs, and never makes up a name for PyPI.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from packaging.utils import canonicalize_name

from ..models import PackageFacts, PlannedPackage
from .tables import VERSION_PART, Entry, Tables, spelled

if TYPE_CHECKING:
    from .learned import Learned

MAX_PARTS = 6
AFFIXES = ("py-{}", "{}-py", "python-{}", "{}-python", "django-{}")
"""Measured to be right for 94 to 100 of 100 imports where the import's own name is no Python package."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A package that may bring an import.

    Attributes:
        names: conda packages, preferred first; any that the index knows will do.
        decision: which rule proposes it.
        reason: the same as a sentence.
        confidence: 0 to 1.
        evidence: whether the index must confirm that it is a Python package.
        channel: the channel that it must come from, if it is not a configured one.
        pypi: the project on PyPI, if no channel has any of the names.
        companions: packages that come along.
    """

    names: tuple[str, ...]
    decision: str
    reason: str
    confidence: float
    evidence: bool = True
    channel: str = ""
    pypi: str = ""
    companions: tuple[str, ...] = ()


class Source(Protocol):
    """Mapping data from elsewhere: it proposes names for imports, and nothing is believed before the index agrees."""

    name: str

    def lookup(self, module: str) -> Sequence[str]:
        """Return conda packages that may bring this module, best first."""


def spellings(name: str) -> tuple[str, ...]:
    """Return the ways in which a package named like an import may be written: as it is, lower case, with dashes."""
    lower = name.lower()
    return tuple(dict.fromkeys((lower, lower.replace("_", "-"))))


def joined(parts: Sequence[str], begin: str = "") -> Iterator[str]:
    """Yield the names that packages under a shared root have: `a-b-c`, `a.b-c`, `a-b_c`, with `begin` for the root."""
    head = [begin] if begin else []
    lower = [part.lower() for part in parts]
    dashed = [part.replace("_", "-") for part in lower]
    root = begin or dashed[0]
    rest, plain = (dashed, lower) if begin else (dashed[1:], lower[1:])
    if not rest:
        yield root
        return
    yield "-".join([root, *rest])
    yield ".".join([*head, *dashed])
    yield "-".join([root, *plain])
    yield ".".join([*head, *lower])
    yield "_".join([*head, *lower])


class Resolver:
    """Proposes packages for imports, in the order: table, namespace, identity, affix, learned, maps.

    Args:
        tables: the facts.
        learned: what this machine learned.
        sources: mapping data from elsewhere.
        platform: conda's name of the platform, for projects of PyPI that are not for all; empty for any.
    """

    def __init__(
        self,
        tables: Tables,
        learned: Learned | None = None,
        sources: Sequence[Source] = (),
        *,
        platform: str = "",
    ) -> None:
        self.tables = tables
        self._platform = platform
        self._learned = learned
        self._sources = sources

    def targets(self, module: str, names: Iterable[str]) -> tuple[str, ...]:
        """Return what an import stands for: the module, or for parts of a shared root each part by itself."""
        shared = self.tables.namespace(module) != ""
        split = [f"{module}.{name}" for name in names if shared or f"{module}.{name}" in self.tables.imports]
        return tuple(dict.fromkeys(split)) or (module,)

    def proposals(self, module: str) -> tuple[Proposal, ...]:
        """Return all proposals for a module, in the order in which they are to be tried; empty for a hopeless one."""
        if not module.isascii():
            return ()
        found = [*self._by_rules(module), *self._by_data(module)]
        bad = self._learned.refuted(module) if self._learned else frozenset()
        kept = (p for p in found if not bad.issuperset(p.names) or not p.names)
        return tuple(kept)

    def _by_rules(self, module: str) -> Iterator[Proposal]:
        root = module.partition(".")[0]
        namespace = self.tables.namespace(module)
        entry = self.tables.entry(module, shortest=namespace.count(".") + 2 if namespace else 1)
        if entry:
            yield from by_table(*entry)
            return
        if namespace:
            yield from self._by_namespace(module, namespace)
            entry = self.tables.entry(module)
            if namespace in self.tables.bare and module != namespace:
                return
            if entry:
                yield from by_table(*entry)
                return
        yield by_identity(root)
        yield from by_affix(root)
        if spelled(root) in self.tables.same:
            reason = f"{root} is known to be brought by the package of its name"
            yield Proposal((), "override", reason, 1, pypi=canonicalize_name(root))
        if "." in module and not namespace:
            for parts in prefixes(module, 2):
                name = ".".join(parts)
                yield Proposal(tuple(joined(parts)), "namespace", f"{name} is a package's name with dots", 0.8)

    def _by_namespace(self, module: str, namespace: str) -> Iterator[Proposal]:
        depth = namespace.count(".") + 1
        for parts in prefixes(module, depth + 1):
            under = [VERSION_PART.sub("", part) for part in parts[depth:]]
            names: list[str] = []
            for begin in self.tables.namespaces[namespace]:
                if begin:
                    names += joined(under, begin)
                else:
                    names += joined([*parts[:depth], *under])
            reason = f"{namespace} is shared by many packages, named after their modules"
            yield Proposal(tuple(dict.fromkeys(names)), "namespace", reason, 0.95)

    def _by_data(self, module: str) -> Iterator[Proposal]:
        if self._learned and (package := self._learned.package(module)):
            yield Proposal((package,), "learned", f"{package} was seen to bring {module} on this machine", 0.95)
        for source in self._sources:
            for prefix in (".".join(parts) for parts in prefixes(module, 1)):
                names = tuple(source.lookup(prefix))
                if len(names) == 1:
                    yield Proposal(names, "map", f"{source.name} lists it for {prefix}", 0.8)
                    break

    def decide(
        self, module: str, proposals: Iterable[Proposal], facts: Mapping[str, PackageFacts]
    ) -> PlannedPackage | None:
        """Return the package that brings a module: from a channel if any has it, else from PyPI if that is known."""
        proposals = tuple(proposals)
        chosen = choose(proposals, facts)
        if chosen is not None:
            proposal, fact = chosen
            channel = proposal.channel if fact.channel == proposal.channel else ""
            return PlannedPackage(
                spec=f"{channel}::{fact.name}" if channel else fact.name,
                name=fact.name,
                import_name=module,
                decision=proposal.decision,
                reason=proposal.reason,
                confidence=proposal.confidence,
                channel=channel,
            )
        for proposal in proposals:
            if proposal.pypi and self._fits(proposal.pypi):
                reason = f"{proposal.pypi} on PyPI is known to bring {module}, and no channel here has it"
                return PlannedPackage(proposal.pypi, proposal.pypi, "pypi", module, proposal.decision, reason, 0.9)
        return None

    def _fits(self, project: str) -> bool:
        """Say whether a project of PyPI is of any use on this platform."""
        return not self._platform or self._platform.startswith(self.tables.platform_of(project))

    def conda_names(self, project: str) -> Iterator[Proposal]:
        """Propose conda packages for a project of PyPI, by its name."""
        wanted = canonicalize_name(project)
        if names := self.tables.projects.get(wanted):
            yield Proposal(names, "declared", f"{project} on PyPI is {names[0]} in the channel", 1, evidence=False)
            return
        if known := self.tables.imports.get(project):
            yield from (replace(p, decision="declared") for p in by_table(project, known) if p.names)
        under = wanted.replace("-", "_")
        dots = project.lower()
        names = tuple(dict.fromkeys((wanted, dots, under, wanted.replace("-", "."))))
        yield Proposal(names, "declared", f"{project} has the same name in the channel", 0.95)
        names = tuple(affix.format(wanted) for affix in AFFIXES[:-1])
        yield Proposal(names, "declared", f"{project} with the channel's affix for Python packages", 0.9)
        for source in self._sources:
            names = tuple(source.lookup(under))
            if len(names) == 1:
                yield Proposal(names, "declared", f"{source.name} lists it for {project}", 0.8)


def prefixes(module: str, shortest: int) -> Iterator[list[str]]:
    """Yield the dotted prefixes of a module, longest first; parts that look like classes are left out."""
    parts = module.split(".")[:MAX_PARTS]
    for length in range(len(parts), shortest - 1, -1):
        yield parts[:length]


def by_table(prefix: str, entry: Entry) -> Iterator[Proposal]:
    """Propose what the table says; it knows more than any index about what is a Python package."""
    if entry.conda or entry.pypi:
        what = entry.conda[0] if entry.conda else f"{entry.pypi} on PyPI"
        yield Proposal(
            entry.conda or spellings(entry.pypi),
            "override",
            f"{what} is known to bring {prefix}",
            1,
            evidence=not entry.conda,
            channel=entry.channel,
            pypi=entry.pypi,
            companions=entry.companions,
        )


def by_identity(root: str) -> Proposal:
    """Propose the package of the import's own name, if it is a Python package."""
    return Proposal(spellings(root), "identity", f"a Python package of the name {root}", 0.95)


def by_affix(root: str) -> Iterator[Proposal]:
    """Propose the channel's usual affixes for Python packages whose name something else has."""
    for affix in AFFIXES:
        names = tuple(affix.format(spelling) for spelling in spellings(root))
        yield Proposal(names, "affix", f"a Python package of the name {affix.format(root)}", 0.85)


def choose(proposals: Iterable[Proposal], facts: Mapping[str, PackageFacts]) -> tuple[Proposal, PackageFacts] | None:
    """Return the first proposal that the index confirms, with what it says."""
    for proposal in proposals:
        for name in proposal.names:
            fact = facts.get(name)
            if fact is not None and (fact.is_python or not proposal.evidence):
                return proposal, fact
    return None
