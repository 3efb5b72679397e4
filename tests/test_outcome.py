"""From what was said and seen to a status: what the host saw outranks what the guest claims."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_conda_run.environments.provision import Provided
from mcp_conda_run.environments.templates import Template
from mcp_conda_run.errors import InstallError
from mcp_conda_run.models import Environment, Isolation, Limits, LockedPackage, Plan, PlannedPackage, RunError, Status
from mcp_conda_run.outcome import added_packages, finished, limit_text, not_installed
from mcp_conda_run.sandbox.conversation import Conversation
from mcp_conda_run.sandbox.record import GuestRecord
from mcp_conda_run.sandbox.tier import Exit, Launch

NETWORKX = LockedPackage(name="networkx", version="3.7", channel="conda-forge")
ENVIRONMENT = Environment(
    key="0" * 16,
    prefix=Path("/nowhere"),
    python_version="3.12.1",
    python="bin/python",
    modules={},
    stdlib=frozenset(),
    packages=(NETWORKX,),
    variables={},
)
PROVIDED = Provided(ENVIRONMENT, Template("base", Path("base.yml"), ("conda-forge",), ("python",)))
LIMITS = Limits(
    wall_s=5,
    cpu_s=0,
    memory_bytes=0,
    processes=0,
    disk_bytes=0,
    open_files=0,
    file_size_bytes=0,
    output_bytes=0,
)
LAUNCH = Launch(run_id="1" * 16, environment=ENVIRONMENT, mounts=(), limits=LIMITS)


def record(error: RunError | None = None) -> GuestRecord:
    return GuestRecord(value=None, error=error, exit_code=0, figures=(), mapped=0, notes=())


def said(exit_: Exit, claimed: GuestRecord | None, *, timed_out: bool = False) -> Conversation:
    return Conversation(
        exit=exit_,
        timed_out=timed_out,
        record=claimed,
        no_record="" if claimed else "none came",
        output="",
        stdout="",
        stderr="",
        dropped_bytes=0,
        ready_s=0,
        run_s=0,
    )


def verdict(exit_: Exit, claimed: GuestRecord | None, *, timed_out: bool = False) -> tuple[Status, str]:
    conversation = said(exit_, claimed, timed_out=timed_out)
    result = finished(conversation, Isolation("none"), plan=Plan(), provided=PROVIDED, launch=LAUNCH, notes=())
    return result.status, result.error.type if result.error else ""


CLAIMED = record(RunError("ValueError", "claimed"))


@pytest.mark.parametrize(
    ("exit_", "claimed", "timed_out", "expected"),
    [
        (Exit(0), record(), False, (Status.SUCCESS, "")),
        (Exit(1), CLAIMED, False, (Status.RUN_ERROR, "ValueError")),
        (Exit(3), None, False, (Status.RUN_ERROR, "SystemExit")),
        (Exit(None, "SIGSEGV"), None, False, (Status.RUN_ERROR, "Crash")),
        (Exit(None, "SIGKILL"), None, False, (Status.KILLED, "Crash")),
        (Exit(None, "SIGKILL", "memory"), CLAIMED, False, (Status.KILLED, "Killed")),
        (Exit(None, "SIGKILL"), record(), True, (Status.TIMEOUT, "Timeout")),
        (Exit(0), None, False, (Status.SUCCESS, "")),
    ],
)
def test_a_status_follows_from_what_was_seen(
    exit_: Exit, claimed: GuestRecord | None, timed_out: bool, expected: tuple[Status, str]
):
    assert verdict(exit_, claimed, timed_out=timed_out) == expected


@pytest.mark.parametrize(
    ("name", "text"), [("memory", "64 MiB"), ("cpu", "3 s"), ("processes", "9"), ("disk", "1 MiB")]
)
def test_a_limit_is_told_with_its_number(name: str, text: str):
    limits = replace(LIMITS, memory_bytes=64 * 2**20, cpu_s=3, processes=9, disk_bytes=2**20)
    assert limit_text(name, limits) == text


def test_an_installation_that_failed_keeps_the_solvers_reasons():
    error = InstallError("It cannot be solved.", details="a needs b", hint="Ask for less.", code="unsatisfiable")
    result = not_installed(error, run_id="1" * 16, timings_ms={})
    assert result.status is Status.INSTALL_ERROR
    assert result.error == RunError("unsatisfiable", "It cannot be solved.", "a needs b", "Ask for less.")


def test_added_packages_carry_the_version_that_was_installed():
    plan = Plan(packages=(PlannedPackage(spec="networkx", name="networkx", reason="because"),))
    [added] = added_packages(plan, PROVIDED)
    assert (added.version, added.channel, added.reason) == ("3.7", "conda-forge", "because")


def test_an_added_package_of_pypi_is_not_taken_for_condas_of_the_same_name():
    wheel = LockedPackage(name="my-graph", version="0.20", channel="pypi", manager="pypi")
    library = LockedPackage(name="my-graph", version="9.0", channel="conda-forge")
    provided = replace(PROVIDED, environment=replace(ENVIRONMENT, packages=(wheel, library)))
    [added] = added_packages(Plan(packages=(PlannedPackage("My_Graph", "My_Graph", "pypi"),)), provided)
    assert (added.version, added.channel) == ("0.20", "pypi")


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("[Errno 18] Invalid cross-device link: '/nowhere/lib/a' -> '/nowhere/lib/b'", "shutil.move"),
        ("[Errno 18] Invalid cross-device link: '/tmp/a' -> '/working/b'", ""),
        ("[Errno 27] File too large", "MCP_CONDA_RUN_FILE_SIZE_MB"),
        ("[Errno 28] No space left on device", "MCP_CONDA_RUN_DISK_MB"),
        ("[Errno 2] No such file or directory: 'x'", ""),
    ],
)
def test_what_a_program_only_meets_in_a_sandbox_is_explained(message: str, hint: str):
    conversation = said(Exit(1), record(RunError("OSError", message)))
    result = finished(conversation, Isolation("A"), plan=Plan(), provided=PROVIDED, launch=LAUNCH, notes=())
    assert result.error is not None
    assert (hint in result.error.hint) if hint else (result.error.hint == "")
