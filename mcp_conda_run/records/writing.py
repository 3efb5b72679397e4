"""Writes the record of each run after its answer is ready, in a thread of its own, so that no run waits for it.

`runtime.py` opens a draft before a run and hands it in with the result. A record that cannot be written, or that comes
while too many others wait, is missing, which the log says; a run never fails for it.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from .. import __version__
from ..conda.redact import redact
from ..models import Environment, Json, LockedPackage, Mount, RunRequest, RunResult
from ..settings import MEBIBYTE, LimitName, Settings
from ..source import Source
from .inputs import InputDigests
from .record import Code, Given, Inputs, Outcome, Place, RunRecord, text_digest, value_digest
from .shelf import Bounds, Shelf

log = logging.getLogger(__name__)

MAX_WAITING = 2048
MAX_WAITING_BYTES = 64 * MEBIBYTE
MAX_CODE = 512 * 1024
MAX_GIVEN = 64 * 1024
PRUNE_EVERY = 200
KNOWN_ENVIRONMENTS = 50
CLOSE_S = 10.0
LIMITS: tuple[LimitName, ...] = get_args(LimitName)
SETTINGS = ("exclude_newer", "pip", "pip_cooldown_days", "pip_min_age_days", "online_maps", "mount")
SECRET = re.compile(r"token|passw|secret|api_?key|credential|private_?key", re.IGNORECASE)


@dataclass(slots=True)
class Draft:
    """What is known of a run before its result: when it began, and what ran as soon as that was read."""

    request: RunRequest
    at: datetime
    began_ns: int
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a recorder must know of the runtime that it belongs to.

    Attributes:
        mounts: what runs see of the host.
        environment: finds an environment by its key.
        template: finds the specs and channels of a template by the request.
        platform, engine: their names.
    """

    mounts: Callable[[], Sequence[Mount]]
    environment: Callable[[str], Environment | None]
    template: Callable[[str | None], tuple[tuple[str, ...], tuple[str, ...]]]
    platform: str
    engine: str


@dataclass(slots=True)
class Recorder:
    """Keeps records under the settings; nothing at all if `records` is 0."""

    settings: Settings
    shelf: Shelf
    around: Surroundings
    _waiting: queue.SimpleQueue[tuple[Draft, RunResult] | None] = field(default_factory=queue.SimpleQueue)
    _waiting_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _inputs: InputDigests = field(default_factory=InputDigests)
    _known: dict[str, _Contents] = field(default_factory=dict)
    _written: int = 0

    def keep(self, draft: Draft, result: RunResult) -> None:
        """Have a run written down; returns at once."""
        if not self.settings.records:
            return
        result = replace(result, figures=())
        size = _size(draft, result)
        with self._lock:
            room = self._waiting.qsize() < MAX_WAITING and self._waiting_bytes + size <= MAX_WAITING_BYTES
            self._waiting_bytes += size if room else 0
        if not room:
            log.warning("The run %s is not on record: too many others wait to be written.", result.run_id)
            return
        self._waiting.put((draft, result))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="records", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what waits, but not for ever."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(CLOSE_S)
            self._thread = None

    def _work(self) -> None:
        while (next_ := self._waiting.get()) is not None:
            try:
                self.shelf.put(self._record(*next_))
                if self._written % PRUNE_EVERY == 0:
                    self.shelf.prune(self._bounds())
                self._written += 1
            except OSError as error:
                log.warning("The run %s is not on record: %s", next_[1].run_id, error)
            except Exception:
                log.exception("The run %s is not on record", next_[1].run_id)
            with self._lock:
                self._waiting_bytes -= _size(*next_)

    def _bounds(self) -> Bounds:
        return Bounds(self.settings.records, self.settings.records_days, self.settings.records_mb * MEBIBYTE)

    def _record(self, draft: Draft, result: RunResult) -> RunRecord:
        mounts = self.around.mounts()
        source = draft.source or Source("")
        mentioned = "\n".join([source.code, *draft.request.args])
        inputs = self._inputs.of(mounts, draft.began_ns, mentioned) if result.environment else Inputs()
        return RunRecord(
            run_id=result.run_id,
            at=draft.at,
            took_ms=result.timings_ms.get("total", 0.0),
            code=self._code(source),
            given=self._given(draft.request),
            requested=draft.request.packages,
            plan=result.plan.packages,
            packages=self._contents(result.environment).packages,
            place=self._place(draft.request, result, mounts),
            inputs=inputs,
            outcome=_outcome(result),
        )

    def _code(self, source: Source) -> Code:
        kept = self.settings.records_code and len(source.code) <= MAX_CODE
        return Code(
            text=source.code if kept else None,
            sha256=text_digest(source.code),
            mount=source.mount.target if source.mount is not None else "",
            relative=source.relative,
        )

    def _given(self, request: RunRequest) -> Given:
        variables, withheld = _sorted_out(request.global_variables, keep=self.settings.records_code)
        kept = self.settings.records_code and sum(map(len, request.args)) <= MAX_GIVEN
        return Given(
            args=request.args if kept or not request.args else None, variables=variables, withheld=tuple(withheld)
        )

    def _place(self, request: RunRequest, result: RunResult, mounts: Sequence[Mount]) -> Place:
        specs, channels = self.around.template(request.template)
        limits: dict[str, float] = {name: float(getattr(self.settings, name)) for name in LIMITS}
        timeout_s = min(request.timeout_s or self.settings.timeout_s, self.settings.max_timeout_s)
        isolation = result.isolation
        return Place(
            version=__version__,
            platform=self.around.platform,
            python=result.python_version,
            template=result.template,
            specs=specs,
            channels=tuple(redact(channel) for channel in (*channels, *result.plan.channels)),
            environment=result.environment,
            beside=self._contents(result.environment).beside,
            engine=self.around.engine,
            tier=isolation.tier if isolation is not None else "",
            network=isolation.network if isolation is not None else "",
            limits={**limits, **request.limits, "timeout_s": timeout_s},
            settings={name: getattr(self.settings, name) for name in SETTINGS},
            path=str(mounts[0].source) if mounts and self.settings.path is not None else "",
        )

    def _contents(self, key: str) -> _Contents:
        """Return what an environment consists of; nothing if it is gone."""
        if key not in self._known:
            environment = self.around.environment(key) if key else None
            if environment is None:
                return _Contents()
            self._known.clear() if len(self._known) >= KNOWN_ENVIRONMENTS else None
            beside = {*environment.modules.values()} - {package.name for package in environment.packages}
            self._known[key] = _Contents(tuple(map(without_credentials, environment.packages)), tuple(sorted(beside)))
        return self._known[key]


