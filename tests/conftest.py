"""Fixtures for all tests: isolation from the machine, real channels, and real prefixes (see support/README.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .support import channels, prefixes
from .support.http_channel import ChannelServer

FOREIGN_VARIABLES = ("MCP_CONDA_RUN_", "CONDA_", "MAMBA_", "RATTLER_")
KEPT_VARIABLES = {"MAMBA_EXE", "MCP_CONDA_RUN_ENGINE"}

# A micromamba of the machine is used by the tests of engines alone, unless all tests are to run with it.
os.environ["MCP_CONDA_RUN_ENGINE"] = os.environ.get("MCP_CONDA_RUN_TEST_ENGINE", "rattler")


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let no setting of the machine reach a test, and no test reach the real home."""
    for name in os.environ:
        if name.startswith(FOREIGN_VARIABLES) and name not in KEPT_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("CACHE", "CONFIG", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / f".{name.lower()}"))


@pytest.fixture(scope="session")
def small_channel() -> Path:
    """The small channel's directory: python, two numpys, pip, pyyaml, requests, six, and the awkward packages."""
    return channels.channel(channels.Wanted("small"), channels.cache_directory())


@pytest.fixture(scope="session")
def scientific_channel() -> Path:
    """The scientific channel's directory: all that the base template, GDAL and the usual snippets need."""
    return channels.channel(channels.Wanted("scientific"), channels.cache_directory())


@pytest.fixture
def http_channel() -> Iterator[Callable[[Path], ChannelServer]]:
    """Serve a directory over HTTP: `server = http_channel(small_channel)`; ends with the test."""
    with ExitStack() as servers:
        yield lambda directory: servers.enter_context(ChannelServer(directory))


@pytest.fixture(scope="session")
def small_prefix(small_channel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed prefix with python and numpy, for tests that only run something in one. Not to be written to."""
    root = tmp_path_factory.mktemp("small-prefix")
    prefixes.install(small_channel, root / "prefix", "python", "numpy", cache=root / "cache")
    return root / "prefix"


@pytest.fixture(scope="session")
def warm_small_cache(small_channel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory in which the template of `support.warm.small_settings` is ready. Tests may add to it."""
    from .support import warm  # late: tests of one room do not need all of the others

    return warm.warm(warm.small_settings(tmp_path_factory.mktemp("warm"), small_channel))


@pytest.fixture(scope="session")
def warm_scientific_cache(scientific_channel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory in which the shipped base template is ready. Tests may add to it."""
    from .support import warm  # late: tests of one room do not need all of the others

    return warm.warm(warm.scientific_settings(tmp_path_factory.mktemp("science"), scientific_channel))
