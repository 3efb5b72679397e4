"""The workflows of the public repository: they cannot run here, so linters look at them, offline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_conda_run.environments.templates import shipped_templates

GITHUB = Path(__file__).resolve().parents[1] / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCHEMAS = dict.fromkeys(WORKFLOWS, "vendor.github-workflows") | {GITHUB / "dependabot.yml": "vendor.dependabot"}


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(request.param.read_text())


def test_there_are_workflows_for_tests_for_conda_forge_and_for_locks() -> None:
    assert [path.stem for path in WORKFLOWS] == ["conda-forge", "locks", "tests"]


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_a_file_has_the_shape_that_github_asks_for(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[path], str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_security_linter_finds_nothing() -> None:
    linter = Path(sysconfig.get_path("scripts"), "zizmor")
    if not linter.exists():
        pytest.skip("zizmor has no wheel for this system")
    done = subprocess.run(
        [linter, "--offline", "--no-progress", "--format=plain", str(GITHUB)],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "GH_TOKEN"},
    )
    assert done.returncode == 0, done.stdout


def test_every_action_is_pinned_by_its_commit(workflow: dict[str, Any]) -> None:
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])


def test_every_job_says_what_it_may_and_ends_in_time(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"]
        assert job["timeout-minutes"] <= 90


def test_only_the_job_that_opens_the_pull_request_may_write() -> None:
    writing = {
        (path.stem, name)
        for path in WORKFLOWS
        for name, job in yaml.safe_load(path.read_text())["jobs"].items()
        if "write" in job["permissions"].values()
    }
    assert writing == {("locks", "propose")}


def test_every_template_that_such_a_machine_can_have_is_tried() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows" / "conda-forge.yml").read_text())["jobs"]
    assert set(jobs["templates"]["strategy"]["matrix"]["template"]) == set(shipped_templates()) - {"ml-cuda"}


def test_the_commands_in_the_workflows_are_commands_of_ours() -> None:
    from typer.main import get_command

    from mcp_conda_run.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    text = "".join(path.read_text() for path in WORKFLOWS)
    used = set(re.findall(r"^\s*(?:run: |- )?mcp-conda-run ([a-z-]+)", text, re.MULTILINE))
    assert used >= {"doctor", "get-micromamba", "lock", "run", "templates", "warmup"}
    assert used <= known
