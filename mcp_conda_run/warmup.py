"""The `warmup` command: make a template's environment ready, then prove it with a real run.

The proof is a run of code that imports what the template promises, through the same path as any other run.
"""

from __future__ import annotations

from collections.abc import Sequence

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .conda.locking import ALL_PLATFORMS
from .environments.download import download
from .environments.provision import Provided
from .environments.templates import LOCK_SUFFIX
from .errors import InstallError
from .models import Progress, ProgressCallback, RunRequest, Status
from .planning.specs import parse_spec
from .runtime import Runtime
from .settings import Settings

CHECK_TIMEOUT_S = 900
"""All imports of a large template at once can take minutes on a busy machine, and must not be taken for a failure."""


async def warm_up(settings: Settings, *, all_platforms: bool, progress: ProgressCallback) -> list[str]:
    """Make the configured template ready; return what was done, a line each.

    Raises:
        CondaRunError: it cannot be made ready, or what was made does not work.
    """
    lines = []
    async with Runtime(settings) as runtime:
        provided = await runtime.warmup(None, progress)
        if all_platforms:
            output = runtime.store.locks / f"{provided.template.name}.all{LOCK_SUFFIX}"
            platforms = provided.template.platforms or ALL_PLATFORMS
            await runtime.provisioner.lock(provided.template, platforms, output, progress)
            lines.append(f"Locked for {', '.join(platforms)}: {output}")
        environment = provided.environment
        lines += provided.notes
        if provided.built:
            lines.append(await _check(runtime, provided, progress))
        state = "is ready" if provided.built else "was ready already"
        lines.append(
            f"The template {provided.template.name} {state}: Python {environment.python_version}, "
            f"{len(environment.packages)} packages, {environment.prefix}"
        )
    return lines


async def fetch_only(settings: Settings, specs: Sequence[str], progress: ProgressCallback) -> list[str]:
    """Fetch what the configured template and packages on top of it need; make no environment.

    Raises:
        CondaRunError: something cannot be locked, solved or fetched.
    """
    async with Runtime(settings) as runtime:
        template = runtime.provisioner.template(None)
        wanted = [str(parse_spec(spec)) for spec in specs]
        fetched = await download(
            runtime.provisioner,
            template,
            wanted,
            settings=settings,
            store=runtime.store,
            engine=runtime.engine,
            progress=progress,
        )
    lines = [f"Fetched {len(fetched.packages)} packages for {', '.join([template.name, *wanted])}."]
    if fetched.wheels:
        lines.append(f"Wheels come with the environment: {', '.join(fetched.wheels)}. `warmup` makes it.")
    return lines


async def _check(runtime: Runtime, provided: Provided, progress: ProgressCallback) -> str:
    """Run code that imports every package that the template names."""
    progress(Progress("check", "running a first program"))
    modules = promised_modules(provided)
    code = "\n".join([*(f"import {module}" for module in modules), f"{len(modules)}"])
    template = str(provided.template.path)
    result = await runtime.run(RunRequest(code=code, template=template, timeout_s=CHECK_TIMEOUT_S), progress)
    if result.status is not Status.SUCCESS:
        runtime.forget(provided)
        why = result.error.message if result.error is not None else result.status
        raise InstallError(
            f"The new environment does not work: {why}.",
            details=result.error.traceback if result.error is not None else "",
            hint="Run `mcp-conda-run warmup` again; if it stays, check the template's packages.",
            code="environment-broken",
        )
    lacking = [package.import_name or package.name for package in result.packages]
    lacks = f" It had to be given {', '.join(lacking)}, which the template does not bring." if lacking else ""
    return f"A first program imported {', '.join(modules) or 'nothing'} in {result.timings_ms['run']:.0f} ms.{lacks}"


def promised_modules(provided: Provided) -> list[str]:
    """Return the modules that the template says it serves; else those of the packages that it names, unless a lock."""
    if provided.template.imports or provided.template.is_lock:
        return sorted(provided.template.imports)
    named = {spec.split()[0].split("=")[0].split(">")[0].split("<")[0] for spec in provided.template.specs}
    named |= {str(canonicalize_name(Requirement(text).name)) for text in provided.template.pip}
    environment = provided.environment
    return sorted(
        module
        for module, package in environment.modules.items()
        if package in named and "." not in module and not module.startswith("_")
    )
