"""What options of the commands stand for, and which exclude each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_conda_run.commands.shared import conda_settings, settings_from
from mcp_conda_run.errors import RequestError


def test_who_names_a_micromamba_wants_it_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_CONDA_RUN_ENGINE", "rattler")
    settings = settings_from(**conda_settings(None, Path("/opt/micromamba"), None, None, None))
    assert settings.engine == "micromamba"


def test_an_engine_that_is_named_beside_a_micromamba_counts_more() -> None:
    assert conda_settings("auto", Path("/opt/micromamba"), None, None, None)["engine"] == "auto"


def test_without_options_the_settings_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_CONDA_RUN_ENGINE", "rattler")
    assert settings_from(**conda_settings(None, None, None, None, None)).engine == "rattler"


def test_a_prefix_and_a_name_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="same thing"):
        conda_settings(None, None, None, Path("/envs/mine"), "mine")


def test_a_prefix_and_a_template_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="or from a template"):
        settings_from(template="geo", **conda_settings(None, None, None, Path("/envs/mine"), None))
