"""The documentation names what there is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mcp_conda_run.settings import Settings

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
