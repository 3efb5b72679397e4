"""Makes one environment: install conda's packages, check, add PyPI's, compile, describe, publish.

Called by `provision.py` for a key that is not on disk yet. The environment appears in the store as the last step;
whatever goes wrong before that, nothing of it stays.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..conda.engine import Engine
from ..conda.pypi import WheelInstaller
from ..errors import InstallError
from ..models import Environment, LockedPackage, Progress, ProgressCallback, no_progress
from ..portability import PYTHON, Family
from .activation import activation_variables, search_path
from .clone import clone_prefix
from .modules import offered_modules, prefix_records, wheel_records
from .store import Store, environment_key, host_errors

GUEST = Path(__file__).resolve().parent.parent / "guest"
CHECK_TIMEOUT_S = 60
COMPILE_TIMEOUT_S = 1800
CACHES_TIMEOUT_S = 300
CACHES = Path("var/cache/mcp-conda-run/home")
"""Where `guest/caches.py` looks for what packages would build anew in each run."""
CACHING = frozenset({"matplotlib-base"})

_log = logging.getLogger(__name__)


async def build_environment(
    store: Store,
    engine: Engine,
    packages: Sequence[LockedPackage],
    *,
    base: Environment | None = None,
    wheels: WheelInstaller | None = None,
    key: str = "",
    progress: ProgressCallback = no_progress,
) -> Environment:
    """Return the environment that holds exactly these packages, made now if nobody made it before.

    Args:
        store: where it goes.
        engine: what installs.
        packages: all packages of the environment.
        base: an environment that already holds many of them; cloned, so that only the difference is installed.
        wheels: what installs packages of PyPI, if there are any.
        key: if there is more in it than the packages say: what it is known by.
        progress: called while it goes on.

    Raises:
        InstallError: the packages cannot be fetched, verified or linked, or the result does not work.
        HostError: the disk is full, the cache is read-only.
    """
    key = key or environment_key(packages)
    async with store.building(key):
        ready = store.claim(key)
        if ready is not None:
            return ready
        store.forget(key)
        prefix = store.prefix(key)
        try:
            added = [package for package in packages if wheels is not None and package.manager == "pypi"]
            conda = [package for package in packages if package not in added]
            changes = base is None or environment_key(conda) not in {base.key, environment_key(base.packages)}
            async with engine.expected() if changes else nullcontext():
                if base is not None:
                    with host_errors("The environment cannot be made"):
                        await asyncio.to_thread(clone_prefix, base.prefix, prefix, for_environment=True)
                installing = _install_conda(engine, conda, prefix, progress) if changes else _nothing()
                facts = await _installed(
                    installing, prefix, python_is_there=base is not None and _same_python(base, packages)
                )
            if wheels is not None:
                await wheels.install(added, prefix, facts["version"], progress)
            environment = await _finish(key, prefix, packages, facts, progress)
            await _fill_caches(prefix, packages, base, progress)
            await asyncio.to_thread(store.publish, environment)
        except BaseException:
            store.forget(key)
            raise
        return environment


def _same_python(base: Environment, packages: Sequence[LockedPackage]) -> bool:
    there, wanted = (
        {package.url for package in each if package.name == "python"} for each in (base.packages, packages)
    )
    return bool(wanted) and there == wanted


async def _installed(installing: Awaitable[None], prefix: Path, *, python_is_there: bool) -> dict[str, Any]:
    """Have conda's packages installed and ask the interpreter what it is, at the same time if it is there already."""
    if not python_is_there:
        await installing
        return await _inspect(prefix)
    asking = asyncio.ensure_future(_inspect(prefix))
    try:
        await installing
        return await asking
    finally:
        asking.cancel()
        await asyncio.wait({asking})
        if not asking.cancelled():
            asking.exception()  # looked at, should the installation have failed as well


async def _install_conda(
    engine: Engine, packages: Sequence[LockedPackage], prefix: Path, progress: ProgressCallback
) -> None:
    """Make the prefix hold conda's packages."""
    with host_errors("The environment cannot be made"):
        await asyncio.to_thread(_drop_bytecode, prefix, {package.url for package in packages})
    await engine.install(packages, prefix, progress)


async def _nothing() -> None:
    """The prefix is the clone of one that holds the packages."""


def _drop_bytecode(prefix: Path, staying: Collection[str]) -> None:
    """Remove the bytecode that we made for packages that will go: else their directories stay, and can be imported."""
    for record in prefix_records(prefix):
        if record.get("url") not in staying:
            for folder in {os.path.dirname(file) for file in record.get("files", ()) if file.endswith(".py")}:
                shutil.rmtree(prefix / folder / "__pycache__", ignore_errors=True)


async def _inspect(prefix: Path) -> dict[str, Any]:
    """Ask the interpreter what it is: before packages of PyPI are there, which can run code at its start."""
    answer = await run_guest(prefix, find_python(prefix), "inspect_python.py", timeout_s=CHECK_TIMEOUT_S)
    facts: dict[str, Any] = json.loads(answer)
    return facts


