"""The audit log: every run is in it, with what was installed for it, and without what may be secret."""

import hashlib
import json

import pytest

from mcp_conda_run.errors import HostError, InstallError
from mcp_conda_run.models import AddedPackage, Isolation, RunRequest, RunResult, Status
from mcp_conda_run.server.audit import AuditLog

from .conftest import serving, text


@pytest.fixture
def audited(settings, tmp_path):
    return settings.model_copy(update={"audit_log": tmp_path / "audit.jsonl"})


def lines(settings) -> list[dict]:
    return [json.loads(line) for line in settings.audit_log.read_text().splitlines()]


async def test_a_run_is_written_down_when_it_begins_and_when_it_ends(audited):
    async with serving(audited) as served:
        await served.call(python_code="echo a secret", packages=["gdal"])
    began, ended = lines(audited)
    assert (began["event"], began["packages"], began["code_bytes"]) == ("run-began", ["gdal"], 13)
    assert began["code_sha256"] == hashlib.sha256(b"echo a secret").hexdigest()
    assert (ended["event"], ended["run_id"], ended["status"]) == ("run-ended", began["run_id"], "success")


async def test_code_arguments_and_output_are_not_in_it(audited):
    async with serving(audited) as served:
        await served.call(python_code="echo hunter2")
        await served.call("run_python_file", file_path="/working/a.py", args=["hunter2"])
    assert "hunter2" not in audited.audit_log.read_text()
    assert lines(audited)[2]["file"] == "/working/a.py"


@pytest.mark.parametrize("code", ["bad", "broken", "uninstallable", "bug"])
async def test_a_run_that_was_refused_is_in_it_too(audited, code):
    async with serving(audited) as served:
        await served.call(python_code=code)
    assert lines(audited)[1]["status"] == "refused"


async def test_a_cancelled_run_is_in_it_too(audited):
    async with serving(audited) as served:
        await served.call(python_code="hold", wait_s=0)
    assert lines(audited)[1]["status"] == "cancelled"


def test_what_was_installed_is_in_it(tmp_path):
    log = AuditLog(tmp_path / "audit")
    gdal = AddedPackage("gdal", "3.11", "conda-forge", "osgeo", "override", "osgeo is part of gdal")
    result = RunResult(status=Status.SUCCESS, packages=(gdal,), isolation=Isolation("A", "none"), environment="e")
    log.ended("a", 1.5, result, None)
    (line,) = [json.loads(each) for each in (tmp_path / "audit").read_text().splitlines()]
    assert line["installed"] == [
        {"name": "gdal", "version": "3.11", "channel": "conda-forge", "reason": "osgeo is part of gdal"}
    ]
    assert line["isolation"] == {"tier": "A", "network": "none"}


def test_only_its_owner_reads_it(tmp_path):
    AuditLog(tmp_path / "audit").ended("a", 1, None, InstallError("no"))
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o600


def test_a_log_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    with pytest.raises(HostError, match="cannot be written"):
        AuditLog(tmp_path / "absent" / "audit")


async def test_nothing_runs_that_cannot_be_written_down(audited):
    async with serving(audited) as served:
        audited.audit_log.unlink()
        audited.audit_log.mkdir()
        answer = await served.call(python_code="echo x")
        assert served.runner.requests == []
        assert "audit-log: The audit log" in text(answer)
        audited.audit_log.rmdir()
        assert not (await served.call(python_code="echo x")).is_error


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AuditLog(None).began("a", "", RunRequest(code="1"))
    assert list(tmp_path.iterdir()) == []
