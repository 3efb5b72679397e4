"""The `lock` command: write a template's conda-lock.yml where runs look for it, for every platform it is meant for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .conda.lockfile import read_lock
from .conda.locking import ALL_PLATFORMS
from .environments.store import Store
from .environments.template_locks import kept_lock, locked_platforms, lying_locks
from .environments.templates import Template
from .errors import RequestError
from .models import ProgressCallback
from .runtime import Runtime
from .settings import Settings

_PLATFORM = re.compile(r"[a-z]+-[a-z0-9]+")


async def lock_template(
    settings: Settings,
    *,
    platforms: Sequence[str],
    update: Sequence[str],
    output: Path | None,
    progress: ProgressCallback,
) -> list[str]:
    """Lock the configured template; return what was done, a line each.

    Args:
        settings: name the template.
        platforms: conda's names; if empty, those of the lock that is there, or those that the template is meant for.
        update: if given, only these packages get other versions, and what must move with them.
        output: where the lock goes; if None, where runs look for it.
        progress: called while it goes on.

    Raises:
        RequestError: something asked for cannot be had at all.
        InstallError: it cannot be solved.
    """
    if wrong := [platform for platform in platforms if not _PLATFORM.fullmatch(platform)]:
        raise RequestError(f"{wrong[0]!r:.80} is no platform.", hint="Write it as linux-64 or osx-arm64.")
    async with Runtime(settings) as runtime:
        template = runtime.provisioner.template(None)
        if template.is_lock and output is None:
            raise RequestError(
                f"{template.path} is a {template.kind} already.",
                hint="Runs can use it as it is; with --output it is written as a conda-lock.yml.",
                code="already-locked",
            )
        old = old_lock(template, runtime.store, output)
        if update and old is None:
            raise RequestError(
                f"{template.path.name} has no lock that could be updated.",
                hint="Lock it first, without --update.",
                code="not-locked",
            )
        target = (output or kept_lock(template, runtime.store)).absolute()
        wanted = tuple(platforms) or default_platforms(template, old, runtime.provisioner.platform)
        await runtime.provisioner.lock(template, wanted, target, progress, update=update, old=old)
    if template.is_lock:
        wanted = locked_platforms(target)
    lines = [f"{platform}: {len(read_lock(target, platform))} packages" for platform in wanted]
    return [*lines, f"Locked {template.name}: {target}"]


def old_lock(template: Template, store: Store, output: Path | None) -> Path | None:
    """Return the lock that is there already, if there is one."""
    if output is not None and output.is_file():
        return output
    return next(iter(lying_locks(template, store)), None)


def default_platforms(template: Template, old: Path | None, here: str) -> tuple[str, ...]:
    """Return the platforms to lock for where none are named; wheels can be locked only for this machine."""
    if template.is_lock or template.pip:
        return (here,)
    if old is not None:
        return locked_platforms(old)
    return template.platforms or ALL_PLATFORMS