@dataclass(frozen=True, slots=True)
class _Contents:
    """The packages of an environment, their addresses without credentials, and what else brings modules to it."""

    packages: tuple[LockedPackage, ...] = ()
    beside: tuple[str, ...] = ()


def _size(draft: Draft, result: RunResult) -> int:
    """Return about how much memory a run that waits to be written takes."""
    texts = (result.output, result.stdout, result.stderr, result.value.text if result.value is not None else "")
    return sum(map(len, texts)) + (len(draft.source.code) if draft.source is not None else 0)


def without_credentials(package: LockedPackage) -> LockedPackage:
    """Return the package as it may be written down."""
    url, channel = redact(package.url), redact(package.channel)
    if (url, channel) == (package.url, package.channel):
        return package
    fields = {name: getattr(package, name) for name in LockedPackage.__slots__}
    return LockedPackage(**{**fields, "url": url, "channel": channel})


def _sorted_out(variables: Mapping[str, Json], *, keep: bool) -> tuple[dict[str, Json], list[str]]:
    """Return the variables to keep, and the names of the others: those that seem secret, and those that are long."""
    kept: dict[str, Json] = {}
    withheld: list[str] = []
    room = MAX_GIVEN
    for name, value in variables.items():
        size = room + 1
        if keep and not SECRET.search(name):
            with suppress(ValueError, TypeError, RecursionError):
                size = len(json.dumps(value))
        if size <= room:
            kept[name] = value
            room -= size
        else:
            withheld.append(name)
    return kept, withheld


def _outcome(result: RunResult) -> Outcome:
    return Outcome(
        status=str(result.status),
        exit_code=result.exit_code,
        limit=result.limit,
        error=result.error.type if result.error is not None else "",
        value=value_digest(result.value),
        value_type=result.value.type if result.value is not None else "",
        output=text_digest(result.output),
        files=tuple(file.path for file in result.files),
        attempts=max(1, len(result.attempts)),
    )


def open_draft(request: RunRequest, began_ns: int) -> Draft:
    """Begin to take down a run."""
    return Draft(request, datetime.now(UTC), began_ns)


def records_shelf(cache_dir: Path) -> Shelf:
    """Return where the records of a cache directory lie."""
    return Shelf(cache_dir.absolute() / "records")
