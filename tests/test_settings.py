"""Settings: the order of the sources, and one clear error for each that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mcp_conda_run.errors import RequestError, SettingsError
from mcp_conda_run.settings import MAX_CACHE_PATH, Settings, config_file, load_settings

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("MCP_CONDA_RUN_CONFIG", str(path))
    return path


def test_the_configuration_file_is_read(configured: Path):
    configured.write_text("slots = 7\nchannels = ['a', 'b']\n")
    assert (load_settings().slots, load_settings().channels) == (7, ("a", "b"))


def test_the_environment_wins_over_the_file(configured: Path, monkeypatch: pytest.MonkeyPatch):
    configured.write_text("slots = 7\n")
    monkeypatch.setenv("MCP_CONDA_RUN_SLOTS", "8")
    assert load_settings().slots == 8


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MCP_CONDA_RUN_SLOTS", "8")
    assert load_settings(slots=9).slots == 9


def test_an_option_that_is_not_given_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MCP_CONDA_RUN_TEMPLATE", "mine")
    assert load_settings(template=None).template == "mine"


def test_lists_come_comma_separated_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MCP_CONDA_RUN_CHANNELS", "conda-forge, bioconda")
    assert load_settings().channels == ("conda-forge", "bioconda")


@pytest.mark.parametrize(
    ("name", "value"),
    [("SLOTS", "none"), ("SLOTS", "0"), ("ENGINE", "conda"), ("MOUNT", "relative"), ("TIMEOUT_S", "-1")],
)
def test_a_value_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(f"MCP_CONDA_RUN_{name}", value)
    with pytest.raises(SettingsError, match=name.lower()) as caught:
        load_settings()
    assert f"MCP_CONDA_RUN_{name}" in caught.value.hint


@pytest.mark.parametrize("content", ["slots = ", "nonsense = 1\n", "\0"])
def test_a_configuration_file_that_cannot_be_used_is_named(configured: Path, content: str):
    configured.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(config_file()) in str(caught.value)


def test_a_cache_path_that_is_too_long_for_conda_is_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match="too long"):
        load_settings(cache_dir=tmp_path / ("x" * MAX_CACHE_PATH))


def test_a_request_cannot_have_more_time_than_the_maximum():
    assert Settings(max_timeout_s=10).limits(timeout_s=1000).wall_s == 10


def test_a_run_may_lower_its_bounds():
    assert Settings().limits(asked={"memory_mb": 100}).memory_bytes == 100 * 2**20


def test_a_run_may_raise_its_bounds_as_far_as_the_operator_allows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MCP_CONDA_RUN_MAX_LIMITS", "memory_mb=9000, disk_mb=5000")
    settings = load_settings()
    assert settings.limits(asked={"memory_mb": 9000}).memory_bytes == 9000 * 2**20
    with pytest.raises(RequestError, match="between 1 and 9000"):
        settings.limits(asked={"memory_mb": 9001})


@pytest.mark.parametrize("asked", [{"memory_mb": 10**9}, {"memory_mb": 0}, {"memory_mb": -1}, {"nonsense": 1}])
def test_a_bound_that_cannot_be_given_is_refused(asked: dict[str, float]):
    with pytest.raises(RequestError):
        Settings().limits(asked=asked)


def test_cpu_time_can_be_bounded_where_it_is_not_by_default():
    assert Settings().limits(asked={"cpu_s": 3}).cpu_s == 3


def settings_table() -> str:
    """Return the README's table of settings, made from the fields themselves."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = {
            "cache_dir": "the user's cache directory",
            "templates_dir": "`templates` beside the configuration file",
            "slots": "the number of cores",
        }.get(name)
        if default is None:
            value = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
            default = f"`{value}`" if str(value or "") or isinstance(value, bool | float) else ""
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_the_readme_lists_every_setting():
    found = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README.read_text(), re.DOTALL)
    assert found is not None
    assert found[1] == settings_table(), f"put this into the README:\n\n{settings_table()}"