async def describe(
    key: str, prefix: Path, packages: Sequence[LockedPackage], progress: ProgressCallback
) -> Environment:
    """Return the description of a prefix that was not installed here, with the bytecode that it lacks made.

    Raises:
        InstallError: it has no Python, or one that does not work.
    """
    return await _finish(key, prefix, packages, await _inspect(prefix), progress)


async def _finish(
    key: str, prefix: Path, packages: Sequence[LockedPackage], facts: Mapping[str, Any], progress: ProgressCallback
) -> Environment:
    """Compile what is new, then read from the file lists what the environment offers."""
    await _compile(prefix, find_python(prefix), [facts["library"], *facts["site_packages"]], progress)
    progress(Progress("check", "reading what the environment offers"))
    site_packages = [place.replace(os.sep, "/") for place in facts["site_packages"]]
    with host_errors("The environment cannot be described"):
        records = await asyncio.to_thread(prefix_records, prefix)
        records += await asyncio.to_thread(wheel_records, prefix, site_packages, records)
        variables = await asyncio.to_thread(activation_variables, prefix)
    return Environment(
        key=key,
        prefix=prefix,
        python_version=facts["version"],
        python=facts["python"],
        modules=offered_modules(records, site_packages),
        stdlib=frozenset(facts["stdlib"]),
        packages=tuple(packages),
        variables=variables,
    )


async def _fill_caches(
    prefix: Path, packages: Sequence[LockedPackage], base: Environment | None, progress: ProgressCallback
) -> None:
    """Build once what some packages would build in every run; without it, runs work all the same.

    It imports those packages outside of any sandbox: no worse than conda's own scripts. Packages of PyPI may run code
    at any start of the interpreter, so where there are some, the runs have to build for themselves.
    """
    wanted = {package.url for package in packages if package.name in CACHING and package.manager == "conda"}
    have = {package.url for package in base.packages} if base is not None else set()
    if wanted <= have or any(package.manager == "pypi" for package in packages):
        return
    progress(Progress("compile", "building the packages' caches"))
    home = prefix / CACHES
    await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
    try:
        await run_guest(prefix, find_python(prefix), "caches.py", str(home), timeout_s=CACHES_TIMEOUT_S)
    except InstallError as error:
        _log.warning("runs build the packages' caches themselves: %s %s", error.message, error.details)


def find_python(prefix: Path) -> Path:
    """Return the interpreter of a prefix.

    Raises:
        InstallError: there is none.
    """
    python = prefix / PYTHON
    if not python.exists():
        raise InstallError(
            "The environment has no Python.", hint="Add `python` to the template's dependencies.", code="no-python"
        )
    return python


async def _compile(prefix: Path, python: Path, places: Sequence[str], progress: ProgressCallback) -> None:
    def show(line: str) -> None:
        done, _, total = line.partition(" ")
        progress(Progress("compile", "compiling bytecode", float(done), float(total), "files"))

    directories = sorted({str(prefix / place) for place in places})
    outermost = [path for path in directories if not any(path.startswith(other + os.sep) for other in directories)]
    workers = str(os.cpu_count() or 1)
    await run_guest(
        prefix, python, "compile_bytecode.py", workers, *outermost, timeout_s=COMPILE_TIMEOUT_S, on_line=show
    )


async def run_guest(
    prefix: Path,
    python: Path,
    script: str,
    *args: str,
    timeout_s: float,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run one of our guest modules with the environment's Python; return what it printed.

    Raises:
        InstallError: it failed, or took too long: then the environment does not work.
    """
    process = await asyncio.create_subprocess_exec(
        *(str(python), "-I", "-S" if script == "compile_bytecode.py" else "-B", str(GUEST / script), *args),
        env=_clean_environment(prefix),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    family = Family(process.pid)
    assert process.stdout is not None  # noqa: S101 - for mypy: PIPE was asked for
    assert process.stderr is not None  # noqa: S101
    lines: list[str] = []

    async def read() -> None:
        async for line in process.stdout:  # type: ignore[union-attr]
            text = line.decode(errors="replace").rstrip("\n")
            lines.append(text)
            if on_line is not None:
                on_line(text)

    try:
        async with asyncio.timeout(timeout_s):
            errors, _ = await asyncio.gather(process.stderr.read(), read())
            await process.wait()
    except TimeoutError:
        raise InstallError(f"The new environment's Python did not finish {script} in {timeout_s:.0f} s.") from None
    finally:
        if process.returncode is None:
            family.kill()
        await asyncio.shield(process.wait())
    if process.returncode:
        raise InstallError(
            "The new environment's Python does not work.",
            details=errors.decode(errors="replace")[-2000:],
            hint="Run `mcp-conda-run warmup` again; if it stays, run `mcp-conda-run clean --all` first.",
            code="environment-broken",
        )
    return "\n".join(lines)


def _clean_environment(prefix: Path) -> Mapping[str, str]:
    kept = {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP", "TMP", "TMPDIR") if name in os.environ}
    return {**kept, "PATH": search_path(prefix), "LANG": "C.UTF-8", "HOME": str(prefix)}
