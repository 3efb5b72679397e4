"""What the autouse fixture `isolated` promises to every test."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from tests.support.channels import OUTER_ENVIRONMENT


def test_no_setting_comes_from_outside():
    assert [name for name in os.environ if name.startswith("MCP_CONDA_RUN_")] == ["MCP_CONDA_RUN_ENGINE"]


def test_bytecode_may_be_written():
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ


def test_the_home_is_not_the_real_one():
    assert str(Path.home()) != OUTER_ENVIRONMENT["HOME"]


def test_the_cache_directory_is_in_the_home():
    assert platformdirs.user_cache_path("x").is_relative_to(Path.home())
