"""The commands `templates` and `lock`, as a user types them, on the small channel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mcp_conda_run.cli import app
from mcp_conda_run.conda.engine import current_platform
from mcp_conda_run.conda.lockfile import read_lock

from ..support.warm import small_settings

HERE = current_platform()
Command = Callable[..., Result]


@pytest.fixture
def command(warm_small_cache: Path, small_channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    settings = small_settings(warm_small_cache, small_channel)
    monkeypatch.setenv("MCP_CONDA_RUN_CACHE_DIR", str(settings.cache_dir))
    monkeypatch.setenv("MCP_CONDA_RUN_CHANNELS", small_channel.as_uri())
    monkeypatch.setenv("MCP_CONDA_RUN_TEMPLATE", settings.template)
    monkeypatch.setenv("MCP_CONDA_RUN_TEMPLATES_DIR", str(tmp_path / "templates"))

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yml"
    path.write_text("# For nothing in particular.\n# imports: numpy\ndependencies: [python, pip, numpy]\n")
    return path


def by_name(result: Result) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(result.stdout)}


def test_the_list_says_of_each_template_whether_it_is_ready(command: Command) -> None:
    rows = by_name(command("templates", "--json"))
    (warm,) = [row for row in rows.values() if row["origin"] == "configured"]
    assert (warm["platforms"], warm["size_bytes"] > 10_000_000) == ([HERE], True)
    assert (rows["geo"]["environment"], rows["geo"]["lock"]) == (None, None)
    assert "rasterio" in rows["geo"]["imports"]


def test_a_template_of_the_users_is_added_shown_and_removed(command: Command, mine: Path) -> None:
    assert "kept as" in command("templates", "add", mine, "--name", "lab").stdout
    assert "For nothing in particular." in command("templates").stdout
    shown = command("templates", "show", "lab").stdout
    assert "lab (yours environment.yml)" in shown
    assert "dependencies: [python, pip, numpy]" in shown
    assert command("templates", "remove", "lab").exit_code == 0
    assert "lab" not in by_name(command("templates", "--json"))


def test_a_template_that_cannot_be_used_is_listed_with_the_reason(command: Command, mine: Path, tmp_path: Path) -> None:
    command("templates", "add", mine)
    (tmp_path / "templates" / "mine.yml").write_text("[")
    assert "is not YAML" in by_name(command("templates", "--json"))["mine"]["problem"]
    assert "is not YAML" in command("templates").stdout


def test_a_lock_is_written_beside_the_template_and_a_change_is_noticed(command: Command, mine: Path) -> None:
    done = command("lock", mine, "--platform", HERE, "--platform", "osx-arm64")
    lock = mine.with_name("mine.conda-lock.yml")
    assert f"Locked mine: {lock}" in done.stdout
    assert {package.subdir for package in read_lock(lock, "osx-arm64")} == {"osx-arm64", "noarch"}
    command("templates", "add", mine)
    lock.rename(mine.parent / "templates" / lock.name)
    assert by_name(command("templates", "--json"))["mine"]["stale"] == []
    (mine.parent / "templates" / mine.name).write_text("dependencies: [python, pip, 'numpy >=2']\n")
    assert by_name(command("templates", "--json"))["mine"]["stale"] != []
    assert "is stale" in command("templates", "show", "mine").stdout
    assert "is stale" in command("doctor").stdout
    assert "is stale" in command("warmup", "--template", "mine").stdout


def test_a_lock_keeps_its_platforms_when_it_is_made_again(command: Command, mine: Path) -> None:
    command("lock", mine, "--platform", "win-64")
    assert command("lock", mine).stdout.startswith("win-64:")


def test_conda_lock_reads_what_lock_wrote(command: Command, mine: Path, tmp_path: Path) -> None:
    command("lock", mine, "--platform", HERE, "--output", tmp_path / "out.yml")
    render = [sys.executable, "-m", "conda_lock", "render", "-k", "explicit", "-p", HERE]
    subprocess.run(
        [*render, "--filename-template", str(tmp_path / "{platform}.txt"), str(tmp_path / "out.yml")],
        check=True,
        capture_output=True,
    )
    assert "/numpy-" in (tmp_path / f"{HERE}.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--platform", "../etc"), "bad-request"),
        (("--update", "numpy"), "not-locked"),
        (("--platform", "linux-s390x"), "package-not-found"),
    ],
)
def test_what_cannot_be_locked_is_one_clear_error(
    command: Command, mine: Path, arguments: tuple[str, ...], code: str
) -> None:
    assert command("lock", mine, *arguments).exception.code == code


def test_a_lock_is_not_locked_again_but_can_be_written_as_another_kind(
    command: Command, mine: Path, tmp_path: Path
) -> None:
    command("lock", mine, "--platform", HERE)
    packages = read_lock(mine.with_name("mine.conda-lock.yml"), HERE)
    listed = tmp_path / "listed.txt"
    listed.write_text("\n".join(["@EXPLICIT", *(f"{package.url}#{package.md5}" for package in packages)]))
    assert command("lock", listed).exception.code == "already-locked"
    command("lock", listed, "--output", tmp_path / "again.yml")
    again = read_lock(tmp_path / "again.yml", HERE)
    assert [(p.url, p.sha256, p.md5) for p in again] == [(p.url, p.sha256, p.md5) for p in packages]


def test_warmup_says_what_a_template_serves_only_in_its_words(command: Command, mine: Path) -> None:
    mine.write_text("# imports: numpy, six\ndependencies: [python, pip, 'numpy >=2', mcr-prefix]\n")
    assert "had to be given six" in command("warmup", "--template", mine).stdout
