"""Channels from elsewhere: what is known by one address is fetched from another, and keeps its name.

`choose.py` puts `MirroredEngine` around the engine where the setting `mirrors`, or a bundle that was unpacked for
offline work, says so. Locks, environments and answers hold the packages' own addresses, so that they fit any machine;
only the engine inside sees the mirrors'. Fetches nothing itself.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HostError, SettingsError
from ..models import LockedPackage, PackageFacts, ProgressCallback, no_progress
from .channels import write_json
from .engine import Engine, SolveRequest
from .redact import redact

if TYPE_CHECKING:
    from ..settings import Settings

SCHEMES = ("https://", "http://", "file:///")
ASK_TIMEOUT_S = 60
UNPACKED = "bundled"
"""The directory of the cache that holds what bundles brought."""


class Mirrors:
    """Addresses and what stands for them; the longest that fits wins.

    Args:
        pairs: by the address of a channel, or of what is above several, the address to fetch from.
    """

    def __init__(self, pairs: Mapping[str, str]) -> None:
        plain = {of.rstrip("/"): to.rstrip("/") for of, to in pairs.items()}
        self._pairs = sorted(plain.items(), key=lambda pair: -len(pair[0]))
        self._back = sorted(((redact(to), of) for of, to in self._pairs), key=lambda pair: -len(pair[0]))

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def as_json(self) -> dict[str, str]:
        """Return the pairs, for a child process."""
        return dict(self._pairs)

    def url(self, url: str) -> str:
        """Return where something is fetched from."""
        return _moved(url, self._pairs)

    def original(self, url: str) -> str:
        """Return the address of something that was fetched from a mirror."""
        return _moved(redact(url), self._back) if self._back else url

    def channel(self, channel: str) -> str:
        """Return where a channel, given by name or address, is fetched from; itself if there is no mirror."""
        if not self:
            return channel
        address = channel_address(channel)
        moved = self.url(address)
        return channel if moved == address else moved


def _moved(url: str, pairs: Iterable[tuple[str, str]]) -> str:
    for of, to in pairs:
        if url == of or url.startswith(f"{of}/"):
            return to + url[len(of) :]
    return url


@cache
def channels_at() -> str:
    """Return where channels are that have a name only, as py-rattler says: in a child, as it is not for this process.

    Raises:
        HostError: it does not say.
    """
    ask = "import os, rattler; print(rattler.Channel('name').base_url, flush=True); os._exit(0)"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", ask],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(
            f"The engine does not say where named channels are: {error}.",
            hint="Name the channel by its address.",
            code="engine-crashed",
        ) from error
    return done.stdout.strip().rstrip("/").removesuffix("/name")


def channel_address(channel: str) -> str:
    """Return the address of a channel that is given by name or address."""
    return (channel if "://" in channel else f"{channels_at()}/{channel}").rstrip("/")


def configured_mirrors(texts: Iterable[str]) -> dict[str, str]:
    """Return the pairs of a setting: each `CHANNEL=MIRROR`, where a channel is given by name or address.

    Raises:
        SettingsError: one is none, or is of a kind that cannot be fetched from.
    """
    pairs = {}
    for text in texts:
        of, equals, to = text.partition("=")
        if not (of and equals and to):
            raise SettingsError(
                f"{redact(text)!r} is no mirror.",
                hint="Write CHANNEL=MIRROR, such as conda-forge=https://mirror.example/conda-forge.",
                code="bad-mirror",
            )
        if not to.startswith(SCHEMES):
            raise SettingsError(
                f"The mirror {redact(to)} cannot be fetched from.",
                hint="Mirrors are reached by https://, http:// and file:///; OCI and S3 through a gateway of HTTP.",
                code="bad-mirror",
            )
        pairs[channel_address(of)] = to
    return pairs


def unpacked_channels(cache_dir: Path) -> dict[str, str]:
    """Return the channels that bundles brought, by their own address."""
    root = cache_dir.absolute() / UNPACKED
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads((root / "channels.json").read_bytes())
        return {str(url): (root / "channels" / str(name)).as_uri() for url, name in found.items()}
    return {}


def all_mirrors(texts: Iterable[str], cache_dir: Path, *, offline: bool) -> Mirrors:
    """Return the mirrors that hold: those of the settings, and offline before them what bundles brought.

    Raises:
        SettingsError: one of the settings cannot be used.
    """
    pairs = configured_mirrors(texts)
    return Mirrors({**pairs, **unpacked_channels(cache_dir)} if offline else pairs)


class MirroredEngine:
    """An `Engine` around another one, which gets the mirrors' addresses in the place of the channels'."""

    def __init__(self, engine: Engine, mirrors: Mirrors) -> None:
        self._engine = engine
        self._mirrors = mirrors
        self.name = engine.name

    def version(self) -> str:
        """Return the inner engine's version."""
        return self._engine.version()

    def for_locks(self) -> Mapping[str, Any]:
        """Return what the inner engine says; locking has the mirrors of its own."""
        return self._engine.for_locks()

    async def solve(self, request: SolveRequest, progress: ProgressCallback = no_progress) -> tuple[LockedPackage, ...]:
        """Return all packages of an environment that satisfies the request, under their own addresses."""
        known = self._known(request.channels)
        pinned = [replace(package, url=self._mirrors.url(package.url)) for package in request.pinned]
        specs = [self._spec(spec) for spec in request.specs]
        inner = replace(request, specs=specs, channels=list(known), pinned=pinned)
        return tuple(self._own(package, known) for package in await self._engine.solve(inner, progress))

    async def install(
        self, packages: Sequence[LockedPackage], prefix: Path, progress: ProgressCallback = no_progress
    ) -> None:
        """Make `prefix` hold exactly these packages; what it says of them are their own addresses."""
        moved = [replace(package, url=self._mirrors.url(package.url)) for package in packages]
        await self._engine.install(moved, prefix, progress)
        changed = [package for package, now in zip(packages, moved, strict=True) if package.url != now.url]
        await asyncio.to_thread(name_originals, prefix, changed)

    async def describe(
        self, channels: Sequence[str], platform: str, names: Collection[str]
    ) -> Mapping[str, PackageFacts]:
        """Return what the channels say of these names; names that no channel has are absent."""
        known = self._known(channels)
        found = await self._engine.describe(list(known), platform, names)
        return {name: replace(facts, channel=known.get(facts.channel, facts.channel)) for name, facts in found.items()}

    async def names(self, channels: Sequence[str], platform: str) -> frozenset[str]:
        """Return every package name that the channels have for the platform, `noarch` included."""
        return await self._engine.names(list(self._known(channels)), platform)

    def expected(self) -> AbstractAsyncContextManager[None]:
        """Return a context in which a call is expected."""
        return self._engine.expected()

    def _known(self, channels: Sequence[str]) -> dict[str, str]:
        """Return for each channel as the engine gets it how it was given."""
        return {self._mirrors.channel(channel): channel for channel in channels}

    def _spec(self, spec: str) -> str:
        channel, bound, rest = spec.partition("::")
        return f"{self._mirrors.channel(channel)}::{rest}" if bound else spec

    def _own(self, package: LockedPackage, known: Mapping[str, str]) -> LockedPackage:
        url = self._mirrors.original(package.url)
        if url == package.url:
            return package
        return replace(package, url=url, channel=redact(known.get(package.channel, package.channel)))


def name_originals(prefix: Path, packages: Iterable[LockedPackage]) -> None:
    """Let a prefix say of packages where they are from, not from which mirror they came."""
    for package in packages:
        stem = package.url.rpartition("/")[2].removesuffix(".conda").removesuffix(".tar.bz2")
        path = prefix / "conda-meta" / f"{stem}.json"
        with suppress(OSError, ValueError):
            record: dict[str, Any] = json.loads(path.read_bytes())
            if record.get("url") != package.url:
                write_json(path, record | {"url": package.url, "channel": package.url.rsplit("/", 2)[0]})


def mirrors_of(settings: Settings) -> Mirrors:
    """Return the mirrors that hold under the settings.

    Raises:
        SettingsError: one of them cannot be used.
    """
    return all_mirrors(settings.mirrors, settings.cache_dir, offline=settings.offline)


def mirrored(engine: Engine, settings: Settings) -> Engine:
    """Return the engine, which fetches from the mirrors that hold under the settings.

    Raises:
        SettingsError: one of them cannot be used.
    """
    mirrors = mirrors_of(settings)
    return MirroredEngine(engine, mirrors) if mirrors else engine
