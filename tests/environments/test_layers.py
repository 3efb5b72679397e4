"""Stores in layers: one that everybody reads, and each user's own above it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from mcp_conda_run import RunRequest, Runtime
from mcp_conda_run.environments.store import Store
from mcp_conda_run.errors import SettingsError
from mcp_conda_run.models import Environment
from mcp_conda_run.settings import Settings, load_settings

from ..support import warm

SOMEBODY = 12345


@pytest.fixture
def above(small_channel: Path, warm_small_cache: Path, tmp_path: Path) -> Settings:
    """Settings with an empty cache above one in which the template is ready."""
    return warm.small_settings(tmp_path / "own", small_channel, store_layers=(str(warm_small_cache),))


async def test_an_environment_of_a_layer_is_used_as_it_is(above: Settings):
    async with Runtime(above) as runtime:
        result = await runtime.run(RunRequest(code="import numpy, sys; sys.prefix"))
    assert result.value is not None
    assert result.value.json.startswith(above.store_layers[0])
    assert "environment" in result.timings_ms
    assert Store(above.cache_dir).environments() == []


async def test_what_a_layer_lacks_is_made_in_the_own_store(above: Settings, warm_small_cache: Path):
    before = sorted(path.name for path in (warm_small_cache / "envs").iterdir())
    async with Runtime(above) as runtime:
        result = await runtime.run(RunRequest(code="import mcr_two, yaml; mcr_two.__file__", packages=("mcr-prefix",)))
    assert result.value is not None, result.error
    assert result.value.json.startswith(str(above.cache_dir))
    assert sorted(path.name for path in (warm_small_cache / "envs").iterdir()) == before


async def test_a_directory_that_is_no_store_is_one_clear_error(above: Settings, tmp_path: Path):
    settings = load_settings(cache_dir=above.cache_dir, store_layers=(str(tmp_path / "nothing"),))
    with pytest.raises(SettingsError, match="is no cache of mcp-conda-run"):
        async with Runtime(settings):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_environment_of_another_user_is_said_to_be_read_only(tmp_path: Path):
    own = Store(tmp_path / "cache")
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o755)
        theirs = Environment(
            key="0" * 16,
            prefix=Path(shared),
            python_version="3.12.1",
            python="bin/python",
            modules={},
            stdlib=frozenset(),
            packages=(),
            variables={},
        )
        assert own.read_only_note(theirs) == ()  # root may
        os.seteuid(SOMEBODY)
        try:
            (note,) = own.read_only_note(theirs)
        finally:
            os.seteuid(0)
    assert "belongs to another user" in note
