"""Which tier a machine allows, how that is remembered, and what each setting makes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mcp_conda_run.errors import HostError
from mcp_conda_run.sandbox import choose, probe
from mcp_conda_run.sandbox.choose import make_tier
from mcp_conda_run.sandbox.probe import Probe
from mcp_conda_run.settings import Settings

linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and Landlock are Linux's")


def chosen(monkeypatch: pytest.MonkeyPatch, cache: Path, found: Probe, isolation: str) -> str:
    """Return the tier for a machine that allows what `found` says."""
    monkeypatch.setattr(choose, "probe", lambda _: found)
    tier, _ = make_tier(Settings(cache_dir=cache, isolation=isolation))
    tier.close()
    return tier.name


@linux
def test_the_probe_finds_something_here_and_leaves_nothing(tmp_path: Path):
    found = probe.probe_now(tmp_path)
    assert found.best in {"A", "A'", "B", "C", "none"}
    assert list(tmp_path.iterdir()) == []


@linux
def test_every_tier_that_does_not_work_has_a_reason(tmp_path: Path):
    found = probe.probe_now(tmp_path)
    assert set(found.reasons) == {tier for tier, works in found.works.items() if not works}


@linux
def test_a_second_probe_is_answered_from_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = probe.probe(tmp_path)
    monkeypatch.setattr(probe, "probe_now", lambda _: pytest.fail("it was asked again"))
    assert probe.probe(tmp_path) == first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "other"}', '{"key": 1, "works": 2}'])
def test_a_remembered_answer_that_cannot_be_used_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
):
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "probe.json").write_text(text)
    monkeypatch.setattr(probe, "probe_now", lambda _: Probe({"A": True}, {}))
    assert probe.probe(tmp_path).best == "A"


def test_an_answer_from_before_a_change_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe, "probe_now", lambda _: Probe({"A": True}, {}))
    probe.probe(tmp_path)
    monkeypatch.setattr(probe, "probe_now", lambda _: Probe({"A": False}, {"A": "switched off"}))
    monkeypatch.setattr(probe.platform, "release", lambda: "another kernel")
    assert probe.probe(tmp_path).best == "none"


def test_a_cache_that_cannot_be_written_is_not_the_probes_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(probe, "probe_now", lambda _: Probe({"C": True}, {}))
    assert probe.probe(tmp_path / "file").best == "C"


def test_what_is_remembered_is_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe, "probe_now", lambda _: Probe({"A": False, "C": True}, {"A": "EPERM"}))
    probe.probe(tmp_path)
    data = json.loads((tmp_path / "sandbox" / "probe.json").read_text())
    assert (data["works"], data["reasons"]) == ({"A": False, "C": True}, {"A": "EPERM"})


@linux
@pytest.mark.parametrize("tier", ["A", "A'", "C", "none"])
def test_auto_takes_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str):
    names = ["A", "A'", "C"]
    works = {name: name == tier for name in names}
    assert chosen(monkeypatch, tmp_path, Probe(works, {}), "auto") == tier


@linux
@pytest.mark.parametrize("tier", ["A", "A'"])
def test_strict_accepts_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str):
    assert chosen(monkeypatch, tmp_path, Probe({tier: True}, {}), "strict") == tier


def test_strict_accepts_nothing_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(HostError, match="no way") as caught:
        chosen(monkeypatch, tmp_path, Probe({"A": False, "C": True}, {"A": "no way"}), "strict")
    assert caught.value.code == "isolation-unavailable"


def test_none_does_not_even_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choose, "probe", lambda _: pytest.fail("it was asked"))
    tier, reason = make_tier(Settings(cache_dir=tmp_path, isolation="none"))
    tier.close()
    assert (tier.name, reason) == ("none", "isolation none was asked for")


def test_the_reason_names_what_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choose, "probe", lambda _: Probe({"A": False}, {"A": "PermissionError: unshare"}))
    tier, reason = make_tier(Settings(cache_dir=tmp_path))
    tier.close()
    assert "unshare" in reason
