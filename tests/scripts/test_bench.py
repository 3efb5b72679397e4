"""The benchmark's arithmetic: ratios, bounds and what is shown; measuring itself is not tested by time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def rows(*series):
    from benchmarks.report import rows_of

    return {row["name"]: row for row in rows_of(series)}


def a(name: str, *times: float, **more):
    from benchmarks.timing import Series

    return Series(name, times=list(times), **more)


def test_a_ratio_is_of_the_medians():
    found = rows(a("bare", 1.0, 2.0, 9.0), a("pool", 0.1, 0.1, 5.0, baseline="bare", bound=0.05))
    assert found["pool"]["ratio"] == 0.05
    assert found["pool"]["holds"] is True


def test_a_missed_bound_is_said():
    found = rows(a("bare", 1.0), a("pool", 0.06, baseline="bare", bound=0.05))
    assert found["pool"]["holds"] is False


def test_a_bound_on_top_is_in_milliseconds():
    found = rows(a("bare", 0.010), a("exec", 0.030, baseline="bare", bound=15, extra_ms=True))
    assert found["exec"]["extra_ms"] == pytest.approx(20)
    assert found["exec"]["holds"] is False


def test_an_alternative_must_be_slower_by_its_factor():
    found = rows(a("pool", 0.001), a("uv", 0.060, baseline="pool", bound=-50))
    assert found["uv"]["holds"] is True


def test_what_was_skipped_says_why():
    assert rows(a("mamba", skipped="there is none"))["mamba"]["skipped"] == "there is none"


def test_the_table_shows_every_row(capsys: pytest.CaptureFixture[str]):
    from benchmarks.report import show

    found = rows(a("bare", 1.0, 2.0), a("mamba", skipped="there is none"))
    show(list(found.values()), {"runs_per_s": 10.0, "bound": 120, "starts": {"pool": 3}})
    printed = capsys.readouterr().out
    assert "there is none" in printed
    assert "1500.00" in printed
    assert "10 runs/s, bound 120 MISSED" in printed


async def test_the_first_round_is_not_kept():
    from benchmarks.timing import interleaved

    times = iter([9.0, 1.0, 2.0])

    async def action() -> float:
        return next(times)

    assert await interleaved({"x": action}, 2) == {"x": [1.0, 2.0]}


def test_the_command_says_what_it_does():
    done = subprocess.run([sys.executable, SCRIPTS / "bench", "--help"], capture_output=True, text=True, check=True)
    assert "--plot" in done.stdout
