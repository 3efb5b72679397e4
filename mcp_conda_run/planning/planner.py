"""What does this code need beyond its template's environment, and which packages bring it?

`Planner.needs` is pure and quick and runs for every request; `Planner.plan` asks the channels, and runs only where
needs are left; `Planner.after_failure` says what a failed run was missing. Called by the runtime. Installs nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..errors import RequestError
from ..models import Environment, FoundImport, ImportContext, LockedPackage, Plan, PlannedPackage, RunError
from .conditions import Target
from .decisions import DEFAULT_CHANNEL, Machine, Planning, channel_name
from .dependencies import with_dependencies
from .failures import read_failure
from .hints import find_hints
from .imports import Found, collector_paused, imports_of, parse
from .inline import Declared, read_metadata
from .installs import add_installs
from .learned import Learned
from .magics import take_out_magics
from .offers import Offers, has_package, is_local
from .policy import Answer, Policy
from .resolver import Resolver
from .sources import InstalledMap, OnlineMap
from .specs import parse_requirement, parse_spec, python_constraint
from .tables import load_tables

if TYPE_CHECKING:
    from ..conda.channels import ChannelIndex
    from ..settings import Settings

MAX_IMPORTS = 1000
NEVER = {ImportContext.TYPE_CHECKING, ImportContext.OTHER_PLATFORM}


@dataclass(frozen=True, slots=True)
class Needs:
    """What code asks for that its environment does not have.

    Attributes:
        code: what will run: the code, its install lines replaced so that line numbers stay.
        missing: imports that count and that the environment does not offer.
        declared: what metadata blocks, install lines and the request ask for by name, and what its calls imply.
        python: a constraint on Python for the solver, such as `=3.12`; empty if the environment's will do.
        channels: names of channels that the code asks for; the policy decides.
        declared_only: whether a metadata block was found, which then is the only truth.
        notes: what the user should know.
        imports: every module that the code imports, offered or not.
    """

    code: str
    missing: tuple[FoundImport, ...] = ()
    declared: tuple[PlannedPackage, ...] = ()
    python: str = ""
    channels: tuple[str, ...] = ()
    declared_only: bool = False
    notes: tuple[str, ...] = ()
    imports: frozenset[str] = frozenset()

    @property
    def nothing(self) -> bool:
        """Say whether the template's environment serves."""
        return not (self.missing or self.declared or self.python)


