"""Where the records lie: one small file a run, and one list of packages an environment, private to the user.

    runs/<milliseconds>-<run id>-<environment>.json      in the order of time by their names
    environments/<environment>.json                      its packages, shared by all runs in it

Any number of processes may use it at once. What is too old, too many or too big goes; nothing here slows a run, as
`writing.py` calls it from a thread of its own. `replay`, `export` and `runs` read.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError
from ..models import LockedPackage
from ..portability import replace_file
from .record import RunRecord, parse_record

NAME = re.compile(r"(?P<ms>\d{13})-(?P<run_id>[0-9a-f]{16})-(?P<environment>[0-9a-f]{16})\.json")
RUN_ID = re.compile(r"[0-9a-f]{1,16}")
NO_ENVIRONMENT = "0" * 16
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: so many runs, so many days, so many bytes."""

    runs: int
    days: float
    size_bytes: int


class Shelf:
    """The records of one cache directory."""

    def __init__(self, root: Path) -> None:
        self._runs = root / "runs"
        self._environments = root / "environments"

    def put(self, record: RunRecord) -> None:
        """Keep a record.

        Raises:
            OSError: it cannot be written.
        """
        for directory in (self._runs, self._environments):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = record.place.environment or NO_ENVIRONMENT
        packages = self._environments / f"{environment}.json"
        if record.packages and not packages.exists():
            rows = record.model_dump_json(include={"packages"})
            _write(packages, rows)
        name = f"{int(record.at.timestamp() * 1000):013d}-{record.run_id}-{environment}.json"
        _write(self._runs / name, record.model_dump_json(exclude={"packages"}))

    def latest(self, count: int) -> Iterator[RunRecord]:
        """Yield the newest records, newest first; damaged ones are left out."""
        for match in self._names()[::-1][:count]:
            with suppress(RequestError, OSError):
                yield self._read(match)

    def find(self, run_id: str) -> RunRecord:
        """Return the record of a run, which the beginning of its id names.

        Raises:
            RequestError: there is none, there are several, or it is damaged.
        """
        if not RUN_ID.fullmatch(run_id):
            raise RequestError(f"{run_id[:40]!a} is no run id.", hint="`mcp-conda-run runs` lists them.", code="no-run")
        found = [match for match in self._names() if match["run_id"].startswith(run_id)]
        if len(found) > 1:
            ids = ", ".join(match["run_id"] for match in found[-5:])
            raise RequestError(f"Several runs begin with {run_id}: {ids}.", hint="Give more digits.", code="no-run")
        if not found:
            raise RequestError(
                f"There is no record of a run {run_id}.",
                hint="`mcp-conda-run runs` lists them; the setting `records` says how many are kept.",
                code="no-run",
            )
        try:
            return self._read(found[0])
        except OSError as error:
            raise RequestError(f"The record of {run_id} cannot be read: {error.strerror}.", code="no-run") from None

    def prune(self, bounds: Bounds) -> None:
        """Remove the oldest records beyond the bounds, and lists of packages that none needs any more."""
        kept_bytes, kept_count = 0, 0
        oldest_ms = time.time() * 1000 - bounds.days * DAY_MS
        wanted = set()
        for match in self._names()[::-1]:
            path = self._runs / match.string
            with suppress(OSError):
                kept_bytes += path.stat().st_size
                kept_count += 1
                if kept_count > bounds.runs or kept_bytes > bounds.size_bytes or int(match["ms"]) < oldest_ms:
                    path.unlink()
                else:
                    wanted.add(match["environment"])
        now = time.time()
        for path in self._environments.glob("*.json"):
            with suppress(OSError):
                if path.stem not in wanted and now - path.stat().st_mtime > 60:  # noqa: PLR2004 - its run's file follows
                    path.unlink()

    def _names(self) -> list[re.Match[str]]:
        """Return the names of the records, oldest first."""
        try:
            names = sorted(os.listdir(self._runs))
        except OSError:
            return []
        return [match for name in names if (match := NAME.fullmatch(name))]

    def _read(self, match: re.Match[str]) -> RunRecord:
        path = self._runs / match.string
        packages: list[LockedPackage] = []
        with suppress(OSError, ValueError, KeyError, TypeError):
            packages = json.loads((self._environments / f"{match['environment']}.json").read_bytes())["packages"]
        return parse_record(path.read_bytes(), path, packages)


def _write(path: Path, text: str) -> None:
    """Make a file that only the user reads appear whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
