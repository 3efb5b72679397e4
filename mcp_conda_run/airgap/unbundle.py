"""Unpacks a bundle into the cache, so that locking, planning and running work there without a network.

Called by `commands/bundle.py`. Everything is checked before anything gets its place; then each file appears whole, and
what names the others last. What was there before stays: two bundles add up. The way back is `clean --all`.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..conda.engine import current_platform
from ..conda.lockfile import load_lock
from ..conda.mirrors import UNPACKED
from ..environments.store import Store, host_errors, write_atomically
from ..errors import CondaRunError, RequestError
from ..portability import lock
from ..settings import Settings
from .format import BundleReader, Manifest

INCOMING = ".incoming-"


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came: the manifest, its sha256, and what the user should know."""

    manifest: Manifest
    sha256: str
    notes: tuple[str, ...] = ()


def unpack_bundle(file: Path, settings: Settings, *, sha256: str = "") -> Unpacked:
    """Check a bundle and unpack it.

    Args:
        file: the bundle.
        settings: where the cache and the user's templates are.
        sha256: if given, what the manifest's digest must be.

    Raises:
        RequestError: it is no bundle, is damaged, brings what it must not, or is another one.
        HostError: the cache cannot be written.
    """
    store = Store(settings.cache_dir)
    with host_errors("The bundle cannot be unpacked"), _incoming(store) as incoming:
        with file.open("rb") as data:
            reader = BundleReader(data, file.name)
            manifest = reader.manifest()
            if sha256 and reader.manifest_sha256 != sha256.lower():
                raise reader.bad(f"its manifest has the sha256 {reader.manifest_sha256}, which is not the expected one")
            reader.objects(manifest, incoming)
        _check(manifest, incoming, reader)
        with _alone(store):
            notes = tuple(_place(manifest, incoming, store, settings))
    if manifest.platform != current_platform():
        notes = (f"The bundle is for {manifest.platform}, not for this machine ({current_platform()}).", *notes)
    return Unpacked(manifest, reader.manifest_sha256, notes)


@contextmanager
def _incoming(store: Store) -> Iterator[Path]:
    """Give a directory on the cache's file system that is gone afterwards; those of killed processes go too."""
    root = store.root / UNPACKED
    root.mkdir(parents=True, exist_ok=True)
    directory = root / f"{INCOMING}{secrets.token_hex(4)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Let no two processes add to the unpacked channels at once."""
    with (store.root / UNPACKED / ".lock").open("a") as file:
        lock(file)
        yield


def _check(manifest: Manifest, incoming: Path, reader: BundleReader) -> None:
    """Look into what is interpreted later, so that no file gets its place unless all are good."""
    known = {channel.name for channel in manifest.channels}
    for member in manifest.members:
        path, data = member.path, incoming / member.sha256
        if path.startswith("channels/") and path.split("/")[1] not in known:
            raise reader.bad(f"{path} belongs to no channel of it")
        try:
            if path.startswith("locks/"):
                load_lock(data)
            elif path.endswith("/repodata.json"):
                entries(json.loads(data.read_bytes()))
        except (CondaRunError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise reader.bad(f"{path} cannot be used: {str(error).splitlines()[0][:200]}") from None


def entries(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what an index of a channel says of archives, by file name.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is no such index.
    """
    found = {**document["packages"], **document["packages.conda"]}
    for name, entry in found.items():
        if not (isinstance(entry["name"], str) and len(entry["sha256"]) == 64 and "/" not in name):  # noqa: PLR2004
            raise ValueError(f"it has a bad entry for {name[:80]!a}")
    return found


def _place(manifest: Manifest, incoming: Path, store: Store, settings: Settings) -> Iterator[str]:
    """Give every file its place, and yield what the user should know."""
    store.locks.mkdir(parents=True, exist_ok=True)
    root = store.root / UNPACKED
    indexes = []
    for member in manifest.members:
        kind, _, rest = member.path.partition("/")
        source = incoming / member.sha256
        if kind == "channels" and rest.endswith("/repodata.json"):
            indexes.append((source, root / "channels" / rest))
        elif kind == "channels":
            _copy(source, root / "channels" / rest)
        elif kind == "pypi":
            _copy(source, store.pypi / rest)
        elif kind == "locks":
            _copy(source, store.locks / rest)
        else:
            yield from _place_template(source, settings.templates_dir / rest)
    for source, target in indexes:
        _merge_index(source, target)
    _register(manifest, root / "channels.json")


def _copy(source: Path, target: Path) -> None:
    """Make a file appear whole; one object may have several places."""
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}")
    try:
        try:
            half.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, half)
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)


def _place_template(source: Path, target: Path) -> Iterator[str]:
    if target.exists() and target.read_bytes() != source.read_bytes():
        yield f"The template {target} is there already and differs from the bundle's; it stays as it is."
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, source.read_text(encoding="utf-8"))


def _merge_index(source: Path, target: Path) -> None:
    """Add what one bundle says of a channel to what earlier ones said."""
    new = json.loads(source.read_bytes())
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        old = json.loads(target.read_bytes())
        new |= {key: {**old[key], **new[key]} for key in ("packages", "packages.conda")}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, json.dumps(new, sort_keys=True, indent=1))


def _register(manifest: Manifest, path: Path) -> None:
    """Let the engines know which channels are there now (`conda/mirrors.py` reads it); both halves of each."""
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(path.read_bytes())
    for channel in manifest.channels:
        known[channel.url] = channel.name
        for subdir in (manifest.platform, "noarch"):
            index = path.parent / "channels" / channel.name / subdir / "repodata.json"
            if not index.exists():
                index.parent.mkdir(parents=True, exist_ok=True)
                empty = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": {}, "repodata_version": 1}
                write_atomically(index, json.dumps(empty))
    write_atomically(path, json.dumps(known, sort_keys=True, indent=1))


def read_sha256(text: str) -> str:
    """Return a digest that a user gave.

    Raises:
        RequestError: it is none.
    """
    digest = text.strip().lower().removeprefix("sha256:")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):  # noqa: PLR2004 - the digits of a sha256
        raise RequestError(f"{text[:80]!a} is no sha256.", hint="Give the 64 digits that `bundle` printed.")
    return digest
