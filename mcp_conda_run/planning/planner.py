"""What does this code need beyond its template's environment, and which packages bring it?

`Planner.needs` is pure and quick and runs for every request; `Planner.plan` asks the channels, and runs only where
needs are left; `Planner.after_failure` says what a failed run was missing. Called by the runtime. Installs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from ..errors import InstallError, RequestError
from ..models import (
    Candidate,
    Environment,
    FoundImport,
    ImportContext,
    PackageFacts,
    Plan,
    PlannedPackage,
    UnknownImport,
)
from .conditions import Target
from .imports import Found, find_imports, parse
from .inline import Declared, read_metadata
from .magics import take_out_magics
from .policy import Answer, Policy
from .resolver import Proposal, Resolver, choose
from .specs import conda_version, parse_requirement, parse_spec, python_constraint
from .tables import load_tables

if TYPE_CHECKING:
    from ..conda.channels import ChannelIndex
    from .learned import Learned

MAX_IMPORTS = 1000
NEVER = {ImportContext.TYPE_CHECKING, ImportContext.OTHER_PLATFORM}


@dataclass(frozen=True, slots=True)
class Needs:
    """What code asks for that its environment does not have.

    Attributes:
        code: what will run: the code, its install lines replaced so that line numbers stay.
        missing: imports that count and that the environment does not offer.
        declared: what metadata blocks, install lines and the request ask for by name.
        python: a constraint on Python for the solver, such as `=3.12`; empty if the environment's will do.
        channels: names of channels that the code asks for; the policy decides.
        declared_only: whether a metadata block was found, which then is the only truth.
        notes: what the user should know.
    """

    code: str
    missing: tuple[FoundImport, ...] = ()
    declared: tuple[PlannedPackage, ...] = ()
    python: str = ""
    channels: tuple[str, ...] = ()
    declared_only: bool = False
    notes: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Say whether the template's environment serves."""
        return not (self.missing or self.declared or self.python)


class Planner:
    """Plans runs under a policy; keeps nothing between calls but what it learned."""

    def __init__(self, policy: Policy, learned: Learned | None = None) -> None:
        self.policy = policy
        self.learned = learned
        self._namespaces: dict[str, frozenset[str]] = {}

    # --- what is needed -----------------------------------------------------------------------------------------------

    def needs(
        self,
        code: str,
        *,
        environment: Environment,
        local_roots: Sequence[Path] = (),
        packages: Sequence[str] = (),
        python: str = "",
    ) -> Needs:
        """Say what code needs beyond what its environment has.

        Args:
            code: Python source text, perhaps with install lines.
            environment: the template's.
            local_roots: directories whose modules the code can import; they are never installed over.
            packages: match specs, or `pypi:` and a requirement.
            python: a Python version, such as `3.12`.

        Raises:
            RequestError: something asked for cannot be had at all.
        """
        declared = read_metadata(code, environment.python_version)
        tree = parse(code)
        if tree is None:
            code = take_out_magics(code, declared, environment.python_version)
        for text in packages:
            add_requested(text, declared, environment.python_version)
        if python:
            declared.python.append(python)
        missing: tuple[FoundImport, ...] = ()
        if not declared.only:
            version = tuple(int(part) for part in re.findall(r"\d+", environment.python_version)[:3])
            found = find_imports(code, Target(version=version), tree)
            missing = self._missing(found, environment, local_roots)
        return Needs(
            code=code,
            missing=missing,
            declared=tuple(package for package in declared.packages if not satisfied(package, environment)),
            python=python_constraint(declared.python, environment.python_version),
            channels=tuple(declared.channels),
            declared_only=declared.only,
            notes=tuple(declared.notes),
        )

    def _missing(self, found: Found, environment: Environment, roots: Sequence[Path]) -> tuple[FoundImport, ...]:
        """Return the imports that count and that neither the environment nor a directory of the user offers."""
        missing: dict[tuple[str, tuple[str, ...]], FoundImport] = {}
        served: set[int] = set()
        for item in found.imports:
            if item.context in NEVER:
                continue
            left = self._not_offered(item, environment)
            if left is None:
                served |= {item.group} if item.context is ImportContext.ALTERNATIVE else set()
            elif (left.module, left.names) not in missing and not is_local(item.module, roots, found.local):
                missing[left.module, left.names] = left
        return tuple(item for item in missing.values() if not item.group or item.group not in served)

    def _not_offered(self, item: FoundImport, environment: Environment) -> FoundImport | None:
        """Return what of an import the environment does not offer; None if it offers all of it."""
        parts = item.module.split(".")
        if parts[0] in environment.stdlib:
            return None
        modules = environment.modules
        if any(".".join(parts[:length]) in modules for length in range(1, len(parts) + 1)):
            return None
        if item.module not in self._shared(environment):
            return item
        names = tuple(name for name in item.names if f"{item.module}.{name}" not in self._known(environment))
        return replace(item, names=names) if names else None

    def _known(self, environment: Environment) -> Collection[str]:
        return environment.modules.keys() | self._shared(environment)

    def _shared(self, environment: Environment) -> frozenset[str]:
        """Return the namespace packages of an environment: parents of its modules that are none themselves."""
        shared = self._namespaces.get(environment.key)
        if shared is None:
            dotted = (module.split(".") for module in environment.modules if "." in module)
            shared = frozenset(".".join(parts[:length]) for parts in dotted for length in range(1, len(parts)))
            self._namespaces = {**dict(list(self._namespaces.items())[-31:]), environment.key: shared}
        return shared

    # --- which packages bring it --------------------------------------------------------------------------------------

    async def plan(self, needs: Needs, index: ChannelIndex, *, can_ask: bool = False) -> Plan:
        """Name a package for each need, confirmed by the index; unknown imports come back with candidates.

        Raises:
            RequestError: the code asks for a channel or a package that the policy does not allow, or for far too much.
            InstallError: a package that was asked for by name is in no channel, or the channels cannot be asked.
        """
        for channel in needs.channels:
            if not self.policy.permits_channel(channel):
                raise RequestError(
                    f"The code asks for the channel {channel}, which is not allowed.",
                    hint=f"Add it to the setting allow_channels (MCP_CONDA_RUN_ALLOW_CHANNELS=conda-forge,{channel}).",
                    code="channel-not-allowed",
                )
        if len(needs.missing) > MAX_IMPORTS:
            raise RequestError(
                f"The code imports {len(needs.missing)} modules that the environment does not have.",
                hint=f"At most {MAX_IMPORTS} are looked for; ask for the packages by name with `packages`.",
                code="too-many-imports",
            )
        return await Planning(self, needs, index, can_ask).make()


