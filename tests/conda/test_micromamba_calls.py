"""What reaches micromamba: its arguments, its variables, its home, and nothing of the user's.

A program that writes down what it gets, and fails, is called in the place of micromamba.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_conda_run.conda.access import Access
from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.micromamba_calls import by_place
from mcp_conda_run.errors import CondaRunError

from .conftest import Program, stand_in

NOTE = """
[ "$2" = --help ] && exit 0
{{ for a in "$@"; do echo "arg $a"; done; /usr/bin/env; /bin/ls -l "$HOME"; /bin/cat "$HOME"/.mamba/auth/* 2>/dev/null;
  bash -c 'echo a script ran'; }} > {seen} 2>/dev/null
exit 1
"""


async def seen_by(program: Program, tmp_path: Path, cache: Path, channel: str, **options: Any) -> list[str]:
    """Let a program write down what a solve hands to it."""
    seen = tmp_path / "seen"
    engine = stand_in(program(NOTE.format(seen=seen)), cache, **options)
    with pytest.raises(CondaRunError):
        await engine.solve(SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform()))
    return seen.read_text().splitlines()


async def test_it_gets_the_channel_the_spec_and_what_keeps_the_users_settings_out(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    lines = await seen_by(program, tmp_path, cache, channel)
    arguments = [line.removeprefix("arg ") for line in lines if line.startswith("arg ")]
    assert arguments[0] == "create"
    assert {"-y", "--json", "--no-rc", "--override-channels", "--strict-channel-priority", "--dry-run"} <= set(
        arguments
    )
    assert arguments[arguments.index("-c") + 1] == channel
    assert Path(arguments[arguments.index("-p") + 1]).is_absolute()
    assert arguments[-1] == "mcr-clib"


async def test_its_home_its_caches_and_its_root_are_ours(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    lines = await seen_by(program, tmp_path, cache, channel)
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MAMBA_ROOT_PREFIX"):
        assert variables[name].startswith(str(cache)), name
    assert variables["CONDA_PKGS_DIRS"] == str(cache / "pkgs/micromamba/pkgs")


async def test_variables_of_the_user_do_not_reach_it(
    program: Program, tmp_path: Path, cache: Path, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CONDA_CHANNELS", "MAMBA_CHANNEL_ALIAS", "CONDARC", "PYTHONPATH", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "mine")
    assert not [line for line in await seen_by(program, tmp_path, cache, channel) if line.endswith("=mine")]


async def test_the_shells_on_its_path_run_no_script(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    lines = await seen_by(program, tmp_path, cache, channel)
    assert next(line for line in lines if line.startswith("PATH=")).startswith(f"PATH={cache}")
    assert "a script ran" not in lines


async def test_layers_come_behind_our_own_package_cache(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    lines = await seen_by(program, tmp_path, cache, channel, layers=[tmp_path / "layer"])
    assert f"CONDA_PKGS_DIRS={cache / 'pkgs/micromamba/pkgs'},{tmp_path / 'layer'}" in lines


async def test_credentials_reach_it_by_a_file_in_memory_and_not_by_its_command_line(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    access = Access()
    access.learn(["https://me:s3cret@host/c", "https://other/t/t0ken/c"])
    lines = await seen_by(program, tmp_path, cache, channel, access=access)
    assert not [line for line in lines if line.startswith("arg ") and ("s3cret" in line or "t0ken" in line)]
    given = json.loads(next(line for line in lines if line.startswith('{"host"')))
    assert given["other"] == {"type": "CondaToken", "token": "t0ken"}
    assert given["host"] == {"type": "BasicHTTPAuthentication", "user": "me", "password": "czNjcmV0"}


@pytest.mark.parametrize(
    "row", [{"channels": ["https://host:8443/c"]}, {"packages": [{"url": "https://host:8443/c/x.conda"}]}]
)
def test_credentials_count_for_the_ports_of_their_host_that_are_asked(row: dict[str, Any]) -> None:
    credential = {"user": "me", "password": "s3cret"}
    known = by_place({"credentials": {"host": credential}, **row})
    assert known == {"host": credential, "host:8443": credential}


def test_credentials_are_not_for_other_hosts() -> None:
    credential = {"token": "t0ken"}
    assert by_place({"credentials": {"host": credential}, "channels": ["https://other:8443/c"]}) == {"host": credential}


async def test_nothing_of_a_call_stays_but_the_caches(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    await seen_by(program, tmp_path, cache, channel)
    assert list((cache / "pkgs/micromamba/work").iterdir()) == []
