"""What `doctor` tells the administrator of a machine that could do better."""

from __future__ import annotations

import sys

import pytest

from mcp_conda_run.sandbox import advice as module
from mcp_conda_run.sandbox.advice import APPARMOR, MAX_NAMESPACES, PROFILE, USERNS_CLONE, advice
from mcp_conda_run.sandbox.probe import Probe

LESS = Probe({"A": False, "A'": False, "C": True}, {"A": "PermissionError"})

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the knobs are Linux's")


def told(found: Probe, knobs: dict[str, str], *, container: bool = False) -> str:
    return advice(found, read=lambda path: knobs.get(path, ""), exists=lambda _: container)


def test_the_best_needs_no_advice():
    assert told(Probe({"A": True}, {}), {APPARMOR: "1"}) == ""


@pytest.mark.parametrize(
    ("knob", "value", "command"),
    [
        (APPARMOR, "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
        (APPARMOR, "1", "/etc/apparmor.d/mcp-conda-run"),
        (APPARMOR, "1", "/etc/apparmor.d/bwrap-userns-restrict"),
        (USERNS_CLONE, "0", "kernel.unprivileged_userns_clone=1"),
        (MAX_NAMESPACES, "0", "user.max_user_namespaces=15000"),
    ],
)
def test_a_knob_that_forbids_namespaces_is_named_with_the_command(knob: str, value: str, command: str):
    assert command in told(LESS, {knob: value})


def test_who_has_tier_b_already_is_not_told_how_to_get_it():
    have = Probe({"A": False, "A'": False, "B": True}, {"A": "PermissionError"})
    assert "bwrap" not in told(have, {APPARMOR: "1"})
    assert "/etc/apparmor.d/mcp-conda-run" in told(have, {APPARMOR: "1"})


def test_a_knob_that_allows_them_is_not_named(monkeypatch: pytest.MonkeyPatch):
    assert "sysctl" not in told(LESS, {APPARMOR: "0", USERNS_CLONE: "1", MAX_NAMESPACES: "15000"})


def test_a_profile_that_holds_the_server_is_named_with_the_rule_that_it_lacks():
    text = told(LESS, {PROFILE: "lab-python (enforce)"})
    assert "`lab-python`" in text
    assert "`userns,`" in text


@pytest.mark.parametrize("profile", ["unconfined", "lab-python (complain)", ""])
def test_a_profile_that_forbids_nothing_is_not_named(profile: str):
    assert "userns," not in told(LESS, {PROFILE: profile})


def test_in_a_container_its_options_are_the_advice_and_not_its_profile():
    assert "docker-default" not in told(LESS, {PROFILE: "docker-default (enforce)"}, container=True)


def test_a_container_gets_the_options_it_lacks():
    assert "--security-opt seccomp=unconfined" in told(LESS, {}, container=True)


def test_an_old_kernel_gets_a_newer_one_as_advice():
    assert "6.6" in told(Probe({"A": False, "A'": True}, {"A": "I/O error"}), {})


def test_another_platform_is_told_to_use_linux(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert "Linux" in told(Probe({}, {"A": "namespaces are Linux's"}), {})


def test_jobs_are_said_to_wall_off_nothing():
    said = advice(Probe({"job": True}, {"A": "namespaces are Linux's"}))
    assert "walls off neither files nor network" in said
    assert "not yet on real machines" in said
    assert "WSL2" in said
