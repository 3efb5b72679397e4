"""Keeps the store within its bounds: what was not wanted for longest goes first, and what is in use never.

Called by the `clean` command, which a process also starts, as a child of low priority, when it has built something and
the store may have become too large (`after_build`). Environments go one at a time, then the packages that none of the
rest shares files with; all of it can be made again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..models import Environment, LockedPackage
from ..settings import MEBIBYTE, Settings
from ..terminal import size
from .store import Store, write_atomically

GROWTH = 6
"""What a package takes on disk, as a multiple of its archive: unpacked, and its bytecode."""
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Listed:
    """One environment on disk.

    Attributes:
        environment: what it is.
        size_bytes: all of its files.
        own_bytes: what its removal would free at once; the rest is shared with packages and other environments.
        last_wanted: seconds since 1970.
        is_used: whether a living process uses it.
    """

    environment: Environment
    size_bytes: int
    own_bytes: int
    last_wanted: float
    is_used: bool


def listing(store: Store) -> list[Listed]:
    """Return every environment, the one that was wanted last first."""
    found = []
    for environment in store.environments():
        whole, own = _sizes(environment.prefix)
        found.append(
            Listed(environment, whole, own, _last_wanted(store, environment.key), store.is_used(environment.key))
        )
    return sorted(found, key=lambda item: -item.last_wanted)


def remove_older(store: Store, older_than_s: float) -> list[str]:
    """Remove environments, solutions and packages that nobody wanted for so long; return what was done."""
    before = time.time() - older_than_s
    old = [item for item in reversed(listing(store)) if item.last_wanted < before]
    lines = [_removed(item) for item in old if store.forget_unused(item.environment.key)]
    for path in store.solutions.glob("*.json"):
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
    store.trash.wait()
    return [*lines, *_remove_packages(store, lambda wanted: wanted < before)]


def remove_excess(store: Store, limit_bytes: int) -> list[str]:
    """Make the store no larger than this, as far as what is in use allows; return what was done."""
    lines: list[str] = []
    for step in _steps(store):
        total = _total(store)
        _remember_total(store, total)
        if total <= limit_bytes:
            return lines
        lines += step()
        store.trash.wait()
    total = _total(store)
    _remember_total(store, total)
    if total > limit_bytes:
        lines.append(f"{size(total)} are left, more than {size(limit_bytes)}: the rest is in use.")
    return lines


def after_build(store: Store, settings: Settings, added: Iterable[LockedPackage]) -> bool:
    """Take note of what was built, and have the store cleaned if it may have become too large; say whether so.

    The child is not waited for, as it belongs to the store and not to a run; it ends by itself.
    """
    limit = settings.cache_limit_mb * MEBIBYTE
    if not limit:
        return False
    known = _remembered_total(store)
    if known is None and len(list(store.envs.glob("*.json"))) <= 1:
        known = 0
    total = None if known is None else known + GROWTH * sum(package.size_bytes or 0 for package in added)
    if total is not None and total <= limit:
        _remember_total(store, total)
        return False
    store.uses.give_up_idle()
    command = [sys.executable, "-m", "mcp_conda_run", "--set", f"cache_dir={store.root}"]
    command += ["--set", f"cache_limit_mb={settings.cache_limit_mb}", "clean", "--to-limit"]
    with suppress(OSError):  # it is tried again after the next build
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _reap(child)
    return True


# --- small steps ------------------------------------------------------------------------------------------------------


def _steps(store: Store) -> Iterator[Callable[[], list[str]]]:
    """Yield what can be done to make the store smaller, the least painful first."""
    yield lambda: _remove_packages(store, lambda _: True)
    for item in reversed(listing(store)):
        yield lambda item=item: _remove_environment(store, item)  # type: ignore[misc]
    yield lambda: _remove_wheels(store)


def _remove_environment(store: Store, item: Listed) -> list[str]:
    if not store.forget_unused(item.environment.key):
        return []
    store.trash.wait()
    return [_removed(item), *_remove_packages(store, lambda _: True)]


def _removed(item: Listed) -> str:
    days = (time.time() - item.last_wanted) / DAY_S
    environment = item.environment
    return (
        f"Removed the environment {environment.key} (Python {environment.python_version}, {len(environment.packages)} "
        f"packages, not wanted for {days:.0f} days): {size(item.own_bytes)}"
    )


def _remove_packages(store: Store, may_go: Callable[[float], bool]) -> list[str]:
    """Remove packages that no environment shares files with, unless somebody is installing."""
    lines = []
    with store.nobody_builds() as alone:
        for package in _packages(store) if alone else ():
            whole, own = _sizes(package)
            if whole == own and may_go(package.stat().st_mtime):
                store.trash.discard(package)
                for suffix in (".lock", ".conda", ".tar.bz2"):
                    package.with_name(package.name + suffix).unlink(missing_ok=True)
                lines.append(f"Removed the package {package.name}: {size(own)}")
    store.trash.wait()
    return lines


def _remove_wheels(store: Store) -> list[str]:
    with store.nobody_builds() as alone:
        if not alone or not store.pypi.is_dir():
            return []
        whole, _ = _sizes(store.pypi)
        store.trash.discard(store.pypi)
    return [f"Removed the wheels: {size(whole)}"]


def _packages(store: Store) -> list[Path]:
    """Return the unpacked packages of both engines' caches, the oldest first."""
    found = [path for cache in (store.packages, store.packages / "micromamba/pkgs") for path in cache.glob("*/info")]
    return sorted((path.parent for path in found if path.is_dir()), key=lambda path: path.stat().st_mtime)


def _sizes(directory: Path) -> tuple[int, int]:
    """Return the bytes on disk of all files below a directory, and of those that have no other name."""
    whole = own = 0
    stack = [os.fspath(directory)]
    while stack:
        with suppress(OSError), os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                    continue
                status = entry.stat(follow_symlinks=False)
                taken = status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size
                whole += taken
                own += taken if status.st_nlink == 1 else 0
    return whole, own


def _total(store: Store) -> int:
    return sum(part.size_bytes for part in store.usage().values())


def _last_wanted(store: Store, key: str) -> float:
    """Return when an environment was last wanted; when it was made, if nobody took note."""
    with suppress(OSError):
        return store.uses.last_wanted(key) or store.description(key).stat().st_mtime
    return 0.0


def _total_file(store: Store) -> Path:
    return store.stamps / "total.json"


def _remember_total(store: Store, total_bytes: int) -> None:
    write_atomically(_total_file(store), json.dumps({"bytes": total_bytes}))


def _remembered_total(store: Store) -> int | None:
    with suppress(OSError, ValueError, TypeError, KeyError):
        return int(json.loads(_total_file(store).read_bytes())["bytes"])
    return None


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Take note of the child's end (wait(2)), whenever that is."""
    threading.Thread(target=child.wait, name="store-care", daemon=True).start()