class Planning:
    """One call of `plan`: proposals for everything first, then one question to the index, then decisions."""

    def __init__(self, planner: Planner, needs: Needs, index: ChannelIndex, can_ask: bool) -> None:
        self.policy = planner.policy
        self.tables = load_tables()
        self.resolver = Resolver(self.tables, planner.learned)
        self.needs = needs
        self.index = index
        self.can_ask = can_ask
        self.packages: dict[tuple[str, str], PlannedPackage] = {}
        self.unknown: list[UnknownImport] = []
        self.notes: list[str] = []
        self.facts: Mapping[str, PackageFacts] = {}

    async def make(self) -> Plan:
        """Make the plan."""
        wanted = [
            (item, module, self.resolver.proposals(module))
            for item in self.needs.missing
            for module in self.resolver.targets(item.module, item.names)
        ]
        asked = [(package, tuple(self._proposals_by_name(package))) for package in self.needs.declared]
        proposals = [p for _, _, found in wanted for p in found] + [p for _, found in asked for p in found]
        self.facts = await self.index.describe({name for p in proposals for name in (*p.names, *p.companions)})
        for package, found in asked:
            self._decide_named(package, found)
        self._decide_imports(wanted)
        return Plan(
            packages=tuple(self.packages.values()),
            unknown=tuple(self.unknown),
            python=self.needs.python,
            channels=self.needs.channels,
            notes=tuple(self.notes),
        )

    def _proposals_by_name(self, package: PlannedPackage) -> Iterable[Proposal]:
        if package.manager == "conda":
            yield Proposal((package.name,), package.decision, package.reason, 1, evidence=False)
            yield from self.resolver.conda_names(package.name)
        elif package.decision == "declared":
            yield from self.resolver.conda_names(package.name)

    def _decide_named(self, package: PlannedPackage, proposals: Sequence[Proposal]) -> None:
        """Take a package that was asked for by name, under the name that the channel has for it."""
        chosen = choose(proposals, self.facts)
        if package.manager == "conda" and (package.channel or package.name in self.facts):
            self._add(package)
        elif chosen is not None:
            self._add(as_conda(package, chosen[1].name))
        elif package.manager == "pypi":
            self._add(package)
        else:
            raise InstallError(
                f"No channel has a package {package.name} for {self.index.platform}.",
                hint=f"Check the name; for a project of PyPI ask for `pypi:{package.name}`.",
                code="unknown-package",
            )

    def _decide_imports(self, wanted: Sequence[tuple[FoundImport, str, Sequence[Proposal]]]) -> None:
        """Take a package for each import; alternatives of a try statement only where its body has none."""
        served: set[int] = set()
        for item, module, proposals in wanted:
            if item.context is not ImportContext.ALTERNATIVE and self._decide(item, module, proposals):
                served.add(item.group)
        for item, module, proposals in wanted:
            if item.context is ImportContext.ALTERNATIVE and item.group and item.group not in served:
                self._decide(item, module, proposals)

    def _decide(self, item: FoundImport, module: str, proposals: Sequence[Proposal]) -> bool:
        """Take a package for an import, from the channel or, if the policy says so, from PyPI."""
        optional = item.context in {ImportContext.OPTIONAL, ImportContext.ALTERNATIVE}
        package = self.resolver.decide(module, proposals, self.facts)
        if package is None and not optional:
            self.unknown.append(UnknownImport(module, "no rule names a package for it that the channels have"))
        if package is None or (optional and package.manager == "pypi"):
            return False
        verdict = self.policy.judge(package, can_ask=self.can_ask, traps=self.tables.traps)
        if verdict.answer is not Answer.NO:
            self._add(package)
            return True
        channel = package.manager if package.manager == "pypi" else self.facts[package.name].channel
        candidate = Candidate(package.name, channel, package.confidence, package.reason)
        self.unknown.append(UnknownImport(module, f"{verdict.reason}. {verdict.hint}", (candidate,)))
        return False

    def _add(self, package: PlannedPackage) -> None:
        """Put a package into the plan, once; what was asked for by name may not be refused silently."""
        verdict = self.policy.judge(package, can_ask=self.can_ask, traps=self.tables.traps)
        if verdict.answer is Answer.NO and package.decision in {"declared", "requested"}:
            raise RequestError(
                f"{package.name} cannot be installed: {verdict.reason}.", hint=verdict.hint, code="package-not-allowed"
            )
        if verdict.answer is Answer.NO:
            self.unknown.append(UnknownImport(package.import_name or package.name, verdict.reason))
            return
        self.packages.setdefault((package.manager, package.name), package)