class Planner:
    """Plans runs under a policy; keeps nothing between calls but what it learned.

    Args:
        policy: what may come from where.
        learned: what this machine learned about imports.
        online: public import maps, if the user switched them on.
        machine: what the runs of this machine have.
    """

    def __init__(
        self,
        policy: Policy,
        learned: Learned | None = None,
        *,
        online: OnlineMap | None = None,
        machine: Machine | None = None,
    ) -> None:
        self.policy = policy
        self.learned = learned
        self._online = online if policy.online else None
        self._machine = machine or Machine(gpu=Path("/proc/driver/nvidia/version").exists())
        self._offers = Offers()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make the planner of a machine: its policy, and what it learned and fetched, kept in the cache directory."""
        cache = settings.cache_dir / "planning"
        return cls(
            Policy.from_settings(settings), Learned(cache / "learned.json"), online=OnlineMap(cache / "import-maps")
        )

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
        with collector_paused(len(code)):
            return self._needs(code, environment, local_roots, packages, python)

    def _needs(
        self, code: str, environment: Environment, roots: Sequence[Path], packages: Sequence[str], python: str
    ) -> Needs:
        version = environment.python_version
        declared = read_metadata(code, version)
        tree = parse(code)
        if tree is None:
            without = take_out_magics(code, declared, version)
            tree = parse(without) if without != code else None
            code = without
        for text in packages:
            add_requested(text, declared, version)
        if python:
            declared.python.append(python)
        missing: tuple[FoundImport, ...]
        if declared.only:
            found, missing = imports_of(code, tree, target(environment)), ()
        else:
            if tree is not None:
                add_installs(code, tree, declared, version)
            found = self._found(code, tree, declared, environment)
            missing = self._missing(found, environment, roots)
        return Needs(
            code=code,
            imports=frozenset(item.module for item in found.imports if item.context not in NEVER),
            missing=missing,
            declared=still_needed(declared, environment),
            python=python_constraint(declared.python, version),
            channels=tuple(channel for channel in declared.channels if channel != DEFAULT_CHANNEL),
            declared_only=declared.only,
            notes=tuple(declared.notes),
        )

    def _found(self, code: str, tree: ast.Module | None, declared: Declared, environment: Environment) -> Found:
        """Find the imports of code and what its calls imply; implied packages are added to `declared`."""
        found = imports_of(code, tree, target(environment))
        if tree is not None:
            roots = {item.module.partition(".")[0] for item in found.imports if item.context not in NEVER}
            hints = find_hints(code, tree, roots)
            found.imports += hints.imports
            declared.packages += [package for package in hints.packages if not has_package(package, environment)]
        return found

    def _missing(self, found: Found, environment: Environment, roots: Sequence[Path]) -> tuple[FoundImport, ...]:
        """Return the imports that count and that neither the environment nor a directory of the user offers."""
        missing: dict[tuple[str, tuple[str, ...]], FoundImport] = {}
        served: set[int] = set()
        local: dict[str, bool] = {}
        for item in found.imports:
            if item.context in NEVER or (item.context is ImportContext.ALTERNATIVE and not item.group):
                continue
            left = self._offers.lacks(item, environment)
            if left is None:
                served |= {item.group} if item.context is ImportContext.ALTERNATIVE else set()
                continue
            top = item.module.partition(".")[0]
            if top not in local:
                local[top] = is_local(top, roots, found.local)
            if not local[top]:
                before = missing.get((left.module, left.names))
                if before is None or (counts_less(before) and not counts_less(left)):
                    missing[left.module, left.names] = left
        return tuple(item for item in missing.values() if not item.group or item.group not in served)

    async def plan(
        self, needs: Needs, index: ChannelIndex, *, can_ask: bool = False, configured: Sequence[str] = ()
    ) -> Plan:
        """Name a package for each need, confirmed by the index; unknown imports come back with candidates.

        Args:
            needs: what `needs` or `after_failure` returned.
            index: what the channels have; it should cover `Policy.extra_channels` behind the configured channels.
            can_ask: whether there is a user who can be asked about packages of PyPI (see `to_ask`).
            configured: names or URLs of the channels that serve anyway, and that may be asked for by name, too.

        Raises:
            RequestError: the code asks for a channel or a package that the policy does not allow, or for far too much.
            InstallError: a package that was asked for by name is in no channel, or the channels cannot be asked.
        """
        self._check_channels(needs, configured)
        if len({item.module.partition(".")[0] for item in needs.missing}) > MAX_IMPORTS:
            raise RequestError(
                f"The code imports {len(needs.missing)} modules that the environment does not have.",
                hint=f"At most {MAX_IMPORTS} are looked for; ask for the packages by name with `packages`.",
                code="too-many-imports",
            )
        return await self._planning(index, can_ask).make(needs)

    def _check_channels(self, needs: Needs, configured: Sequence[str]) -> None:
        """Refuse what is asked for from channels that are neither configured nor allowed; an engine would add them."""
        asked = [(channel, "The code asks for") for channel in needs.channels]
        asked += [(p.channel, f"{p.spec} is asked for, from") for p in needs.declared if p.channel]
        served = {DEFAULT_CHANNEL, *map(channel_name, configured)}
        for channel, who in asked:
            if channel not in served and not self.policy.permits_channel(channel):
                raise RequestError(
                    f"{who} the channel {channel}, which is not allowed.",
                    hint=f"Add it to the setting allow_channels (MCP_CONDA_RUN_ALLOW_CHANNELS=conda-forge,{channel}).",
                    code="channel-not-allowed",
                )

    async def with_dependencies(self, plan: Plan, wheels: Sequence[LockedPackage], index: ChannelIndex) -> Plan:
        """Return a plan in which the channels serve what its packages of PyPI need, as far as they have it.

        Args:
            plan: what `plan` returned.
            wheels: what its packages of PyPI come to, with all that these need.
            index: as for `plan`.

        Raises:
            InstallError: the channels cannot be asked.
        """
        return await with_dependencies(self._planning(index, can_ask=False), plan, wheels)

    def _planning(self, index: ChannelIndex, can_ask: bool) -> Planning:
        tables = load_tables()
        return Planning(
            policy=self.policy,
            tables=tables,
            resolver=Resolver(tables, self.learned, [InstalledMap()], platform=index.platform),
            online=self._online,
            machine=self._machine,
            index=index,
            can_ask=can_ask,
        )

    def to_ask(self, plan: Plan, *, can_ask: bool) -> tuple[PlannedPackage, ...]:
        """Return the packages of a plan that the user must agree to before they are installed."""
        traps = load_tables().traps if any(package.manager == "pypi" for package in plan.packages) else frozenset()
        verdicts = ((package, self.policy.judge(package, can_ask=can_ask, traps=traps)) for package in plan.packages)
        return tuple(package for package, verdict in verdicts if verdict.answer is Answer.ASK)

    def confirm(self, plan: Plan, environment: Environment) -> tuple[PlannedPackage, ...]:
        """Compare a plan with the environment made from it; return the packages that did not bring their import.

        Both outcomes are remembered, so that the next plan does better.
        """
        return self.learned.confirm(plan.packages, environment) if self.learned else ()

    def after_failure(
        self,
        needs: Needs,
        error: RunError,
        *,
        environment: Environment,
        missing: Sequence[str] = (),
        stderr: str = "",
        tried: Collection[str] = (),
    ) -> Needs | None:
        """Say what a failed run was missing: all needs with the new ones, or None where nothing new is named.

        Args:
            needs: what the run was planned with.
            error: the exception.
            environment: what it ran in, with all that was added to the template.
            missing: module names that the ImportErrors of the exception's chain carry.
            stderr: the end of what the run wrote there.
            tried: names of packages that were added in earlier rounds; they are never asked for again.
        """
        found = read_failure(error, missing, stderr, environment)
        before = {(item.module, item.names) for item in needs.missing}
        new = [item for item in found.imports if (item.module, item.names) not in before]
        names = {*tried, *(package.name for package in needs.declared)}
        packages = {
            package.name: package
            for package in found.packages
            if package.name not in names and not has_package(package, environment)
        }
        new = [item for item in new if self._offers.lacks(item, environment) is not None and item.module not in names]
        if not new and not packages:
            return None
        return replace(
            needs,
            missing=(*needs.missing, *new),
            declared=(*needs.declared, *packages.values()),
            notes=(*needs.notes, *found.notes),
        )


def target(environment: Environment) -> Target:
    """Return what conditions in code are judged by: the Python that it will run under."""
    return Target(version=tuple(int(part) for part in re.findall(r"\d+", environment.python_version)[:3]))


def counts_less(item: FoundImport) -> bool:
    """Say whether an import may fail without harm."""
    return item.context in {ImportContext.OPTIONAL, ImportContext.ALTERNATIVE, ImportContext.HINT}


def add_requested(text: str, declared: Declared, python: str) -> None:
    """Add what the request's `packages` ask for: a match spec, or `pypi:` and a requirement."""
    if text.strip().lower().startswith("pypi:"):
        requirement = parse_requirement(text.strip()[5:].lstrip(":"))
        declared.add_requirement(requirement, "requested", "asked for by name", python)
    else:
        declared.add_spec(parse_spec(text), "requested", "asked for by name")


def still_needed(declared: Declared, environment: Environment) -> tuple[PlannedPackage, ...]:
    """Return what an environment does not have of the declared packages.

    A package that is asked for more than once is needed in a version that suits all. A metadata block is the only
    truth: if anything in it is missing, all of it is needed.
    """
    missing = {(p.manager, p.name) for p in declared.packages if not has_package(p, environment)}
    everything = bool(declared.only and missing)
    return tuple(p for p in declared.packages if everything or (p.manager, p.name) in missing)
