"""The `clean` command: what is left over goes; with more options, what is old, what is too much, or everything.

What a living process uses is never touched: its runs carry its owner's id, environments its mark, and the whole cache
is only deleted when no other process holds it open.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import HostError
from ..settings import MEBIBYTE, Settings
from ..terminal import size
from .care import remove_excess, remove_older
from .store import CARE_LOCK, Store

Cleaning = Callable[[Store], list[str]]


def clean_store(settings: Settings, *, dry_run: bool = False) -> list[str]:
    """Delete what dead processes left; return what was done, a line each."""
    store = Store(settings.cache_dir)
    if dry_run and store.root.is_dir():
        trash = store.usage()[store.trash.directory.name]
        lines = [f"would delete {path}" for path in store.leftovers()]
        return [*lines, f"would empty the trash: {trash.files} files, {size(trash.size_bytes)}"]
    return _clean(store, lambda _: [])


def clean_everything(settings: Settings, *, dry_run: bool = False) -> list[str]:
    """Delete the whole cache; return what was done, a line each.

    Raises:
        HostError: other processes use it.
    """
    store = Store(settings.cache_dir)
    if dry_run and store.root.is_dir():
        usage = store.usage().items()
        return [f"would delete {name}: {part.files} files, {size(part.size_bytes)}" for name, part in usage]
    return _clean(store, _delete_everything)


def clean_older(settings: Settings, older_than_s: float) -> list[str]:
    """Delete environments, packages and solutions that nobody wanted for so long; return what was done."""
    return _clean(Store(settings.cache_dir), lambda store: remove_older(store, older_than_s))


def clean_to_limit(settings: Settings) -> list[str]:
    """Delete what was not wanted for longest until the cache is within its limit; return what was done."""
    if not settings.cache_limit_mb:
        return ["The cache has no limit (`cache_limit_mb` is 0)."]
    limit = settings.cache_limit_mb * MEBIBYTE
    return _clean(Store(settings.cache_dir), lambda store: remove_excess(store, limit))


def _clean(store: Store, cleaning: Cleaning) -> list[str]:
    if not store.root.is_dir():
        return [f"There is nothing in {store.root}."]
    before = sum(part.size_bytes for part in store.usage().values())
    store.open()
    try:
        lines = cleaning(store)
        store.trash.wait()
    finally:
        store.close()
    after = sum(part.size_bytes for part in store.usage().values())
    return [*lines, f"Deleted {size(max(0, before - after))} of {store.root}; {size(after)} are left."]


def _delete_everything(store: Store) -> list[str]:
    others = store.other_owners()
    if others:
        raise HostError(
            f"{len(others)} other process(es) use {store.root}.",
            hint="Stop the servers that use this cache first.",
            code="cache-in-use",
        )
    for part in (*store.parts, store.root / CARE_LOCK):
        store.trash.discard(part)
    return []
