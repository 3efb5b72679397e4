"""Where records lie: found by their beginning, private, and bounded."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mcp_conda_run.errors import RequestError
from mcp_conda_run.records.record import RunRecord, parse_record, read_record
from mcp_conda_run.records.shelf import Bounds, Shelf

from .conftest import record

PLENTY = Bounds(runs=1000, days=30, size_bytes=10**9)


def fill(shelf: Shelf, count: int) -> list[RunRecord]:
    """Put so many records on a shelf, a minute between each and the next; the oldest comes first."""
    now = datetime.now(UTC)
    made = [record(f"{number:016x}", at=now - timedelta(minutes=count - number)) for number in range(count)]
    for one in made:
        shelf.put(one)
    return made


def test_a_record_comes_back_as_it_was(shelf: Shelf):
    kept = record()
    shelf.put(kept)
    assert shelf.find(kept.run_id) == kept


def test_the_beginning_of_an_id_is_enough(shelf: Shelf):
    shelf.put(record("aaaa000000000000"))
    shelf.put(record("abbb000000000000"))
    assert shelf.find("ab").run_id == "abbb000000000000"


def test_a_beginning_that_several_runs_share_is_refused_with_their_ids(shelf: Shelf):
    shelf.put(record("aaaa000000000000"))
    shelf.put(record("abbb000000000000"))
    with pytest.raises(RequestError, match="aaaa000000000000, abbb000000000000"):
        shelf.find("a")


@pytest.mark.parametrize("run_id", ["", "../x", "*", "ABC", "0" * 17])
def test_what_is_no_run_id_finds_nothing(shelf: Shelf, run_id: str):
    shelf.put(record())
    with pytest.raises(RequestError, match="no run id"):
        shelf.find(run_id)


def test_the_latest_come_first(shelf: Shelf):
    made = fill(shelf, 3)
    assert [one.run_id for one in shelf.latest(2)] == [made[2].run_id, made[1].run_id]


def test_only_the_user_can_read_a_record(shelf: Shelf, tmp_path: Path):
    shelf.put(record())
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in tmp_path.rglob("records/*/*")}
    assert modes == {0}


def test_runs_of_one_environment_share_its_list_of_packages(shelf: Shelf, tmp_path: Path):
    fill(shelf, 3)
    assert len(list(tmp_path.glob("records/environments/*"))) == 1


def test_a_damaged_record_is_left_out_of_the_list(shelf: Shelf, tmp_path: Path):
    made = fill(shelf, 2)
    damaged = next(tmp_path.glob(f"records/runs/*{made[1].run_id}*"))
    damaged.write_text("{")
    assert [one.run_id for one in shelf.latest(5)] == [made[0].run_id]


def test_too_many_records_lose_the_oldest(shelf: Shelf):
    made = fill(shelf, 5)
    shelf.prune(Bounds(runs=2, days=30, size_bytes=10**9))
    assert [one.run_id for one in shelf.latest(9)] == [made[4].run_id, made[3].run_id]


def test_old_records_go(shelf: Shelf):
    shelf.put(record("aaaa000000000000", at=datetime.now(UTC) - timedelta(days=31)))
    shelf.put(record("bbbb000000000000"))
    shelf.prune(PLENTY)
    assert [one.run_id for one in shelf.latest(9)] == ["bbbb000000000000"]


def test_records_that_take_too_much_room_lose_the_oldest(shelf: Shelf):
    made = fill(shelf, 5)
    shelf.prune(Bounds(runs=1000, days=30, size_bytes=2 * len(made[0].model_dump_json(exclude={"packages"}))))
    assert [one.run_id for one in shelf.latest(9)] == [made[4].run_id, made[3].run_id]


def test_an_exported_record_names_no_directory_of_this_host(tmp_path: Path):
    assert "/home/someone" not in record(path="/home/someone/data").document()


def test_an_exported_record_can_be_read_again(tmp_path: Path):
    file = tmp_path / "run.json"
    file.write_text(record().document())
    assert read_record(file).packages == record().packages


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, '{"run_id": 3}', "\0"])
def test_a_file_that_is_no_record_is_one_sentence(tmp_path: Path, text: str):
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(RequestError, match="is not the record of a run"):
        read_record(file)


def test_code_that_was_changed_in_a_record_is_noticed():
    text = record(code="print(1)").document().replace("print(1)", "print(2)")
    with pytest.raises(RequestError, match="not that of its digest"):
        parse_record(text.encode(), Path("run.json"))
