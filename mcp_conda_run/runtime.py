"""The story on one page: request -> plan -> environment -> run -> result.

`Runtime` is the library's entrance and what the CLI and the MCP server stand on. It owns the store, the engine and the
tier, and everything it starts ends with it.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from .conda.channels import ChannelIndex, EngineIndex
from .conda.choose import choose_engine
from .environments.guest_files import GuestFiles
from .environments.provision import Provided, Provisioner
from .environments.store import Store, host_errors
from .errors import InstallError
from .models import Mount, Plan, Progress, ProgressCallback, RunRequest, RunResult, no_progress
from .outcome import finished, not_installed
from .planning.planner import Needs, Planner
from .planning.policy import Policy
from .sandbox.choose import make_tier
from .sandbox.conversation import Conversation, GuestRequest, converse
from .sandbox.tier import Launch, Process
from .settings import Settings, load_settings
from .source import Source, read_source


@dataclass(slots=True)
class Phases:
    """How long each phase took, in milliseconds."""

    timings_ms: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside; a phase that comes twice adds up."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add to a phase."""
        self.timings_ms[name] = round(self.timings_ms.get(name, 0) + seconds * 1000, 3)

    def finish(self) -> dict[str, float]:
        """Return all phases and their total."""
        return self.timings_ms | {"total": round((time.perf_counter() - self._began) * 1000, 3)}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run needs: the code as it will run, the plan, and the environment."""

    needs: Needs
    plan: Plan
    provided: Provided
    notes: tuple[str, ...] = ()


class Runtime:
    """Runs code, each run in its own ephemeral prefix. Use it as an async context manager.

    Args:
        settings: the knobs; read from the environment and the configuration file if not given.

    Raises:
        SettingsError: a setting cannot be used.
        HostError: the cache directory or the mounted directory cannot be used.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self.store = Store(self.settings.cache_dir)
        self.engine = choose_engine(self.settings).engine
        self.tier, _ = make_tier(self.settings)
        self.provisioner = Provisioner(self.settings, self.store, self.engine)
        self._planner = Planner(Policy.from_settings(self.settings))
        self._guest_files = GuestFiles(self.store.guest)
        self._slots = asyncio.Semaphore(self.settings.slots)
        self._resources = AsyncExitStack()
        self._mounts: tuple[Mount, ...] = ()
        self._indexes: dict[tuple[str, ...], ChannelIndex] = {}

    async def __aenter__(self) -> Self:
        self.store.open()
        self._resources.callback(self.store.close)
        self._resources.callback(self.tier.close)
        self._resources.push_async_callback(self.provisioner.close)
        with host_errors("The mounted directory cannot be used"):
            if self.settings.path is not None:
                self.settings.path.mkdir(parents=True, exist_ok=True)
                source = self.settings.path.absolute()
            else:
                source = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="mcp-conda-run-")))
        self._mounts = (Mount(source, self.settings.mount),)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Return what runs see of the host; the first is their working directory."""
        return self._mounts

    async def run(self, request: RunRequest, progress: ProgressCallback = no_progress) -> RunResult:
        """Run code or a file.

        Whatever the code does is in the result; installing what it needs may fail there too (`install-error`).
        Cancelling this call kills the run; an environment that is being made for it is finished all the same.

        Raises:
            RequestError: the request cannot be served.
            HostError: this machine cannot do what is needed.
        """
        phases = Phases()
        source = read_source(request, self._mounts, self.settings.max_code_kb * 1024)
        run_id = self.store.new_run_id()
        try:
            prepared = await self._prepare(request, source, phases, progress)
        except InstallError as error:
            return not_installed(error, run_id=run_id, timings_ms=phases.finish())
        async with self._slots:
            progress(Progress("run", "running"))
            launch = await self._launch(run_id, prepared, request)
            process, said = await self._execute(launch, source, prepared, request, phases)
        return finished(
            said,
            process.isolation,
            plan=prepared.plan,
            provided=prepared.provided,
            launch=launch,
            notes=prepared.notes,
            timings_ms=phases.finish(),
        )

    async def plan(self, request: RunRequest, progress: ProgressCallback = no_progress) -> Plan:
        """Say what a run of this would install, and why; install nothing but the template itself.

        Raises:
            RequestError: the request cannot be served.
            InstallError: the template cannot be made ready, or the channels cannot be asked.
        """
        source = read_source(request, self._mounts, self.settings.max_code_kb * 1024)
        base = await self.provisioner.base(self.provisioner.template(request.template), progress)
        return await self._plan(base, self._needs(request, source, base))

    async def warmup(self, template: str | None = None, progress: ProgressCallback = no_progress) -> Provided:
        """Make a template's environment ready, so that the next run need not.

        Raises:
            RequestError: there is no such template.
            InstallError: it cannot be locked or installed.
        """
        return await self.provisioner.base(self.provisioner.template(template), progress)

    def forget(self, provided: Provided) -> None:
        """Remove an environment that turned out not to work, so that the next run makes it again."""
        self.store.forget(provided.environment.key)

    # --- the steps ------------------------------------------------------------------------------------------------

    async def _prepare(
        self, request: RunRequest, source: Source, phases: Phases, progress: ProgressCallback
    ) -> Prepared:
        """Find what the code needs before it runs, and have it ready."""
        notes: tuple[str, ...] = ()
        template = self.provisioner.template(request.template)
        with phases.phase("environment"):
            provided = await self.provisioner.base(template, progress)
        if provided.built:
            notes = (f"The template {template.name} was not ready; it was made now. `mcp-conda-run warmup` does this.",)
        with phases.phase("plan"):
            needs = self._needs(request, source, provided)
            plan = await self._plan(provided, needs)
        if plan.packages or plan.python:
            with phases.phase("environment"):
                provided = await self.provisioner.extended(provided, plan, progress, alone=needs.declared_only)
        return Prepared(needs, plan, provided, (*notes, *needs.notes, *plan.notes, *provided.notes))

    def _needs(self, request: RunRequest, source: Source, base: Provided) -> Needs:
        return self._planner.needs(
            source.code,
            environment=base.environment,
            local_roots=source.local_roots(self._mounts),
            packages=request.packages,
            python=request.python or "",
        )

    async def _plan(self, base: Provided, needs: Needs) -> Plan:
        if needs.nothing:
            return Plan()
        further = [channel for channel in needs.channels if channel not in base.template.channels]
        return await self._planner.plan(needs, self._index((*base.template.channels, *further)))

    def _index(self, channels: tuple[str, ...]) -> ChannelIndex:
        if channels not in self._indexes:
            self._indexes[channels] = EngineIndex(
                self.engine,
                channels,
                self.provisioner.platform,
                self.store.index,
                max_age_s=self.settings.solution_max_age_s,
                offline=self.settings.offline,
            )
        return self._indexes[channels]

    async def _launch(self, run_id: str, prepared: Prepared, request: RunRequest) -> Launch:
        environment = prepared.provided.environment
        return Launch(
            run_id=run_id,
            environment=environment,
            guest=await self._guest_files.directory(environment),
            mounts=self._mounts,
            limits=self.settings.limits(request.timeout_s),
            network=request.network or self.settings.network,
        )

    async def _execute(
        self, launch: Launch, source: Source, prepared: Prepared, request: RunRequest, phases: Phases
    ) -> tuple[Process, Conversation]:
        """Start a process in a fresh prefix, give it the code, hear it out, and leave nothing of it."""
        began = time.perf_counter()
        async with self.tier.launch(launch) as process:
            phases.add("start", time.perf_counter() - began)
            said = await converse(process, guest_request(process, source, prepared, request), launch.limits)
            phases.add("start", said.ready_s)
            phases.add("run", said.run_s)
            ended = time.perf_counter()
        phases.add("clean", time.perf_counter() - ended)
        return process, said


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
