"""One plan: proposals for everything first, then one question to the channel's index, then decisions.

Made by `Planner.plan` for code whose needs are not met. Knows the policy and the tables; asks the index twice at most:
once for everything that is proposed, and once more for what is like an unknown import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from ..errors import InstallError, RequestError
from ..models import Candidate, FoundImport, ImportContext, PackageFacts, Plan, PlannedPackage, UnknownImport
from .candidates import propose, rank, skeleton
from .policy import Answer, Policy, Verdict
from .resolver import Proposal, Resolver, choose
from .specs import both_requirements, both_specs, conda_version, parse_requirement
from .tables import Tables

if TYPE_CHECKING:
    from ..conda.channels import ChannelIndex
    from .planner import Needs
    from .sources import OnlineMap

DEFAULT_CHANNEL = "conda-forge"
BY_NAME = {"declared", "requested"}
SYSTEMS = {"osx": "macOS", "win": "Windows", "linux": "Linux"}
OPTIONAL = {ImportContext.OPTIONAL, ImportContext.ALTERNATIVE, ImportContext.HINT}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the runs of this machine have: a GPU that conda's virtual packages would see, a display."""

    gpu: bool = False
    display: bool = False


@dataclass(slots=True)
class Wanted:
    """An import with one of the modules that it stands for, and what may bring that."""

    item: FoundImport
    module: str
    proposals: tuple[Proposal, ...]


