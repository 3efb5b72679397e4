"""The audit log: every run is in it, with what was installed for it, and without what may be secret."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys

import pytest

from mcp_conda_run.audit import AuditLog
from mcp_conda_run.errors import HostError, InstallError, RequestError
from mcp_conda_run.models import AddedPackage, Isolation, RunRequest, RunResult, Status, no_progress
from mcp_conda_run.witness import witnessed
from tests.server.real import environment
from tests.server.wire import started


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def watched(path, request: RunRequest, *, ends: RunResult | BaseException) -> list[dict]:
    """Return what is written down of a run that ends like this."""
    kind = type(ends) if isinstance(ends, BaseException) else ()
    try:
        with witnessed(AuditLog(path), request, no_progress, run_id="a1", client="10.0.0.1") as witness:
            if isinstance(ends, BaseException):
                raise ends
            witness.saw(ends)
    except kind:
        pass
    return lines(path)


def test_a_run_is_written_down_when_it_begins_and_when_it_ends(path):
    request = RunRequest(code="a secret", packages=("gdal",))
    began, ended = watched(path, request, ends=RunResult(status=Status.SUCCESS))
    assert (began["event"], began["packages"], began["code_bytes"]) == ("run-began", ["gdal"], 8)
    assert began["code_sha256"] == hashlib.sha256(b"a secret").hexdigest()
    assert (began["run_id"], began["client"]) == ("a1", "10.0.0.1")
    assert (ended["event"], ended["run_id"], ended["status"]) == ("run-ended", "a1", "success")


def test_code_arguments_and_output_are_not_in_it(path):
    result = RunResult(status=Status.SUCCESS, output="hunter2", stdout="hunter2")
    watched(path, RunRequest(code="hunter2"), ends=result)
    watched(path, RunRequest(file="/working/a.py", args=("hunter2",)), ends=result)
    assert "hunter2" not in path.read_text()
    assert lines(path)[2]["file"] == "/working/a.py"


@pytest.mark.parametrize("error", [RequestError("no"), InstallError("no"), HostError("no"), ZeroDivisionError("no")])
def test_a_run_that_was_refused_is_in_it_too(path, error):
    assert watched(path, RunRequest(code="x"), ends=error)[1]["status"] == "refused"


def test_a_cancelled_run_is_in_it_too(path):
    assert watched(path, RunRequest(code="x"), ends=asyncio.CancelledError())[1]["status"] == "cancelled"


def test_what_was_installed_is_in_it(path):
    gdal = AddedPackage("gdal", "3.11", "conda-forge", "osgeo", "override", "osgeo is part of gdal")
    result = RunResult(status=Status.SUCCESS, packages=(gdal,), isolation=Isolation("A", "none"), environment="e")
    ended = watched(path, RunRequest(code="x"), ends=result)[1]
    assert ended["installed"] == [
        {"name": "gdal", "version": "3.11", "channel": "conda-forge", "reason": "osgeo is part of gdal"}
    ]
    assert ended["isolation"] == {"tier": "A", "network": "none"}


def test_only_its_owner_reads_it(path):
    AuditLog(path).ended("a", 1, None, InstallError("no"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    with pytest.raises(HostError, match="cannot be written"):
        AuditLog(tmp_path / "absent" / "audit")


def test_nothing_begins_that_cannot_be_written_down(path):
    log = AuditLog(path)
    path.unlink()
    path.mkdir()
    with (
        pytest.raises(HostError, match=r"The audit log .* cannot be written"),
        witnessed(log, RunRequest(code="x"), no_progress, run_id="a1", client=""),
    ):
        pytest.fail("it began")


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AuditLog(None).began("a", "", RunRequest(code="1"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="runs need Linux")
def test_a_run_of_the_command_line_is_in_it_under_its_own_id(path, tmp_path, warm_small_cache, small_channel):
    variables = environment(warm_small_cache, small_channel, tmp_path) | {"MCP_CONDA_RUN_AUDIT_LOG": str(path)}
    command = [sys.executable, "-m", "mcp_conda_run", "run", "--json", "-c", "6 * 7"]
    done = subprocess.run(command, capture_output=True, check=True, env=os.environ | variables)
    run_id = json.loads(done.stdout)["run_id"]
    assert [(line["run_id"], line["event"]) for line in lines(path)] == [(run_id, "run-began"), (run_id, "run-ended")]


@pytest.mark.skipif(sys.platform != "linux", reason="runs need Linux")
def test_a_run_of_a_server_is_in_it_under_the_id_of_its_answer(path, tmp_path, warm_small_cache, small_channel):
    variables = environment(warm_small_cache, small_channel, tmp_path) | {"MCP_CONDA_RUN_AUDIT_LOG": str(path)}
    with started([sys.executable, "-m", "mcp_conda_run", "stdio"], variables) as wire:
        wire.initialize()
        run_id = wire.run("6 * 7")["structuredContent"]["run_id"]
    assert {line["run_id"] for line in lines(path)} == {run_id}
