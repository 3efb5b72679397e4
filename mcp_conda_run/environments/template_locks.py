"""Which lock serves a template on this machine, and whether those that lie beside it are still fit for it.

A lock lies beside the template's file (`geo.conda-lock.yml` beside `geo.yml`, as `mcp-conda-run lock` writes it), or
for a shipped template in the store. Where none fits, the store has one for each content of a template, made when it is
first wanted. Called by `provision.py`, `lock`, `templates` and `doctor`. Makes nothing: `template_locking.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from ..conda.lockfile import input_digest, is_stale, load_lock, lock_digest, read_environment
from ..errors import InstallError
from ..settings import Settings
from .store import Store
from .templates import LOCK_SUFFIX, Kind, Template, name_of, shipped_templates


class Fitness(StrEnum):
    """How a lock stands to its template."""

    FRESH = "fresh"
    STALE = "stale"
    OTHER = "other"  # for other platforms, or for the template's own channels where others are configured


@dataclass(frozen=True, slots=True)
class Serving:
    """The lock that serves a template.

    Attributes:
        path: the lock; it may have to be made first.
        note: what the user should know of another lock that does not serve; empty if there is nothing to say.
    """

    path: Path
    note: str = ""


def kept_lock(template: Template, store: Store) -> Path:
    """Return where `mcp-conda-run lock` keeps a template's lock."""
    if template.path == shipped_templates().get(template.name):
        return store.locks / f"{template.name}{LOCK_SUFFIX}"
    return template.path.with_name(f"{name_of(template.path)}{LOCK_SUFFIX}")


def lying_locks(template: Template, store: Store) -> tuple[Path, ...]:
    """Return the locks that lie where one of the template is looked for, the one that wins first."""
    beside = template.path.with_name(f"{name_of(template.path)}{LOCK_SUFFIX}")
    candidates = [kept_lock(template, store), beside]
    if name_of(template.path) == "environment":
        candidates.append(template.path.with_name("conda-lock.yml"))  # where conda-lock itself writes it
    return tuple(path for path in dict.fromkeys(candidates) if path.is_file() and path != template.path)


def serving_lock(template: Template, store: Store, settings: Settings, platform: str) -> Serving:
    """Return the lock that serves a template.

    Raises:
        InstallError: a lock beside it is stale and the settings forbid to make another, or cannot be read.
    """
    if template.kind is Kind.CONDA_LOCK:
        return Serving(template.path)
    note = ""
    for path in () if template.is_lock else lying_locks(template, store):
        fitness = fitness_of(path, template, platform, settings.exclude_newer)
        if fitness is Fitness.FRESH:
            return Serving(path, note)
        if fitness is Fitness.STALE and settings.stale_lock == "use":
            return Serving(path, stale_note(path, template, "is used all the same"))
        if fitness is Fitness.STALE and settings.stale_lock == "refuse":
            raise InstallError(
                stale_note(path, template, "is not used"),
                hint=f"Run `mcp-conda-run lock {template.name if not_a_path(template) else template.path}`, or allow "
                "another one with MCP_CONDA_RUN_STALE_LOCK=relock.",
                code="lock-stale",
            )
        if fitness is Fitness.STALE and not note:
            note = stale_note(path, template, "was passed over, and the template locked anew")
    return Serving(store.find_lock(template.lock_name(platform, settings.exclude_newer)), note)


def stale_note(path: Path, template: Template, what: str) -> str:
    """Say that a lock no longer fits its template."""
    return f"The lock {path} is stale, since {template.path.name} or what it is locked with has changed; it {what}."


def not_a_path(template: Template) -> bool:
    """Say whether a template is known by a name."""
    return template.path == shipped_templates().get(template.name)


def fitness_of(lock: Path, template: Template, platform: str, exclude_newer: str = "") -> Fitness:
    """Say whether a lock is fit to serve a template on a platform; costs one `stat` where nothing changed.

    Raises:
        InstallError: the lock cannot be used.
        SettingsError: the template cannot be used.
    """
    status = lock.stat()
    return _fitness(lock, (status.st_mtime_ns, status.st_size), template, platform, exclude_newer)


@lru_cache(maxsize=64)
def _fitness(lock: Path, _: tuple[int, int], template: Template, platform: str, exclude_newer: str) -> Fitness:
    if platform not in locked_platforms(lock):
        return Fitness.OTHER
    if not is_stale(lock, template.path, template.channels, platform, exclude_newer):
        return Fitness.FRESH
    environment = read_environment(template.path)
    own = input_digest(environment, environment.channels, exclude_newer)
    return Fitness.OTHER if lock_digest(lock) == own else Fitness.STALE


def locked_platforms(lock: Path) -> tuple[str, ...]:
    """Return the platforms that a lock has packages for.

    Raises:
        InstallError: the lock cannot be used.
    """
    return tuple(sorted({row.platform for row in load_lock(lock).package}))
