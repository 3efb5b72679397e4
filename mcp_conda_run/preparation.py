"""From a request to all that its run needs: the plan, and the environment that has it.

The second half of the story in `runtime.py`, which calls it before each time that code runs. Installs through
`environments/provision.py`; runs nothing of the user's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .conda.channels import ChannelIndex, EngineIndex
from .conda.engine import Engine
from .environments.prefixes import as_template_name
from .environments.provision import Provided, Provisioner
from .environments.store import Store
from .environments.templates import AUTO, Template
from .errors import InstallError, RequestError
from .models import Ask, Mount, Plan, PlannedPackage, ProgressCallback, RunRequest, UnknownImport, no_progress
from .phases import Phases
from .planning.decisions import BY_NAME
from .planning.planner import Needs, Planner
from .sandbox.conversation import Conversation
from .settings import Settings
from .source import Source
from .template_choice import TemplateChooser

MAX_PLANS = 3
"""How often a run is planned anew because a package turned out not to bring its module."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run needs.

    Attributes:
        needs: what the code asks for, and the code as it will run.
        plan: which packages bring that.
        base: the template's own environment.
        provided: the environment to run in.
        notes: what the user should know.
        tried: the names of all packages that were planned so far.
    """

    needs: Needs
    plan: Plan
    base: Provided
    provided: Provided
    notes: tuple[str, ...] = ()
    tried: frozenset[str] = frozenset()


class Preparation:
    """Prepares runs; one for each runtime."""

    def __init__(self, settings: Settings, store: Store, engine: Engine, provisioner: Provisioner) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._provisioner = provisioner
        self._planner = Planner.from_settings(settings)
        self._chooser = TemplateChooser(settings, store)
        self._indexes: dict[tuple[str, ...], ChannelIndex] = {}

    async def prepare(
        self,
        request: RunRequest,
        source: Source,
        mounts: Sequence[Mount],
        *,
        phases: Phases,
        progress: ProgressCallback,
        ask: Ask | None = None,
    ) -> Prepared:
        """Find what the code needs before it runs, and have it ready.

        Raises:
            RequestError: something asked for cannot be had at all.
            InstallError: the packages cannot be found, solved or installed.
        """
        template, chosen = await self.template(request, source, mounts)
        with phases.phase("environment"):
            base = await self._provisioner.base(template, progress)
        with phases.phase("plan"):
            needs = self.needs(request, source, mounts, base)
        made = f"The template {template.name} was not ready; it was made now. `mcp-conda-run warmup` does this."
        notes = (*chosen, *base.notes, *((made,) if base.built else ()))
        prepared = Prepared(needs, Plan(), base, base, notes)
        return await self._extend(prepared, phases, progress, ask)

    async def prepare_again(
        self, prepared: Prepared, said: Conversation, *, phases: Phases, progress: ProgressCallback, ask: Ask | None
    ) -> Prepared | None:
        """Return what another round needs, if the failure says that a package was missing which can be had.

        Raises:
            InstallError: the packages cannot be found, solved or installed.
        """
        record = said.record
        if record is None or record.error is None or prepared.needs.declared_only:
            return None
        needs = self._planner.after_failure(
            prepared.needs,
            record.error,
            environment=prepared.provided.environment,
            missing=record.missing,
            stderr=said.stderr,
            tried=prepared.tried,
        )
        if needs is None:
            return None
        again = await self._extend(replace(prepared, needs=needs), phases, progress, ask)
        new = again.provided.environment.key != prepared.provided.environment.key
        return again if new and again.tried > prepared.tried else None

    async def template(
        self, request: RunRequest, source: Source, mounts: Sequence[Mount]
    ) -> tuple[Template, tuple[str, ...]]:
        """Return the template that a run starts from, and why where it was chosen by what the code imports.

        Raises:
            RequestError: there is no such template.
            SettingsError: it cannot be used.
        """
        if request.prefix:
            if request.template:
                raise RequestError("A run starts from a template or from an environment.", hint="Give one of them.")
            return self._provisioner.template(as_template_name(request.prefix)), ()
        if (request.template or self._settings.template) != AUTO:
            return self._provisioner.template(request.template), ()
        choice = await asyncio.to_thread(self._chooser.choose, source.code, source.local_roots(mounts))
        return self._provisioner.template(choice.name), (choice.reason,)

    def needs(self, request: RunRequest, source: Source, mounts: Sequence[Mount], base: Provided) -> Needs:
        """Return what the code asks for that the template's environment does not have."""
        return self._planner.needs(
            source.code,
            environment=base.environment,
            local_roots=source.local_roots(mounts),
            packages=request.packages,
            python=request.python or "",
        )

    async def plan(self, base: Provided, needs: Needs, ask: Ask | None = None) -> Plan:
        """Return the packages for what is needed, without those that the user does not agree to."""
        if needs.nothing:
            return Plan()
        wanted = (*base.template.channels, *needs.channels, *self._planner.policy.extra_channels())
        can_ask = ask is not None
        index = self._index(tuple(dict.fromkeys(wanted)))
        plan = await self._planner.plan(needs, index, can_ask=can_ask, configured=base.template.channels)
        doubtful = self._planner.to_ask(plan, can_ask=can_ask)
        if doubtful and not (ask is not None and await ask(doubtful)):
            plan = without(plan, doubtful, "the user did not agree to it")
        return await self._with_dependencies(base, needs, plan, index)

    async def _with_dependencies(self, base: Provided, needs: Needs, plan: Plan, index: ChannelIndex) -> Plan:
        """Return the plan with what its packages of PyPI need from the channels; as it is, if PyPI cannot say."""
        try:
            wheels = await self._provisioner.foreseen(base, plan, no_progress, alone=needs.declared_only)
            return await self._planner.with_dependencies(plan, wheels, index) if wheels else plan
        except InstallError as error:
            if not error.code.startswith("pypi-"):
                return plan
            refused = derived(plan)
            if refused:  # to ask PyPI for the same again would only take time
                return without(plan, refused, error.message)
            return replace(plan, notes=(*plan.notes, error.message))

    async def _extend(
        self, prepared: Prepared, phases: Phases, progress: ProgressCallback, ask: Ask | None
    ) -> Prepared:
        """Plan, provide, and check that what came brings what it was chosen for; plan again without what does not."""
        needs, base = prepared.needs, prepared.base
        notes, tried = list(prepared.notes), set(prepared.tried)
        for _ in range(MAX_PLANS):
            with phases.phase("plan"):
                plan = await self.plan(base, needs, ask)
            provided = base
            if plan.packages or plan.python:
                with phases.phase("environment"):
                    plan, provided = await self._provide(needs, base, plan, progress)
            tried |= {package.name for package in plan.packages}
            wrong = self._planner.confirm(plan, provided.environment) if plan.packages else ()
            notes += [wrong_choice(package) for package in wrong]
            if not wrong:
                break
        unknown = tuple(item for item in plan.unknown if not provided.environment.offers(item.import_name))
        plan = replace(plan, unknown=unknown)
        notes += [*needs.notes, *plan.notes, *provided.notes]
        return replace(
            prepared, plan=plan, provided=provided, notes=tuple(dict.fromkeys(notes)), tried=frozenset(tried)
        )

    async def _provide(
        self, needs: Needs, base: Provided, plan: Plan, progress: ProgressCallback
    ) -> tuple[Plan, Provided]:
        """Return the environment, and the plan as far as it could be had.

        Packages of PyPI that nobody asked for by name must not stop a run that may do without: their imports are
        unknown then, and the code says in Python's own words what it misses.
        """
        try:
            return plan, await self._provisioner.extended(base, plan, progress, alone=needs.declared_only)
        except InstallError as error:
            own = tuple(item for item in plan.packages if item.decision != "dependency")
            if len(own) < len(plan.packages) and error.code in {"unsatisfiable", "pypi-conflict"}:
                return await self._provide(needs, base, replace(plan, packages=own), progress)
            refused = derived(plan)
            if not refused or not error.code.startswith("pypi-"):
                raise
            plan = without(plan, refused, error.message)
        if not (plan.packages or plan.python):
            return plan, base
        return plan, await self._provisioner.extended(base, plan, progress, alone=needs.declared_only)

    def _index(self, channels: tuple[str, ...]) -> ChannelIndex:
        if channels not in self._indexes:
            self._indexes[channels] = EngineIndex(
                self._engine,
                channels,
                self._provisioner.platform,
                self._store.index,
                max_age_s=self._settings.solution_max_age_s,
                offline=self._settings.offline,
            )
        return self._indexes[channels]


def wrong_choice(package: PlannedPackage) -> str:
    """Say that a package was chosen by mistake."""
    return (
        f"{package.name} was tried for the import {package.import_name} and does not bring it; it is not chosen for it"
        " again."
    )


def derived(plan: Plan) -> list[PlannedPackage]:
    """Return the packages of PyPI in a plan that nobody asked for by name."""
    return [item for item in plan.packages if item.manager == "pypi" and item.decision not in BY_NAME]


def without(plan: Plan, refused: Sequence[PlannedPackage], why: str) -> Plan:
    """Return the plan without some packages of PyPI and what these need; their imports are unknown then."""
    unknown = tuple(
        UnknownImport(package.import_name or package.name, f"{package.name} of PyPI cannot be had: {why}")
        for package in refused
    )
    kept = tuple(item for item in plan.packages if item not in refused and item.decision != "dependency")
    return replace(plan, packages=kept, unknown=(*plan.unknown, *unknown))
