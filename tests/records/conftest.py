"""Runs whose records the tests look at: real ones, in a cache that is warm for the whole test run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcp_conda_run.models import LockedPackage, RunRequest, RunResult
from mcp_conda_run.records.record import Code, Given, Outcome, Place, RunRecord, text_digest
from mcp_conda_run.records.shelf import Shelf
from mcp_conda_run.records.writing import records_shelf
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.settings import Settings

from ..support.warm import small_settings

RunOnRecord = Callable[..., Awaitable[tuple[RunResult, RunRecord]]]


@pytest.fixture
def settings_with(warm_small_cache: Path, small_channel: Path) -> Callable[..., Settings]:
    """Return settings for the small template, with others of the test's own."""
    return lambda **others: small_settings(warm_small_cache, small_channel, pool_mb=0, **others)


@pytest.fixture
def on_record(settings_with: Callable[..., Settings]) -> RunOnRecord:
    """Run something, and return its result and its record: `await on_record(RunRequest(...), path=...)`."""

    async def run(request: RunRequest, **others: object) -> tuple[RunResult, RunRecord]:
        settings = settings_with(**others)
        async with Runtime(settings) as runtime:
            result = await runtime.run(request)
        return result, records_shelf(settings.cache_dir).find(result.run_id)

    return run


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Return a shelf with nothing on it."""
    return Shelf(tmp_path / "records")


def record(run_id: str = "0123456789abcdef", code: str = "1", at: datetime | None = None, **place: object) -> RunRecord:
    """Return a record that no run has made."""
    package = LockedPackage(
        name="six", version="1.0", url="https://example.org/c/noarch/six-1.0-0.conda", sha256="ab" * 32
    )
    return RunRecord(
        run_id=run_id,
        at=at or datetime.now(UTC),
        code=Code(text=code, sha256=text_digest(code)),
        given=Given(),
        packages=(package,),
        place=Place(**{"environment": "ee" * 8, "platform": "linux-64", **place}),
        outcome=Outcome(status="success"),
    )