def add_requested(text: str, declared: Declared, python: str) -> None:
    """Add what the request's `packages` ask for: a match spec, or `pypi:` and a requirement."""
    if text.strip().lower().startswith("pypi:"):
        requirement = parse_requirement(text.strip()[5:].lstrip(":"))
        declared.add_requirement(requirement, "requested", "asked for by name", python)
    else:
        declared.add_spec(parse_spec(text), "requested", "asked for by name")


def as_conda(package: PlannedPackage, name: str) -> PlannedPackage:
    """Translate a package that was asked for by another name into the channel's."""
    if package.manager == "pypi":
        version = conda_version(parse_requirement(package.spec).specifier)
    else:
        version = package.spec.partition("::")[2] or package.spec
        version = version.partition(" ")[2]
    note = "" if name == package.name else f"; {package.name} is {name} in the channel"
    return replace(
        package, spec=f"{name} {version}".strip(), name=name, manager="conda", reason=f"{package.reason}{note}"
    )


def satisfied(package: PlannedPackage, environment: Environment) -> bool:
    """Say whether the environment has a package, where any version of it will do."""
    name = canonicalize_name(package.name) if package.manager == "pypi" else package.name
    return name == package.spec and any(have.name == name for have in environment.packages)


def is_local(module: str, roots: Sequence[Path], mentioned: Collection[str]) -> bool:
    """Say whether a directory of the user has this module, or the code itself writes it."""
    top = module.partition(".")[0]
    if top in mentioned:
        return True
    return any(is_module(root, top) for root in roots)


def is_module(root: Path, top: str) -> bool:
    """Say whether a directory holds a module or a package of this name; a directory counts if it holds Python."""
    try:
        if (root / f"{top}.py").is_file() or any(root.glob(f"{top}.*.so")) or (root / f"{top}.so").is_file():
            return True
        folder = root / top
        return folder.is_dir() and ((folder / "__init__.py").is_file() or any(folder.glob("*.py")))
    except (OSError, ValueError):
        return False
