"""What the command line shows of long work."""

from __future__ import annotations

import pytest

from mcp_conda_run.models import Candidate, Progress, UnknownImport
from mcp_conda_run.terminal import Bar, Lines, about_unknown, amount, size


def test_where_no_terminal_is_a_phase_is_one_line(capsys: pytest.CaptureFixture[str]):
    with Lines() as show:
        for number in range(3):
            show(Progress("link", f"installed package {number}", number, 3, "packages"))
        show(Progress("compile", "compiling bytecode"))
    assert capsys.readouterr().err == "link: installed package 0 0 of 3 packages\ncompile: compiling bytecode\n"


def test_a_bar_shows_what_is_going_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Bar() as show:
        show(Progress("download", "fetching [numpy]", 1e6, 2e6, "bytes"))
        show(Progress("check", "looking"))
    shown = capsys.readouterr().err
    assert "fetching [numpy]" in shown or "looking" in shown


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress("x", "", 3, 40, "packages"), "3 of 40 packages"),
        (Progress("x", "", 1.5e6, 20e6, "bytes"), "1.5 of 20.0 MB"),
        (Progress("x", "", 3, 0, "packages"), ""),
    ],
)
def test_an_amount_is_written_for_a_person(progress: Progress, text: str):
    assert amount(progress) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (12_340_000, "12.3 MB"), (5e15, "5000.0 TB")]
)
def test_a_size_is_written_for_a_person(size_bytes: float, text: str):
    assert size(size_bytes) == text


def test_an_unknown_import_is_a_sentence_with_its_candidates():
    meant = Candidate("requests", "conda-forge", 0.8, "a like name")
    assert about_unknown(UnknownImport("reqeusts", "nothing is known", (meant,))) == (
        "reqeusts: nothing is known. Candidates: requests"
    )
    assert about_unknown(UnknownImport("zz", "See the setting.", ())) == "zz: See the setting."
