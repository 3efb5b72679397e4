"""Which index serves, by the settings of ours, of uv and of pip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcp_conda_run.conda.pypi_index import Index, find_index

MIRROR = "https://mirror.example/simple"


@pytest.fixture
def configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory for configuration files of the user, and no index in the environment."""
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "uv").mkdir()
    (tmp_path / "pip").mkdir()
    return tmp_path


def test_our_own_setting_comes_first():
    assert find_index(MIRROR, {"UV_DEFAULT_INDEX": "https://other.example"}) == Index(MIRROR, "the setting pypi_index")


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"])
def test_the_users_variables_are_respected(variable: str):
    assert find_index("", {variable: MIRROR}) == Index(MIRROR, f"the variable {variable}")


def test_a_name_before_the_url_is_left_out():
    assert find_index("", {"UV_DEFAULT_INDEX": f"mine={MIRROR}?a=b"}).url == f"{MIRROR}?a=b"


@pytest.mark.parametrize(
    "text",
    [f'index-url = "{MIRROR}"', f'[[index]]\nurl = "{MIRROR}"\ndefault = true', f'[pip]\nindex-url = "{MIRROR}"'],
)
def test_the_users_configuration_of_uv_is_respected(configuration: Path, text: str):
    (configuration / "uv/uv.toml").write_text(text)
    assert find_index("", {}) == Index(MIRROR, str(configuration / "uv/uv.toml"))


def test_the_users_configuration_of_pip_is_respected(configuration: Path):
    (configuration / "pip/pip.conf").write_text(f"[global]\nindex-url = {MIRROR}\n")
    assert find_index("", {}) == Index(MIRROR, str(configuration / "pip/pip.conf"))


def test_an_extra_index_is_never_taken(configuration: Path):
    (configuration / "uv/uv.toml").write_text(f'extra-index-url = ["{MIRROR}"]\n[[index]]\nurl = "{MIRROR}"')
    (configuration / "pip/pip.conf").write_text(f"[global]\nextra-index-url = {MIRROR}\n")
    assert find_index("", {"UV_INDEX": MIRROR, "PIP_EXTRA_INDEX_URL": MIRROR}).url != MIRROR


@pytest.mark.parametrize("text", ["nonsense", "[index]\nurl = 3", "index = 5", "index = [7]", "\x00", "pip = 1"])
def test_a_configuration_that_cannot_be_read_counts_as_none(configuration: Path, text: str):
    (configuration / "uv/uv.toml").write_text(text)
    (configuration / "pip/pip.conf").write_text(f"{text}\n[global")
    assert find_index("", {}).url != MIRROR


def test_where_nobody_names_an_index_it_is_the_one_that_uv_uses_by_itself(configuration: Path):
    index = find_index("", {})
    assert index.source == "uv's default"
    assert index.url.startswith("https://")
    assert index.url.endswith("/simple")
