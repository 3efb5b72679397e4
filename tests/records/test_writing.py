"""Records are written beside the runs: none is lost as long as they fit into memory, and no run waits for them."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcp_conda_run.models import Figure, RunRequest, RunResult, Status
from mcp_conda_run.records import writing
from mcp_conda_run.records.record import RunRecord
from mcp_conda_run.records.shelf import Shelf
from mcp_conda_run.records.writing import Draft, Recorder, Surroundings
from mcp_conda_run.settings import Settings
from mcp_conda_run.source import Source

AROUND = Surroundings(lambda: (), lambda _: None, lambda _: ((), ()), "linux-64", "rattler")


class SlowShelf(Shelf):
    """A shelf on a disk that answers when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.may_write = threading.Event()

    def put(self, record: RunRecord) -> None:
        self.may_write.wait(60)
        super().put(record)


@pytest.fixture
def shelf(tmp_path: Path) -> SlowShelf:
    return SlowShelf(tmp_path)


def run(number: int, output: str = "") -> tuple[Draft, RunResult]:
    draft = Draft(RunRequest(code="pass"), datetime.now(UTC), 0, Source("pass"))
    figure = Figure("image/png", b"x" * (1 << 20))
    return draft, RunResult(status=Status.SUCCESS, output=output, run_id=f"{number:016x}", figures=(figure,))


def test_runs_that_end_while_the_disk_is_slow_are_all_on_record(shelf: SlowShelf, tmp_path: Path):
    recorder = Recorder(Settings(cache_dir=tmp_path), shelf, AROUND)
    for number in range(1000):
        recorder.keep(*run(number))
    shelf.may_write.set()
    recorder.close()
    assert [record.run_id for record in shelf.latest(2000)][::-1] == [f"{number:016x}" for number in range(1000)]


def test_what_waits_is_bounded_in_memory_and_what_is_left_out_is_said(
    shelf: SlowShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(writing, "MAX_WAITING_BYTES", 10_000)
    recorder = Recorder(Settings(cache_dir=tmp_path), shelf, AROUND)
    with caplog.at_level(logging.WARNING):
        for number in range(12):
            recorder.keep(*run(number, output="x" * 2000))
    shelf.may_write.set()
    recorder.close()
    kept = [record.run_id for record in shelf.latest(2000)]
    left_out = [row.getMessage().split()[2] for row in caplog.records]
    assert (len(kept), sorted(kept + left_out)) == (4, [f"{number:016x}" for number in range(12)])


def test_there_is_room_again_when_they_are_written(shelf: SlowShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writing, "MAX_WAITING_BYTES", 3000)
    shelf.may_write.set()
    recorder = Recorder(Settings(cache_dir=tmp_path), shelf, AROUND)
    for number in range(5):
        recorder.keep(*run(number, output="x" * 2000))
        recorder.close()
    assert len(list(shelf.latest(10))) == 5
