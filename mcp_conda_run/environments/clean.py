"""The `clean` command: what is left over goes; with `everything`, the whole cache goes.

What a living process uses is never touched: its runs carry its owner's id, and environments are only deleted when no
other process holds the store open.
"""

from __future__ import annotations

from ..errors import HostError
from ..settings import Settings
from ..terminal import size
from .store import Store


def clean_store(settings: Settings, *, everything: bool = False, dry_run: bool = False) -> list[str]:
    """Delete leftovers, or everything; return what was done, a line each.

    Raises:
        HostError: other processes use the cache that is to be deleted as a whole.
    """
    store = Store(settings.cache_dir)
    if not store.root.is_dir():
        return [f"There is nothing in {store.root}."]
    if dry_run:
        return _would_delete(store, everything=everything)
    before = sum(part.size_bytes for part in store.usage().values())
    store.open()
    try:
        if everything:
            _delete_everything(store)
        store.trash.wait()
    finally:
        store.close()
    after = sum(part.size_bytes for part in store.usage().values())
    return [f"Deleted {size(before - after)} of {store.root}; {size(after)} are left."]


def _would_delete(store: Store, *, everything: bool) -> list[str]:
    usage = store.usage()
    if everything:
        return [f"would delete {name}: {part.files} files, {size(part.size_bytes)}" for name, part in usage.items()]
    left = store.leftovers()
    trash = usage[store.trash.directory.name]
    lines = [f"would delete {path}" for path in left]
    return [*lines, f"would empty the trash: {trash.files} files, {size(trash.size_bytes)}"]


def _delete_everything(store: Store) -> None:
    others = store.other_owners()
    if others:
        raise HostError(
            f"{len(others)} other process(es) use {store.root}.",
            hint="Stop the servers that use this cache first.",
            code="cache-in-use",
        )
    for directory in store.parts:
        store.trash.discard(directory)