@dataclass(slots=True, kw_only=True)
class Planning:
    """The making of one plan."""

    policy: Policy
    tables: Tables
    resolver: Resolver
    online: OnlineMap | None
    machine: Machine
    index: ChannelIndex
    can_ask: bool
    packages: dict[tuple[str, str], PlannedPackage] = field(default_factory=dict)
    unknown: dict[str, UnknownImport] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: Mapping[str, PackageFacts] = field(default_factory=dict)

    async def make(self, needs: Needs) -> Plan:
        """Make the plan.

        Raises:
            RequestError: something that was asked for by name is not allowed.
            InstallError: a package that was asked for by name is in no channel, or the channels cannot be asked.
        """
        wanted = self._wanted(needs.missing)
        asked = [(package, tuple(self._by_name(package))) for package in needs.declared]
        await self.ask([p for one in wanted for p in one.proposals] + [p for _, found in asked for p in found])
        for package, found in asked:
            self._decide_named(package, found)
        undecided = self._decide_imports(wanted)
        if self.online is not None and undecided:
            undecided = await self._decide_online(undecided)
        await self._explain(undecided)
        self._add_companions()
        packages = tuple(self.finished(package) for package in self.packages.values())
        bound = (p.channel for p in packages if p.channel in self.policy.extra_channels())
        channels = tuple(dict.fromkeys([*needs.channels, *bound]))
        return Plan(packages, tuple(self.unknown.values()), needs.python, channels, tuple(dict.fromkeys(self.notes)))

    def _wanted(self, missing: Iterable[FoundImport]) -> list[Wanted]:
        return [
            Wanted(item, module, self.resolver.proposals(module))
            for item in missing
            for module in self.resolver.targets(item.module, item.names)
        ]

    async def ask(self, proposals: Iterable[Proposal]) -> None:
        """Ask the index about everything that is proposed, with all that may come along."""
        names = {name for proposal in proposals for name in (*proposal.names, *proposal.companions)}
        companions = {other for name in names for other in self.tables.companions.get(name, ())}
        self.facts = {**self.facts, **await self.index.describe(names | companions)}

    # --- asked for by name --------------------------------------------------------------------------------------------

    def _by_name(self, package: PlannedPackage) -> Iterable[Proposal]:
        """Propose for a package that was asked for by name: that name, and the channel's name for such a project."""
        if package.manager == "conda":
            yield Proposal((package.name,), package.decision, package.reason, 1, evidence=False)
        if package.manager == "conda" or package.decision == "declared":
            yield from self.resolver.conda_names(package.name)

    def _decide_named(self, package: PlannedPackage, proposals: Sequence[Proposal]) -> None:
        """Take a package that was asked for by name, under the name that the channel has for it."""
        chosen = choose(proposals, self.facts)
        if chosen is not None and chosen[1].name == package.name and package.manager == "conda":
            self._add(self._unbound(package))
        elif package.manager == "conda" and package.channel and package.channel != DEFAULT_CHANNEL:
            self._add(package)
        elif chosen is not None:
            if package.manager == "pypi" and (extras := parse_requirement(package.spec).extras):
                added = ",".join(sorted(extras))
                self.notes.append(
                    f"{chosen[1].name} of the channel has no extras: ask by name for what [{added}] adds."
                )
            self._add(as_conda(package, chosen[1].name))
        elif package.manager == "pypi":
            self._add(package)
        elif package.decision in BY_NAME:
            raise InstallError(
                f"No channel has a package {package.name} for {self.index.platform}.",
                hint=f"Check the name; for a project of PyPI ask for `pypi:{package.name}`.",
                code="unknown-package",
            )
        else:
            self.notes.append(f"{package.reason}, but no channel has it.")

    def _unbound(self, package: PlannedPackage) -> PlannedPackage:
        """Free a package of `conda-forge::` where a mirror or another configured channel stands for conda-forge."""
        fact = self.facts[package.name]
        if package.channel != DEFAULT_CHANNEL or channel_name(fact.channel) == DEFAULT_CHANNEL:
            return package
        self.notes.append(f"{package.name} comes from {fact.channel}, which is configured in place of conda-forge.")
        return replace(package, spec=package.spec.removeprefix(f"{DEFAULT_CHANNEL}::"), channel="")

    # --- imports ------------------------------------------------------------------------------------------------------

    def _decide_imports(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Take a package for each import; alternatives of a try statement only where its body has none."""
        served: set[int] = set()
        undecided = []
        for one in wanted:
            if one.item.context is ImportContext.ALTERNATIVE:
                continue
            if self._decide(one):
                served.add(one.item.group)
            else:
                undecided.append(one)
        for one in wanted:
            group = one.item.group
            if one.item.context is ImportContext.ALTERNATIVE and group and group not in served:
                self._decide(one)
        return undecided

    async def _decide_online(self, undecided: Sequence[Wanted]) -> list[Wanted]:
        """Try again with what public maps say; they propose, the index disposes."""
        assert self.online is not None  # noqa: S101 - the caller asked
        await self.online.prepare(one.module for one in undecided)
        again = [Wanted(one.item, one.module, tuple(self._from_online(one.module))) for one in undecided]
        await self.ask(p for one in again for p in one.proposals)
        return [one for one, more in zip(undecided, again, strict=True) if not self._decide(more)]

    def _from_online(self, module: str) -> Iterable[Proposal]:
        assert self.online is not None  # noqa: S101
        names = tuple(self.online.lookup(module) or self.online.lookup(module.partition(".")[0]))
        if len(names) == 1:
            yield Proposal(names, "online", f"{self.online.name} lists it for {module}", 0.8)

    def _decide(self, one: Wanted) -> bool:
        """Take a package for an import, from the channel or, if the policy says so, from PyPI."""
        package = self.resolver.decide(one.module, one.proposals, self.facts)
        optional = one.item.context in OPTIONAL
        if package is None or (optional and package.manager == "pypi"):
            return False
        verdict = self.judge(package)
        if verdict.answer is not Answer.NO:
            self._add(explained(package, one.item))
            return True
        if not optional:
            channel = "pypi" if package.manager == "pypi" else self.facts[package.name].channel
            candidate = Candidate(package.name, channel, package.confidence, package.reason)
            self._unknown(one.module, f"{package.name} could bring it, but {verdict.reason}. {verdict.hint}", candidate)
        return optional

    async def _explain(self, undecided: Sequence[Wanted]) -> None:
        """Say why nothing is installed for an import, with what may have been meant."""
        open_ones = []
        named = {canonicalize_name(package.name) for package in self.packages.values()}
        for one in undecided:
            if canonicalize_name(one.module.partition(".")[0]) in named:
                continue  # asked for by the name that the import has, too
            if one.item.context is ImportContext.HINT:
                self.notes.append(f"{one.item.why} may need {one.module}, for which no channel has a package.")
            elif one.item.context not in OPTIONAL and one.module not in self.unknown:
                open_ones.append(one.module)
        near = propose(open_ones, await self._names(), self.tables) if open_ones else {}
        facts = await self.index.describe({n for found in near.values() for n in found}) if any(near.values()) else {}
        for module in open_ones:
            self._unknown(module, self._why_unknown(module), *rank(near.get(module, {}), facts))

    async def _names(self) -> frozenset[str]:
        try:
            return await self.index.names()
        except InstallError:
            return frozenset()

    def _why_unknown(self, module: str) -> str:
        """Return the best reason that is known."""
        known = self.tables.entry(module)
        if known and known[1].why_not:
            return f"there is no package for it: {known[1].why_not}"
        if known and (only := self.tables.platform_of(known[1].pypi)) and not self.index.platform.startswith(only):
            return (
                f"{known[1].pypi} brings it, which exists for {SYSTEMS[only]} only, and this is {self.index.platform}"
            )
        if known and known[1].channel:
            channel = known[1].channel
            return f"{known[1].conda[0]} in the channel {channel} brings it; see the setting allow_channels"
        if not module.isascii():
            return f"its name has letters that are not Latin; it looks like {skeleton(module)}"
        return "no rule or table names a package for it that the channels have"

    def _unknown(self, module: str, reason: str, *candidates: Candidate) -> None:
        self.unknown.setdefault(module, UnknownImport(module, reason, candidates))

    # --- what is taken ------------------------------------------------------------------------------------------------

    def judge(self, package: PlannedPackage) -> Verdict:
        """Say what the policy says of a package."""
        traps = self.tables.traps if package.manager == "pypi" else frozenset()
        return self.policy.judge(package, can_ask=self.can_ask, traps=traps)

    def _add(self, package: PlannedPackage) -> None:
        """Put a package into the plan, once; what was asked for by name is never left out silently."""
        verdict = self.judge(package)
        if verdict.answer is Answer.NO and package.decision in BY_NAME:
            raise RequestError(
                f"{package.name} cannot be installed: {verdict.reason}.", hint=verdict.hint, code="package-not-allowed"
            )
        if verdict.answer is Answer.NO:
            self.notes.append(f"{package.name} is left out: {verdict.reason}.")
            return
        name = canonicalize_name(package.name) if package.manager == "pypi" else package.name
        have = self.packages.get((package.manager, name))
        if have is not None and have.decision in BY_NAME and package.decision in BY_NAME:
            both = both_requirements if package.manager == "pypi" else both_specs
            spec = both(have.spec, package.spec)
            key = (package.manager, name if spec else f"{name} {package.spec}")
            self.packages[key] = replace(have, spec=spec) if spec else package
        else:
            self.packages.setdefault((package.manager, name), package)

    def _add_companions(self) -> None:
        """Add the packages without which those of the plan are of no use."""
        for package in tuple(self.packages.values()):
            if package.manager != "conda":
                continue
            known = self.tables.entry(package.import_name) if package.import_name else None
            own = known[1].companions if known and package.decision == "override" else ()
            for name in dict.fromkeys((*own, *self.tables.companions.get(package.name, ()))):
                if name in self.facts:
                    reason = f"{package.name} is of no use without it"
                    self._add(PlannedPackage(name, name, "conda", "", "companion", reason, 0.9))

    def finished(self, package: PlannedPackage) -> PlannedPackage:
        """Bind a package to its channel where it is not a configured one, and to the build that this machine wants."""
        fact = self.facts.get(package.name)
        if package.manager != "conda" or fact is None or package.spec != package.name:
            return package
        name = channel_name(fact.channel)
        if name in self.policy.extra_channels():
            return replace(package, spec=f"{name}::{package.name}", channel=name)
        if name == DEFAULT_CHANNEL and self.index.platform.startswith("linux"):
            for variant in self.tables.variants.get(package.name, ()):
                if not getattr(self.machine, variant.without):
                    reason = f"{package.reason}; the build for machines without {variant.without}"
                    spec = f"{package.name} * {variant.build}"
                    return replace(package, spec=spec, fallback=package.name, reason=reason)
        return package


def channel_name(channel: str) -> str:
    """Return the name of a channel that is given by name or URL."""
    return channel.rstrip("/").rpartition("/")[2]


def explained(package: PlannedPackage, item: FoundImport) -> PlannedPackage:
    """Say in a package's reason what asked for it, where that was no import."""
    if not item.why or package.manager == "pypi":
        return package
    if item.context is ImportContext.HINT:
        return replace(package, decision="hint", reason=f"{item.why} needs {package.import_name}", confidence=0.9)
    return replace(package, decision="runtime", reason=f"{item.why}; {package.reason}")


def as_conda(package: PlannedPackage, name: str) -> PlannedPackage:
    """Translate a package that was asked for by another name into the channel's."""
    if package.manager == "pypi":
        version = conda_version(parse_requirement(package.spec).specifier)
    else:
        version = (package.spec.partition("::")[2] or package.spec).partition(" ")[2]
    note = "" if name == package.name else f"; {package.name} is {name} in the channel"
    return replace(
        package, spec=f"{name} {version}".strip(), name=name, manager="conda", reason=f"{package.reason}{note}"
    )
