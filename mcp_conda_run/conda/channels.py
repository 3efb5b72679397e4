"""What names the channels have, and which of them are Python packages.

The planner asks here before it names a package, on every run, so answers are kept on disk and in memory: planning the
same imports again starts no engine. Nothing here solves or installs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import InstallError, SettingsError
from ..models import PackageFacts
from ..portability import replace_file
from .engine import Engine

log = logging.getLogger(__name__)

PACKAGE_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
"""CEP 26, https://conda.org/learn/ceps/cep-0026: what a conda package may be called."""

MAX_REMEMBERED = 50_000
"""Answers kept for one set of channels; the names come from foreign code, so there must be a bound."""


class ChannelIndex(Protocol):
    """Answers for one platform and one list of channels. Raises `InstallError` or `HostError`, and nothing else."""

    platform: str

    async def describe(self, names: Collection[str]) -> Mapping[str, PackageFacts]:
        """Return what the channels say of these names; names that no channel has are absent."""

    async def names(self) -> frozenset[str]:
        """Return every package name of the channels."""


def is_package_name(name: str) -> bool:
    """Say whether a conda package can have this name at all."""
    return PACKAGE_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was once said of a name (None: no channel has it), and when (seconds since 1970)."""

    facts: PackageFacts | None
    at: float


class EngineIndex:
    """Asks an engine, and remembers: for `max_age_s` seconds, or for ever when offline.

    Answers older than that still serve when the channels cannot be reached.
    """

    def __init__(
        self,
        engine: Engine,
        channels: Sequence[str],
        platform: str,
        cache_dir: Path,
        *,
        max_age_s: float,
        offline: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.platform = platform
        self._engine = engine
        self._channels = tuple(channels)
        self._max_age_s = max_age_s
        self._offline = offline
        self._clock = clock
        key = hashlib.sha256(json.dumps([self._channels, platform]).encode()).hexdigest()[:16]
        self._facts_file = cache_dir / f"facts-{key}.json"
        self._names_file = cache_dir / f"names-{key}.json"
        self._answers: dict[str, Answer] | None = None
        self._names: tuple[frozenset[str], float] | None = None

    async def describe(self, names: Collection[str]) -> Mapping[str, PackageFacts]:
        """Return what the channels say of these names; names that no channel has are absent."""
        wanted = {name for name in names if is_package_name(name)}
        answers = self._load_answers()
        asked = sorted(name for name in wanted if name not in answers or self._is_old(answers[name].at))
        if asked:
            await self._ask(asked, answers)
        facts = {name: answers[name].facts for name in sorted(wanted) if name in answers}
        return {name: fact for name, fact in facts.items() if fact is not None}

    async def names(self) -> frozenset[str]:
        """Return every package name of the channels."""
        known = self._names or read_names(self._names_file)
        if known is None or self._is_old(known[1]):
            try:
                fresh = await self._engine.names(self._channels, self.platform)
            except InstallError as error:
                if known is None:
                    raise
                log.warning("Using an older list of names, because: %s", error.message)
            else:
                known = fresh, self._clock()
                if not self._offline:
                    write_json(self._names_file, {"at": known[1], "names": sorted(fresh)})
        self._names = known
        return known[0]

    def _is_old(self, at: float) -> bool:
        return not self._offline and not 0 <= self._clock() - at <= self._max_age_s

    def _load_answers(self) -> dict[str, Answer]:
        if self._answers is None:
            self._answers = read_answers(self._facts_file)
        return self._answers

    async def _ask(self, names: Sequence[str], answers: dict[str, Answer]) -> None:
        try:
            facts = await self._engine.describe(self._channels, self.platform, names)
        except InstallError as error:
            if not all(name in answers for name in names):
                raise
            log.warning("Using older facts of the channels, because: %s", error.message)
            return
        now = self._clock()
        merged = read_answers(self._facts_file) | answers  # another process may have learned other names meanwhile
        merged |= {name: Answer(facts.get(name), now) for name in names}
        newest_last = sorted(merged, key=lambda name: merged[name].at)[-MAX_REMEMBERED:]
        answers.clear()
        answers.update({name: merged[name] for name in newest_last})
        if self._offline:
            return  # what is not cached is there all the same: nobody should learn that it is not
        write_json(self._facts_file, {name: [a.at, a.facts and asdict(a.facts)] for name, a in answers.items()})


class StaticIndex:
    """Answers from a file, for measuring the planner without any channel.

    The file is JSON: `{"platform": "linux-64", "channels": {"conda-forge": {"numpy": true, "yaml": false}}}`, where the
    value says whether the name is a Python package, and channels that come first win.
    """

    def __init__(self, facts: Mapping[str, PackageFacts], platform: str) -> None:
        self.platform = platform
        self._facts = dict(facts)

    @classmethod
    def load(cls, path: Path) -> StaticIndex:
        """Read the file.

        Raises:
            SettingsError: the file cannot be read or has another shape.
        """
        try:
            document = json.loads(path.read_bytes())
            facts: dict[str, PackageFacts] = {}
            for channel, names in document["channels"].items():
                for name, is_python in names.items():
                    facts.setdefault(name, PackageFacts(name, channel, "", bool(is_python)))
            return cls(facts, str(document["platform"]))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise SettingsError(f"{path} is not a list of channel names: {error}.") from None

    async def describe(self, names: Collection[str]) -> Mapping[str, PackageFacts]:
        """Return what the file says of these names."""
        return {name: self._facts[name] for name in sorted(set(names)) if name in self._facts}

    async def names(self) -> frozenset[str]:
        """Return every name of the file."""
        return frozenset(self._facts)


def read_answers(path: Path) -> dict[str, Answer]:
    """Read remembered answers; a file that is absent or damaged holds none."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        entries = json.loads(path.read_bytes()).items()
        return {name: Answer(None if fact is None else PackageFacts(**fact), float(at)) for name, (at, fact) in entries}
    return {}


def read_names(path: Path) -> tuple[frozenset[str], float] | None:
    """Read a remembered list of names with its time; None if it is absent or damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        document = json.loads(path.read_bytes())
        return frozenset(map(str, document["names"])), float(document["at"])
    return None


def write_json(path: Path, document: Any) -> None:
    """Replace the file in one step; a cache that cannot be written is only slower, so failures are logged."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file)
            replace_file(Path(temporary), path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        log.warning("Cannot remember answers of the channels in %s: %s", path, error)
