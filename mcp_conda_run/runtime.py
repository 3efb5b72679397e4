"""The story on one page: request -> plan -> environment -> run -> result.

`Runtime` is the library's entrance and what the CLI and the MCP server stand on. It owns the store, the engine and the
tier, and everything it starts ends with it.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from .audit import AuditLog
from .conda.choose import choose_engine
from .conda.mirrors import mirrored
from .conda.world import known_world
from .environments.guest_files import GuestFiles
from .environments.provision import Provided, Provisioner
from .environments.store import Store, host_errors
from .environments.trash import delete_tree
from .errors import CondaRunError, InstallError
from .execution import Executions
from .models import Ask, Environment, Mount, Plan, Progress, ProgressCallback, RunRequest, RunResult, no_progress
from .mounts import check_nesting, further_mounts
from .outcome import finished, not_installed
from .phases import Phases
from .preparation import Preparation, Prepared
from .records.shelf import Shelf
from .records.writing import Draft, Recorder, Surroundings, open_draft
from .sandbox.choose import STRICT as OVERLAYS
from .sandbox.choose import make_tier
from .sandbox.conversation import Conversation, GuestRequest
from .sandbox.files_out import left_files, now_ns
from .sandbox.tier import Launch, Process
from .settings import Settings, load_settings, with_prefix
from .source import Source, read_source
from .turns import Turns
from .witness import new_run_id, witnessed

MAX_ROUNDS = 3
"""How often code runs, if each time its failure names a package that can be had."""


class Runtime:
    """Runs code, each run in its own ephemeral prefix. Use it as an async context manager.

    Args:
        settings: the knobs; read from the environment and the configuration file if not given.

    Raises:
        SettingsError: a setting cannot be used.
        HostError: the cache directory, the mounted directory or the audit log cannot be used.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings, access = known_world(with_prefix(settings or load_settings()))
        self.access = access
        choice = choose_engine(self.settings, access)
        self.engine = mirrored(choice.engine, self.settings)
        self._engine_said = f"{choice.engine.name} ({choice.reason})"
        self.tier, _ = make_tier(self.settings)
        # Elsewhere a run's prefix is a clone beside the environment, which a layer has no place for.
        layers = self.settings.store_layers if self.tier.name in OVERLAYS else ()
        self.store = Store(self.settings.cache_dir, [Path(layer) for layer in layers])
        self.provisioner = Provisioner(self.settings, self.store, self.engine, access)
        self._preparation = Preparation(self.settings, self.store, self.engine, self.provisioner)
        self._guest_files = GuestFiles(self.store.guest)
        self._audit = AuditLog(self.settings.audit_log)
        self._recorder = Recorder(self.settings, Shelf(self.store.records), self._surroundings())
        self._turns = Turns(self.settings.slots, self.settings.queue)
        self._executions = Executions(self.tier, self._turns)
        self._resources = AsyncExitStack()
        self._mounts: tuple[Mount, ...] = ()

    async def __aenter__(self) -> Self:
        self.store.open()
        self._resources.callback(self.store.close)
        self._resources.callback(self._recorder.close)
        self._resources.callback(self.tier.close)
        self._resources.push_async_callback(self.provisioner.close)
        self._resources.push_async_callback(self._executions.close)
        further = further_mounts(self.settings.mounts, self.settings.mount)
        with host_errors("The mounted directory cannot be used"):
            if self.settings.path is not None:
                self.settings.path.mkdir(parents=True, exist_ok=True)
                source = self.settings.path.absolute()
            else:
                source = Path(tempfile.mkdtemp(prefix="mcp-conda-run-"))
                self._resources.callback(delete_tree, source)  # whatever a run made of it
        self._mounts = (Mount(source, self.settings.mount), *further)
        check_nesting(self._mounts)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Return what runs see of the host; the first is their working directory."""
        return self._mounts

    async def run(
        self,
        request: RunRequest,
        progress: ProgressCallback = no_progress,
        *,
        ask: Ask | None = None,
        run_id: str = "",
        client: str = "",
    ) -> RunResult:
        """Run code or a file.

        Whatever the code does is in the result; installing what it needs may fail there too (`install-error`).
        Cancelling this call kills the run; an environment that is being made for it is finished all the same.

        Args:
            request: what to run.
            progress: told what is going on.
            ask: asks the user about packages of PyPI that nothing vouches for; without it they are not installed.
            run_id: what it is known by, if the caller has made that known already (`new_run_id`).
            client: who asks, for the audit log.

        Raises:
            RequestError: the request cannot be served.
            HostError: this machine cannot do what is needed.
        """
        run_id = run_id or new_run_id()
        draft = open_draft(request, now_ns())
        with (
            self._turns.admission(),
            witnessed(self._audit, request, progress, run_id=run_id, client=client) as witness,
        ):
            result = await self._rounds(request, witness.note, ask, draft, client=client)
            result = replace(result, run_id=run_id, engine=self._engine_said)
            witness.saw(result)
        self._recorder.keep(draft, result)
        return result

    async def _rounds(
        self, request: RunRequest, progress: ProgressCallback, ask: Ask | None, draft: Draft, *, client: str
    ) -> RunResult:
        """Run the code; again if its failure names a package that can be had."""
        phases = Phases()
        source = draft.source = read_source(request, self._mounts, self.settings.max_code_kb * 1024)
        try:
            prepared = await self._preparation.prepare(
                request, source, self._mounts, phases=phases, progress=progress, ask=ask
            )
        except InstallError as error:
            return not_installed(error, run_id=self.store.new_run_id(), timings_ms=phases.finish())
        attempts = ["the first run"]
        while True:
            result, said = await self._once(request, source, prepared, phases, progress, client=client)
            again = None
            if len(attempts) < MAX_ROUNDS:
                try:
                    again = await self._preparation.prepare_again(
                        prepared, said, phases=phases, progress=progress, ask=ask
                    )
                except CondaRunError as error:
                    result = replace(result, notes=(*result.notes, f"What it missed cannot be had: {error.message}"))
            if again is None:
                return replace(result, attempts=tuple(attempts), timings_ms=phases.finish())
            new = [package for package in again.plan.packages if package.name not in prepared.tried]
            attempts.append("again with " + ", ".join(f"{package.name} ({package.reason})" for package in new))
            prepared = again

    async def run_again(
        self,
        request: RunRequest,
        source: Source,
        plan: Plan,
        provided: Provided,
        progress: ProgressCallback = no_progress,
    ) -> RunResult:
        """Run code in an environment that is ready, once, as it stands: nothing is planned or added.

        Args:
            request: what the code is given, and its bounds; the code itself is that of `source`.
            source: what to run.
            plan: how the environment came about, for the result.
            provided: the environment.
            progress: told what is going on.

        Raises:
            RequestError: the request cannot be served.
            HostError: this machine cannot do what is needed.
        """
        phases, run_id = Phases(), new_run_id()
        draft = open_draft(request, now_ns())
        draft.source = source
        needs = self._preparation.needs(request, source, self._mounts, provided)
        prepared = Prepared(needs, plan, provided, provided)
        with (
            self._turns.admission(),
            witnessed(self._audit, request, progress, run_id=run_id, client="") as witness,
        ):
            result, _ = await self._once(request, source, prepared, phases, witness.note)
            result = replace(
                result,
                run_id=run_id,
                attempts=("a replay",),
                timings_ms=phases.finish(),
                engine=self._engine_said,
            )
            witness.saw(result)
        self._recorder.keep(draft, result)
        return result

    async def plan(self, request: RunRequest, progress: ProgressCallback = no_progress) -> Plan:
        """Say what a run of this would install, and why; install nothing but the template itself.

        Raises:
            RequestError: the request cannot be served.
            InstallError: the template cannot be made ready, or the channels cannot be asked.
        """
        source = read_source(request, self._mounts, self.settings.max_code_kb * 1024)
        template, chosen = await self._preparation.template(request, source, self._mounts)
        base = await self.provisioner.base(template, progress)
        needs = self._preparation.needs(request, source, self._mounts, base)
        plan = await self._preparation.plan(base, needs)
        solution = await self.provisioner.solution(
            base, plan, progress, alone=needs.declared_only and bool(plan.packages)
        )
        notes = (*chosen, *base.notes, *needs.notes, *plan.notes)
        return replace(plan, notes=notes, solution=(*solution, *plan.solution))

    async def warmup(self, template: str | None = None, progress: ProgressCallback = no_progress) -> Provided:
        """Make a template's environment ready, so that the next run need not.

        Raises:
            RequestError: there is no such template.
            InstallError: it cannot be locked or installed.
        """
        return await self.provisioner.base(self.provisioner.template(template), progress)

    def environment(self, key: str) -> Environment | None:
        """Return an environment that a result names, unless it was removed since."""
        return self.store.load(key)

    def forget(self, provided: Provided) -> None:
        """Remove an environment that turned out not to work, so that the next run makes it again."""
        self.store.forget(provided.environment.key)

    # --- the steps ------------------------------------------------------------------------------------------------

    def _surroundings(self) -> Surroundings:
        """Return what the recorder asks this runtime."""

        def template(name: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
            found = self.provisioner.template(name)
            return found.specs, found.channels

        return Surroundings(
            lambda: self._mounts, self.store.load, template, self.provisioner.platform, self.engine.name
        )

    async def _once(
        self,
        request: RunRequest,
        source: Source,
        prepared: Prepared,
        phases: Phases,
        progress: ProgressCallback,
        *,
        client: str = "",
    ) -> tuple[RunResult, Conversation]:
        """Run the code once, in a fresh prefix, when it is its turn."""
        if self._turns.full:
            progress(Progress("queue", "waiting for a turn"))
        launch = await self._launch(prepared, request)
        executed = self._executions.executed(
            launch,
            lambda process: guest_request(process, source, prepared, request),
            using=self.store.uses.hold(launch.environment.key),
            client=client,
            phases=phases,
            tell=lambda: progress(Progress("run", "running")),
        )
        async with executed as done:
            with phases.phase("files"):
                left = await asyncio.to_thread(left_files, self._mounts, done.began_ns)
        result = finished(
            done.said,
            done.process.isolation,
            start=done.process.start,
            plan=prepared.plan,
            provided=prepared.provided,
            launch=launch,
            notes=(*prepared.notes, *self.store.read_only_note(prepared.provided.environment)),
        )
        return replace(result, files=left.files, files_complete=left.complete), done.said

    async def _launch(self, prepared: Prepared, request: RunRequest) -> Launch:
        environment = prepared.provided.environment
        return Launch(
            run_id=self.store.new_run_id(),
            environment=environment,
            guest=await self._guest_files.directory(environment),
            mounts=self._mounts,
            limits=self.settings.limits(request.timeout_s, request.limits),
            network=request.network or self.settings.network,
            imports=prepared.needs.imports,
        )


def guest_request(process: Process, source: Source, prepared: Prepared, request: RunRequest) -> GuestRequest:
    """Say to the guest what to run, with the paths as the run sees them."""
    if source.mount is None:
        filename = f"{process.scratch}/main.py"
        path0 = next(iter(process.paths.values()), process.scratch)
    else:
        filename = f"{process.paths[source.mount.target]}/{source.relative}"
        path0 = filename.rpartition("/")[0]
    return GuestRequest(
        code=prepared.needs.code,
        filename=filename,
        write=source.mount is None,
        args=request.args,
        globals=request.global_variables,
        path0=path0,
        mount_map={target: path for target, path in process.paths.items() if target != path},
    )
