"""Mapping data from elsewhere: an installed `conda-pypi`, and public import maps if the user switched them on.

Called by the planner. Sources only propose; the channel's index and the check after an install decide. Every answer is
bounded, checked for its shape, and kept on disk; a source that fails is left alone for a while.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

BOT_MAPS = "https://github.com/conda-forge/conda-forge-bot-data/raw/main/import_to_pkg_maps"
"""Maps that conda-forge's bot makes from the file lists of all packages; one small file for each 10 first letters."""
SHARD_LETTERS, SHARD_DIRECTORIES = 10, 5
MAX_BYTES = 1 << 20
MAX_AGE_S = 7 * 86400
PAUSE_S = 600
TIMEOUT_S = 4.0
NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,127}")

Fetch = Callable[[str], bytes]
"""Reads a URL; the one seam to the network. Raises OSError."""


class InstalledMap:
    """The map that the distribution `conda-pypi` carries; empty if it is not installed. Its code is never imported."""

    name = "conda-pypi"

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def lookup(self, module: str) -> Sequence[str]:
        """Return conda packages that may bring this module, best first; the first call reads the map."""
        return load_map(self._path or installed_map()).get(module, ())


@cache
def installed_map() -> Path | None:
    """Find the map of an installed `conda-pypi`."""
    with suppress(metadata.PackageNotFoundError, OSError, ValueError):
        return Path(str(metadata.distribution("conda-pypi").locate_file("conda_pypi/grayskull_pypi_mapping.json")))
    return None


@cache
def load_map(path: Path | None) -> Mapping[str, tuple[str, ...]]:
    """Read the map: import -> conda names; a file of another shape holds nothing."""
    packages: dict[str, tuple[str, ...]] = {}
    if path is not None:
        with suppress(OSError, ValueError, AttributeError, TypeError):
            for row in json.loads(path.read_bytes()).values():
                module, conda = str(row["import_name"]), str(row["conda_name"])
                if NAME.fullmatch(conda):
                    packages[module] = (*packages.get(module, ()), conda)
    return packages


def fetch(url: str) -> bytes:
    """Read a URL, bounded in time and size."""
    request = urllib.request.Request(url, headers={"User-Agent": "mcp-conda-run"})  # noqa: S310 - our constant, https
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
        body: bytes = response.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise OSError("the answer is too long")
    return body


class OnlineMap:
    """The public maps of conda-forge's bot, kept in `cache_dir` for a week."""

    name = "conda-forge's import map"

    def __init__(self, cache_dir: Path, *, read: Fetch = fetch, clock: Callable[[], float] = time.time) -> None:
        self._cache_dir = cache_dir
        self._read = read
        self._clock = clock
        self._paused_until = 0.0
        self._packages: dict[str, tuple[str, ...]] = {}

    def lookup(self, module: str) -> Sequence[str]:
        """Return what an earlier `prepare` found for a module."""
        return self._packages.get(module, ())

    async def prepare(self, modules: Iterable[str]) -> None:
        """Fetch the maps for these modules; what cannot be had within the time-out is left out."""
        shards = sorted({shard_of(module.partition(".")[0]) for module in modules if module.isascii()})[:20]
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):
                await asyncio.gather(*(asyncio.to_thread(self._load, shard) for shard in shards))
        except TimeoutError:
            self._paused_until = self._clock() + PAUSE_S

    def _load(self, shard: str) -> None:
        file = self._cache_dir / f"{hashlib.sha256(shard.encode()).hexdigest()[:16]}.json"
        with suppress(OSError):
            if self._clock() - file.stat().st_mtime < MAX_AGE_S:
                self._packages |= read_shard(file.read_bytes())
                return
        if self._clock() < self._paused_until:
            return
        try:
            body = self._read(f"{BOT_MAPS}/{shard}")
        except urllib.error.HTTPError as error:
            if error.code != 404:  # noqa: PLR2004 - no import begins with these letters
                self._paused_until = self._clock() + PAUSE_S
            return
        except OSError as error:
            log.info("The public import map cannot be read: %s", error)
            self._paused_until = self._clock() + PAUSE_S
            return
        self._packages |= read_shard(body)
        with suppress(OSError):
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)


def shard_of(root: str) -> str:
    """Return the path of the map that holds an import: directories from the hash of the file's name."""
    name = f"{root[:SHARD_LETTERS].lower()}.json"
    digest = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    return "/".join([*digest[:SHARD_DIRECTORIES], name])


def read_shard(body: bytes) -> dict[str, tuple[str, ...]]:
    """Read a map: import -> conda names; of many providers the shortest names first. Another shape holds nothing."""
    packages: dict[str, tuple[str, ...]] = {}
    with suppress(ValueError, AttributeError, TypeError):
        document: Mapping[str, Any] = json.loads(body)
        for module, value in document.items():
            names = value["elements"] if isinstance(value, dict) else value
            good = [name for name in names if isinstance(name, str) and NAME.fullmatch(name)]
            packages[module] = tuple(sorted(good, key=lambda name: (len(name), name))[:8])
    return packages
