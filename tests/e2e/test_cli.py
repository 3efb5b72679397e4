"""The command line as a user has it: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..support.warm import small_settings

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(warm_small_cache: Path, small_channel: Path, tmp_path: Path) -> Command:
    settings = small_settings(warm_small_cache, small_channel)
    variables = {
        **os.environ,
        "MCP_CONDA_RUN_CACHE_DIR": str(settings.cache_dir),
        "MCP_CONDA_RUN_CHANNELS": settings.channels[0],
        "MCP_CONDA_RUN_TEMPLATE": settings.template,
    }

    def run(*args: str, stdin: str = "", **others: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mcp_conda_run", *args],
            env={**variables, **others},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=300,
        )

    return run


def test_code_prints_its_output_and_its_value(command: Command):
    done = command("run", "-c", "print('hello')\n[1, 2]")
    assert (done.returncode, done.stdout) == (0, "hello\n[1, 2]\n")


def test_code_may_come_from_standard_input(command: Command):
    assert command("run", "-", stdin="print(2 + 3)").stdout == "5\n"


def test_a_file_runs_beside_its_neighbours_with_its_arguments(command: Command, tmp_path: Path):
    (tmp_path / "data.txt").write_text("data")
    (tmp_path / "job.py").write_text("import sys\nprint(open('data.txt').read(), sys.argv[1:])")
    assert command("run", "job.py", "--", "-x", "1").stdout == "data ['-x', '1']\n"


def test_the_exit_code_is_the_codes_own(command: Command):
    assert command("run", "-c", "import sys; sys.exit(7)").returncode == 7


def test_a_traceback_goes_to_standard_error(command: Command):
    done = command("run", "-c", "1 / 0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "ZeroDivisionError" in done.stderr


def test_a_further_package_can_be_asked_for(command: Command):
    done = command("run", "--with", "mcr-two <2", "-c", "import mcr_two; print(mcr_two.version)")
    assert (done.returncode, done.stdout) == (0, "1.0\n")
    assert "added mcr-two 1.0" in done.stderr


def test_the_whole_result_can_be_had_as_json(command: Command):
    done = command("run", "--json", "-c", "import numpy\nnumpy.arange(3)")
    document = json.loads(done.stdout)
    assert (document["status"], document["value"]["json"]) == ("success", [0, 1, 2])


def test_a_timeout_is_told_by_the_exit_code(command: Command):
    assert command("run", "--timeout", "1", "-c", "while True: pass").returncode == 124


def test_packages_that_cannot_be_had_are_told_by_the_exit_code(command: Command):
    done = command("run", "--with", "mcr-unsat", "-c", "1")
    assert done.returncode == 3
    assert "mcr-does-not-exist" in done.stderr


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["run"], "Give a file, or code"),
        (["run", "-c", ""], "empty"),
        (["run", "nowhere.py"], "There is no file"),
        (["run", "--template", "nope", "-c", "1"], "no template"),
        (["run", "--isolation", "magic", "-c", "1"], "isolation"),
    ],
)
def test_a_wrong_request_is_one_sentence_with_a_hint(command: Command, args: list[str], why: str):
    done = command(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_says_what_and_why(command: Command):
    done = command("plan", "-c", "import requests, numpy")
    assert done.returncode == 0
    assert done.stdout.startswith("requests 2.")
    assert "to fetch" in done.stdout
    assert "numpy" not in done.stdout


def test_a_plan_for_what_is_there_says_so(command: Command):
    assert "Nothing to install" in command("plan", "-c", "import numpy").stdout


def test_a_second_warmup_changes_nothing(command: Command, warm_small_cache: Path):
    before = sorted((path, path.stat().st_mtime_ns) for path in (warm_small_cache / "envs").iterdir())
    done = command("warmup")
    assert (done.returncode, "was ready already" in done.stdout) == (0, True)
    assert sorted((path, path.stat().st_mtime_ns) for path in (warm_small_cache / "envs").iterdir()) == before


def test_a_first_warmup_proves_itself_with_a_run(command: Command, tmp_path: Path):
    done = command("warmup", "--all-platforms", MCP_CONDA_RUN_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "imported numpy, pip" in done.stdout
    assert "linux-64, osx-arm64, win-64" in done.stdout


def test_a_failed_warmup_says_why_and_leaves_no_environment(command: Command, tmp_path: Path):
    template = tmp_path / "bad.yml"
    template.write_text("dependencies: [python, mcr-unsat]\n")
    cache = tmp_path / "cache"
    done = command("warmup", "--template", str(template), MCP_CONDA_RUN_CACHE_DIR=str(cache))
    assert done.returncode == 3
    assert "mcr-does-not-exist" in done.stderr
    assert list((cache / "envs").glob("????????????????")) == []


def test_doctor_shows_engine_isolation_and_cache(command: Command):
    done = command("doctor")
    assert done.returncode == 0, done.stdout
    for topic in ("engine: rattler", "isolation: tier", "cache:", "template: small"):
        assert topic in done.stdout


def test_doctor_says_what_is_wrong(command: Command):
    done = command("doctor", MCP_CONDA_RUN_TEMPLATE="nope")
    assert done.returncode == 4
    assert "FAIL templates" in done.stdout


def test_clean_only_says_what_it_would_delete_if_asked(command: Command, tmp_path: Path):
    cache = tmp_path / "cache"
    (cache / "runs/deadbeef00000000").mkdir(parents=True)
    told = command("clean", "--dry-run", MCP_CONDA_RUN_CACHE_DIR=str(cache))
    assert "would delete" in told.stdout
    assert (cache / "runs/deadbeef00000000").exists()
    command("clean", MCP_CONDA_RUN_CACHE_DIR=str(cache))
    assert not (cache / "runs/deadbeef00000000").exists()


def test_clean_all_leaves_an_empty_cache_that_works_again(command: Command, tmp_path: Path):
    cache = str(tmp_path / "cache")
    assert command("run", "-c", "1", MCP_CONDA_RUN_CACHE_DIR=cache).returncode == 0
    assert command("clean", "--all", MCP_CONDA_RUN_CACHE_DIR=cache).returncode == 0
    assert [path for path in Path(cache).rglob("*") if path.is_file()] == []
    assert command("run", "-c", "1", MCP_CONDA_RUN_CACHE_DIR=cache).stdout == "1\n"


def test_the_version_is_printed(command: Command):
    from mcp_conda_run import __version__

    assert command("--version").stdout.strip() == __version__


def test_help_loads_neither_mcp_nor_conda():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mcp_conda_run.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in ('mcp', 'rattler', 'conda_lock', 'pydantic', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_further_directory_can_be_mounted_read_only(command: Command, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/in.txt").write_text("seven")
    code = "print(open('/data/in.txt').read())\nopen('/data/out.txt', 'w')"
    done = command("run", "--mount", "/work", "--mount", f"{tmp_path}/data:/data:ro", "-c", code)
    assert done.stdout == "seven\n"
    assert "Error" in done.stderr
    assert not (tmp_path / "data/out.txt").exists()


def test_any_setting_can_be_given_on_the_command_line(command: Command):
    done = command("--set", "max-code-kb=1", "run", "-c", "#" * 2000 + "\n1")
    assert done.returncode == 2
    assert "at most 1024" in done.stderr


def test_a_setting_that_does_not_exist_is_named(command: Command):
    done = command("--set", "nonsense=1", "run", "-c", "1")
    assert (done.returncode, "nonsense" in done.stderr) == (2, True)
